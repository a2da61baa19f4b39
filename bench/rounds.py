"""Rounds: every contestant once in every scenario, in changing order; each measurement is one sample."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from evidence import voids
from processes import BenchError
from proxies import Contestant
from results import number
from rich.console import Console
from scenarios import Scenario
from stands import SOURCES, Stand, Stands

from support.namespace import NamespaceError

#: seconds of load before the figures count
WARMUP = 0.2

#: One measurement: ``value``; ``errors`` by kind (any makes the sample void); ``void``, the void ones that its turn
#: had before it; the whole ``report`` of the load tool, {} when there is none; ``cpu_process`` and ``cpu_machine``
#: in seconds, spent in ``cpu_window`` seconds of load; ``cpu_cost``, the same two for each unit of the scenario's work;
#: ``memory`` in bytes; ``conntrack``, the entries that are left on the node.
Sample = dict[str, Any]
#: samples by scenario and contestant, one for each round
Samples = dict[str, dict[str, list[Sample]]]


_Any = TypeVar("_Any")


class Place(NamedTuple):
    """A contestant that runs, and where."""

    contestant: Contestant
    stand: Stand


def measure(stands: Stands, place: Place, scenario: Scenario, seconds: float, targets: Sequence[str] = ()) -> Sample:
    """One sample on ``targets`` (default: the contestant's).

    A void one is told, kept and taken once more, or a mishap in one round of seven would leave nothing to be judged.
    """
    sample = _measure(stands, place, scenario, seconds, targets)
    if sample["errors"]:
        return {**_measure(stands, place, scenario, seconds, targets), "void": [sample]}
    return sample


def _measure(stands: Stands, place: Place, scenario: Scenario, seconds: float, targets: Sequence[str]) -> Sample:
    """A failure of whatever takes part makes a void sample."""
    contestant, stand = place
    arguments = [*scenario.arguments, "--seconds", str(seconds), "--warmup", str(WARMUP)]
    if scenario.name == "udp-new":
        arguments += ["--sources", ",".join(SOURCES)]
    child = contestant.child
    try:
        stands.forget(stand)
        machine, process = machine_seconds(), child.cpu_seconds() if child else 0.0
        report = stands.measure(stand, arguments, targets or contestant.targets())
        machine = machine_seconds() - machine
        if child:
            child.check()
        process = child.cpu_seconds() - process if child else 0.0
    except (BenchError, NamespaceError, OSError) as error:
        return {"value": 0.0, "errors": {"failed": 1}, "failure": str(error), "report": {}}
    sample: Sample = {"value": scenario.value(report), "errors": report.errors, "report": report.as_dict()}
    sample |= {"cpu_process": process, "cpu_machine": machine, "cpu_window": report.seconds + WARMUP}
    if work := scenario.work(report):
        counted = report.seconds / sample["cpu_window"] / work
        sample["cpu_cost"] = {"process": process * counted, "machine": machine * counted}
    if child:
        sample["memory"] = child.memory()
    sample["conntrack"] = stands.conntrack(stand)
    return sample


def machine_seconds() -> float:
    """CPU time that the machine has spent on anything, all CPUs together."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]]
    user, nice, system, _idle, _iowait, irq, softirq = fields
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def run_rounds(
    present: Sequence[Place],
    chosen: Sequence[Scenario],
    rounds: int,
    take: Callable[[Place, Scenario], Sample],
    console: Console,
) -> Samples:
    """Take a sample of every contestant in every scenario that it takes part in, in each round.

    Who begins changes with rounds and scenarios.
    """
    entrants = {
        scenario.name: [place for place in present if scenario.takes(place.contestant.name, udp=place.contestant.udp)]
        for scenario in chosen
    }
    samples: Samples = {name: {place.contestant.name: [] for place in own} for name, own in entrants.items()}
    clock = Clock(rounds * sum(map(len, entrants.values())))
    for turn in range(rounds):
        for position, scenario in enumerate(chosen):
            own = entrants[scenario.name]
            for place in rotated(own, turn + position):
                samples[scenario.name][place.contestant.name].append(take(place, scenario))
                clock.step()
            latest = {place.contestant.name: samples[scenario.name][place.contestant.name][-1] for place in own}
            tell(console, f"round {turn + 1}/{rounds}  {scenario.name}", scenario.unit, latest, clock)
    return samples


def rotated(places: Sequence[_Any], by: int) -> list[_Any]:
    """All, beginning with another one each turn."""
    start = by % len(places) if places else 0
    return [*places[start:], *places[:start]]


def tell(console: Console, what: str, unit: str, latest: dict[str, Sample], clock: Clock) -> None:
    """One line on who got what, and how long it will go on."""
    figures = "  ".join(
        f"{name} VOID {sample.get('failure') or sample['errors']}"
        if sample["errors"]
        else f"{name} {number(sample['value'])}{' (VOID before)' if voids(sample) else ''}"
        for name, sample in latest.items()
    )
    console.print(f"{what} [{unit}]  {figures}  ({clock.left()})", highlight=False, soft_wrap=True, markup=False)


class Clock:
    """Tells how long the steps that are left will take."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._start = time.monotonic()

    def step(self) -> None:
        """One is done."""
        self._done += 1

    def left(self) -> str:
        """As a person would say it."""
        seconds = (time.monotonic() - self._start) / max(1, self._done) * (self._steps - self._done)
        return f"{math.ceil(seconds / 60)} min left" if seconds > 90 else f"{seconds:.0f} s left"


def any_error(samples: Samples) -> bool:
    """Whether any measurement had an error."""
    return any(voids(sample) for by_name in samples.values() for own in by_name.values() for sample in own)
