"""New connections with few and with many Services installed: ``run.py sizes``.

Each size has a control plane of its own, and each contestant a stand of its own in each size; all are alive at once, so
that the ratio of two sizes is one of the same round.
"""

from __future__ import annotations

import argparse
import functools
import random
import time
from collections.abc import Sequence
from typing import Any

import bigcluster
import evidence
import limits
import proxies
import results
import rounds
import scenarios
import tables
from bigcluster import Size
from load import LoadTool
from processes import BenchError
from proxies import BASE
from results import Sheet
from rich.console import Console
from rounds import Clock, Place, Samples
from scenarios import Scenario
from stands import BACKEND_PORT, SERVICE_PORT, Plane, Stands, enter_hub

_SIZES = (1, 1_000, 10_000)
_CONTESTANTS = (BASE, "kube-proxy-iptables-legacy", "kube-proxy-nftables", "spliceway")
_SCENARIOS = ("newconn", "first")
#: Services that are asked, drawn at random from all, so that the place of a rule is random
_ASKED = 64
_SEED = 5
#: until all Services are served; tools on top of nftables need a minute or two for 10,000
_SYNC_SECONDS = 300.0
#: the CPU time of everything that idles is looked at for so long
_IDLE_SECONDS = 5.0

#: samples by size
BySize = dict[int, Samples]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py sizes``."""
    results.add_run_argument(parser)
    known = [name for name, kind in proxies.ALL.items() if kind.follows_api]
    parser.add_argument("--rounds", type=int, default=7, help="rounds (7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of each measurement (1)")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(_SIZES), help="how many Services (1 1000 10000)")
    parser.add_argument(
        "--contestants",
        nargs="+",
        default=list(_CONTESTANTS),
        choices=known,
        metavar="NAME",
        help=f"of {', '.join(known)}",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Measure all sizes and write results/sizes.json. Returns 1 when any round had an error."""
    enter_hub()
    limits.raise_open_files()
    facts = results.machine()
    chosen = [scenarios.ALL[name] for name in _SCENARIOS]
    kinds, missing = proxies.find(options.contestants)
    with Stands(LoadTool.build(), len(kinds) * len(options.sizes)) as stands:
        cluster = ManySizes(stands, options.sizes, kinds, console)
        cluster.start()
        idle = idle_cpus()
        console.print(f"all are served; everything together uses {idle:.2f} CPUs while it idles", highlight=False)
        samples = cluster.run_rounds(chosen, options.rounds, options.seconds)
        versions = {place.contestant.name: place.contestant.version() for place in cluster.of(options.sizes[0])}
    absent = {size: {**missing, **cluster.absent[size]} for size in options.sizes}
    sheets = [tables.figures(samples[size], chosen, BASE, counted(size)) for size in options.sizes]
    sheets.append(growth(samples, chosen))
    notes = [
        f"{options.rounds} rounds of {options.seconds:g} s; up to {_ASKED} Services drawn at random are asked",
        f"with all control planes and proxies running, {idle:.2f} CPUs were in use between measurements",
        *(f"{name}: {version}" for name, version in versions.items() if version),
        *(
            f"{name} with {counted(size)} did not take part: {why}"
            for size in options.sizes
            for name, why in absent[size].items()
        ),
    ]
    results.show(sheets, notes, console)
    data = {
        "machine": facts,
        "versions": versions,
        "absent": missing,
        "options": vars(options),
        "idle_cpus": idle,
        "sync": cluster.synced,
        "sizes": {str(size): {"samples": samples[size], "absent": absent[size]} for size in options.sizes},
    }
    text = results.document("New connections with few and with many Services", facts, sheets, notes)
    console.print(f"written: {results.save('sizes', data, text, options.run)}")
    return int(any(rounds.any_error(each) for each in samples.values()))


