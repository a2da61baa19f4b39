"""Traffic through every way to reach a Service, few Services: ``run.py services`` and, shorter, ``run.py quick``."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import evidence
import limits
import manifests
import proxies
import results
import rounds
import scenarios
import tables
from load import LoadTool
from processes import BenchError
from proxies import BASE
from rich.console import Console
from rounds import Place, Samples
from scenarios import Scenario
from stands import BACKEND_PORT, PODS, SERVICE_PORT, VIP, Plane, Stands, enter_hub

_QUICK_CONTESTANTS = ("direct", BASE, "haproxy", "spliceway", "spliceway-bind")
_QUICK_SCENARIOS = ("bulk1", "bulk4", "keepalive", "newconn", "udp-flow")
#: whose rate of keep-alive requests sets the pace of the scenario `latency`: half of it
_PACE = "haproxy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py services``."""
    _add_arguments(parser, 7, list(proxies.ALL), list(scenarios.ALL))


def add_quick_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py quick``: the same with other defaults."""
    _add_arguments(parser, 3, _QUICK_CONTESTANTS, _QUICK_SCENARIOS)


def _add_arguments(
    parser: argparse.ArgumentParser, turns: int, contestants: Sequence[str], chosen: Sequence[str]
) -> None:
    results.add_run_argument(parser)
    parser.add_argument("--rounds", type=int, default=turns, help=f"rounds ({turns})")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of each measurement (1)")
    parser.add_argument(
        "--only",
        nargs="+",
        default=list(chosen),
        choices=list(scenarios.ALL),
        metavar="SCENARIO",
        help=f"of {', '.join(scenarios.ALL)}",
    )
    parser.add_argument(
        "--contestants",
        nargs="+",
        default=list(contestants),
        choices=list(proxies.ALL),
        metavar="NAME",
        help=f"of {', '.join(proxies.ALL)}",
    )


class Outcome(NamedTuple):
    """What came of it. ``absent``: why others did not take part. ``pace``: requests per second of `latency`."""

    samples: Samples
    versions: dict[str, str]
    absent: dict[str, str]
    pace: int | None
    logs: dict[str, list[str]]


def run(options: argparse.Namespace, console: Console) -> int:
    """Run all scenarios and write the results. Returns 1 when any round had an error."""
    enter_hub()
    limits.raise_open_files()
    chosen = [scenarios.ALL[name] for name in options.only]
    facts = results.machine()
    outcome = collect(options, chosen, console)
    no_udp = [name for name in outcome.versions if not proxies.ALL[name].udp]
    sheets = [
        tables.figures(outcome.samples, chosen, BASE),
        tables.costs(outcome.samples, chosen),
        tables.latencies(outcome.samples, chosen),
    ]
    notes = [
        f"{options.rounds} rounds of {options.seconds:g} s; one Service with three endpoints",
        *([f"latency: {outcome.pace:,} requests/s"] if outcome.pace else []),
        *([f"carry no UDP: {', '.join(no_udp)}"] if no_udp else []),
        *(f"{name}: {version}" for name, version in outcome.versions.items() if version),
        *(f"{name} did not take part: {why}" for name, why in outcome.absent.items()),
    ]
    results.show(sheets, notes, console)
    data = {
        "machine": facts,
        "versions": outcome.versions,
        "absent": outcome.absent,
        "no_udp": no_udp,
        "options": {**vars(options), "pace": outcome.pace},
        "samples": outcome.samples,
        "logs": outcome.logs,
    }
    text = results.document("Traffic through every way to reach a Service", facts, sheets, notes)
    console.print(f"written: {results.save(options.command, data, text, options.run)}")
    return int(rounds.any_error(outcome.samples))


def collect(options: argparse.Namespace, chosen: Sequence[Scenario], console: Console) -> Outcome:
    """Start everything, and take all samples."""
    kinds, absent = proxies.find(options.contestants)
    with Stands(LoadTool.build(), len(kinds)) as stands:
        plane = stands.plane()
        create_service(plane)
        present = []
        for kind, stand in zip(kinds, stands.stands, strict=True):
            place = Place(kind(), stand)
            try:
                start(stands, place, plane)
            except BenchError as error:
                absent[kind.name] = f"it did not start: {' '.join(str(error).split())}"
            else:
                present.append(place)
        for name, why in absent.items():
            console.print(f"{name} does not take part: {why}", style="yellow", markup=False, soft_wrap=True)
        versions = {place.contestant.name: place.contestant.version() for place in present}
        pace = find_pace(stands, present) if scenarios.LATENCY in chosen else None
        paced = [each.at_rate(pace) if pace and each == scenarios.LATENCY else each for each in chosen]
        samples = rounds.run_rounds(
            present,
            paced,
            options.rounds,
            lambda place, scenario: rounds.measure(stands, place, scenario, options.seconds),
            console,
        )
        logs = {place.contestant.name: log_of(place) for place in present if place.contestant.child}
    return Outcome(samples, versions, absent, pace, logs)


def create_service(plane: Plane) -> None:
    """One Service, TCP and UDP on the same port, and its slice."""
    service = manifests.service("bench", VIP, SERVICE_PORT)
    slice_ = manifests.endpoint_slice("bench", PODS, BACKEND_PORT)
    for body in (service, slice_):
        plane.api.create(manifests.for_api(manifests.with_udp(body)))


def start(stands: Stands, place: Place, plane: Plane) -> None:
    """Start the backends and the contestant, and wait until a client has an answer."""
    stands.start_backends(place.stand)
    place.contestant.start(place.stand, stands, plane.kubeconfig)
    place.contestant.await_answer(place.stand, stands)


def find_pace(stands: Stands, present: Sequence[Place]) -> int:
    """Requests per second for `latency`: half of what `_PACE` reaches, or else who comes first.

    Raises:
        BenchError: nobody takes part, or that one's requests fail.
    """
    by_name = {place.contestant.name: place for place in reversed(present)}
    place = by_name.get(_PACE) or by_name.get(BASE) or next(iter(reversed(by_name.values())), None)
    if place is None:
        raise BenchError("no contestant takes part")
    samples = [rounds.measure(stands, place, scenarios.ALL["keepalive"], 0.5) for _ in range(3)]
    if not (reached := evidence.good(samples)):
        raise BenchError(f"{place.contestant.name} cannot set the pace of latency: {samples[-1]['errors']}")
    return int(statistics.median(reached) / 2)


def log_of(place: Place) -> list[str]:
    """How the contestant's log begins and ends."""
    child = place.contestant.child
    lines = child.log.read_text(errors="replace").splitlines() if child else []
    return lines if len(lines) <= 60 else [*lines[:40], "...", *lines[-20:]]