class ManySizes:
    """The control planes and contestants of all sizes. ``absent`` are those that were not ready in time, with why.

    ``synced`` has the seconds from the start of a contestant until it served all that was asked.
    """

    def __init__(
        self, stands: Stands, sizes: Sequence[int], kinds: Sequence[type[proxies.Contestant]], console: Console
    ) -> None:
        self.absent: dict[int, dict[str, str]] = {size: {} for size in sizes}
        self.synced: dict[int, dict[str, float]] = {size: {} for size in sizes}
        self._stands = stands
        self._console = console
        self._places: dict[int, list[Place]] = {}
        self._asked: dict[int, list[str]] = {}
        dice = random.Random(_SEED)
        free = iter(stands.stands)
        for size in sizes:
            self._places[size] = [
                Place(kind(bigcluster.vip(0)), stand) for kind, stand in zip(kinds, free, strict=False)
            ]
            numbers = dice.sample(range(size), min(_ASKED, size))
            self._asked[size] = [f"{bigcluster.vip(number)}:{SERVICE_PORT}" for number in numbers]

    def of(self, size: int) -> list[Place]:
        """The contestants of a size that take part."""
        return self._places[size]

    def start(self) -> None:
        """Create all objects, then start the contestants of each size and wait until they serve."""
        for size, places in self._places.items():
            begun = time.monotonic()
            plane = self._stands.plane(str(size), [place.stand for place in places])
            bigcluster.fill(plane.api, Size(size, 1))
            self._console.print(f"{counted(size)} created in {time.monotonic() - begun:.0f} s", highlight=False)
            for place in places:
                self._stands.start_backend(place.stand, 0, [f"0.0.0.0:{BACKEND_PORT}"])
            for place in places:
                self._start(size, place, plane)
            self._places[size] = [place for place in places if place.contestant.name not in self.absent[size]]

    def _start(self, size: int, place: Place, plane: Plane) -> None:
        """One at a time: several first syncs at once would take longer than all after each other."""
        contestant, stand = place
        last = f"{bigcluster.vip(size - 1)}:{SERVICE_PORT}"
        try:
            contestant.start(stand, self._stands, plane.kubeconfig)
            child = contestant.child
            if child is None:
                raise BenchError(f"{contestant.name} has no process")
            for target in (last, *self._asked[size]):
                serves = functools.partial(self._stands.answers, stand, [target])
                child.wait_until(serves, f"serving {target}", _SYNC_SECONDS, step=0.25)
            self.synced[size][contestant.name] = time.monotonic() - child.started
        except BenchError as error:
            self.absent[size][contestant.name] = " ".join(str(error).split())
            if contestant.child:
                contestant.child.stop()
        said = self.absent[size].get(contestant.name) or f"serves after {self.synced[size][contestant.name]:.1f} s"
        self._console.print(f"{counted(size)}: {contestant.name} {said}", highlight=False, markup=False)

    def run_rounds(self, chosen: Sequence[Scenario], turns: int, seconds: float) -> BySize:
        """Every contestant of every size once in each round of each scenario; who begins changes."""
        everyone = [(size, place) for size, places in self._places.items() for place in places]
        samples: BySize = {
            size: {scenario.name: {place.contestant.name: [] for place in places} for scenario in chosen}
            for size, places in self._places.items()
        }
        clock = Clock(turns * len(chosen) * len(everyone))
        for turn in range(turns):
            for position, scenario in enumerate(chosen):
                for size, place in rounds.rotated(everyone, turn + position):
                    sample = rounds.measure(self._stands, place, scenario, seconds, self._asked[size])
                    samples[size][scenario.name][place.contestant.name].append(sample)
                    clock.step()
                for size, places in self._places.items():
                    own = samples[size][scenario.name]
                    latest = {place.contestant.name: own[place.contestant.name][-1] for place in places}
                    what = f"round {turn + 1}/{turns}  {scenario.name}, {counted(size)}"
                    rounds.tell(self._console, what, scenario.unit, latest, clock)
        return samples


def counted(size: int) -> str:
    """So many Services, in words."""
    return f"{size:,} Service{'' if size == 1 else 's'}"


def idle_cpus() -> float:
    """CPUs in use while nothing is measured."""
    before, begun = rounds.machine_seconds(), time.monotonic()
    time.sleep(_IDLE_SECONDS)
    return (rounds.machine_seconds() - before) / (time.monotonic() - begun)


def growth(samples: BySize, chosen: Sequence[Scenario]) -> Sheet:
    """What more Services cost a contestant: its figure to its own with the fewest, in the same round."""
    fewest, *more = sorted(samples)
    columns = ("scenario", "contestant", *(f"{size:,} ÷ {counted(fewest)}" for size in more))
    sheet = Sheet("Ratio to the figure with the fewest Services", columns)
    for scenario in chosen:
        for name, own in samples[fewest][scenario.name].items():
            others: list[Any] = [samples[size][scenario.name].get(name, []) for size in more]
            sheet.add(scenario.title, name, *(tables.cell(evidence.ratios(other, own)) for other in others))
    return sheet
