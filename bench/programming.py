"""How soon thousands of Services are served and changes take effect, next to kube-proxy: ``run.py programming``."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import bigcluster
import limits
import proxies
import results
from bigcluster import Size
from load import LoadTool
from proxies import Contestant
from reaction import Place, one_turn
from results import Sheet, Spread, quantile
from rich.console import Console
from stands import Plane, Stands, enter_hub

#: not among them unless asked for: kube-proxy-iptables, whose tools on top of nftables need about a minute for 20,000
#: endpoints and, as it grows with their square, most of an hour for 100,000
CONTESTANTS = ("kube-proxy-iptables-legacy", "kube-proxy-nftables", "spliceway")

#: goals of spliceway with 10,000 Services: seconds and bytes
GOALS_SERVICES = 10_000
GOALS = {
    "start": 3.0,
    "memory": 150e6,
    "change_event_p99": 0.010,
    "change_write_p99": 0.050,
    "service_event_p99": 0.020,
}

#: what one contestant did in its turns
Outcomes = dict[str, list[dict[str, Any]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py programming``."""
    results.add_run_argument(parser)
    known = [name for name, kind in proxies.ALL.items() if kind.follows_api]
    sizes = [1000, 10_000]
    parser.add_argument("--services", type=int, nargs="+", default=sizes, help="how many, one size each (1000 10000)")
    parser.add_argument("--endpoints", type=int, default=10, help="endpoints of each (10)")
    parser.add_argument("--changes", type=int, default=60, help="changes of an endpoint in each turn (60)")
    parser.add_argument("--new", type=int, default=30, help="new Services in each turn (30)")
    parser.add_argument("--turns", type=int, default=1, help="turns: each starts every contestant once (1)")
    parser.add_argument("--pause", type=float, default=1.1, help="seconds between changes (1.1)")
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS, choices=known, metavar="NAME")


def run(options: argparse.Namespace, console: Console) -> int:
    """Measure each size and write results/programming.json, where other sizes of earlier runs stay.

    Returns 1 when a Service was not served after the start.
    """
    enter_hub()
    limits.raise_open_files()
    load = LoadTool.build()
    kinds, absent = proxies.find(options.contestants)
    sizes = earlier(options.run)
    for services in options.services:
        facts = results.machine()
        outcomes = one_size(load, kinds, Size(services, options.endpoints), options, console)
        versions = {kind.name: kind().version() for kind in kinds}
        sizes[str(services)] = {
            "machine": facts,
            "endpoints": options.endpoints,
            "versions": versions,
            "absent": absent,
            "outcomes": outcomes,
            "goals": judge(outcomes.get("spliceway", [])) if services == GOALS_SERVICES else [],
        }
    sizes = {services: sizes[services] for services in sorted(sizes, key=int)}
    sheets = [summarize(int(services), size) for services, size in sizes.items()]
    notes = explain(options, sizes)
    results.show(sheets, notes, console)
    data = {"machine": facts, "sizes": sizes}
    text = results.document("Programming latency", facts, sheets, notes)
    console.print(f"written: {results.save('programming', data, text, options.run)}")
    measured = (sizes[str(services)]["outcomes"] for services in options.services)
    return int(any(one["start"]["unserved"] for outcomes in measured for own in outcomes.values() for one in own))


def earlier(run: int) -> dict[str, dict[str, Any]]:
    """The sizes that the results file has already, by the number of Services."""
    path = results.path_of("programming", run)
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()).get("sizes", {}) if path.exists() else {}
    return found


def explain(options: argparse.Namespace, sizes: dict[str, dict[str, Any]]) -> list[str]:
    """What the figures mean, who was measured, and which goals were met."""
    notes = [
        "start: from the start of the process until a connection to a Service chosen at random is answered; all of "
        "them were asked afterwards (not served: how many did not answer)",
        "change: a slice gets another endpoint; from the API server's answer to the write, or from the arrival of the "
        "watch event in a watch of the bench, to the first new connection that the new endpoint answers; a connection "
        "is made every 0.5 ms",
        f"new Service: the same from its creation; its slice is there before. {options.pause:g} s between changes, "
        "for kube-proxy acts at once then (its minSyncPeriod is 1 s)",
    ]
    versions = {name: version for size in sizes.values() for name, version in size["versions"].items() if version}
    absent = {name: why for size in sizes.values() for name, why in size["absent"].items()}
    return [
        *notes,
        *(
            f"{services} Services: {size['machine']['time']}, {size['machine']['commit']}"
            for services, size in sizes.items()
        ),
        *(f"{name}: {version}" for name, version in versions.items()),
        *(f"{name} did not take part: {why}" for name, why in absent.items()),
        *(goal for size in sizes.values() for goal in size["goals"]),
    ]


def one_size(
    load: LoadTool, kinds: Sequence[type[Contestant]], size: Size, options: argparse.Namespace, console: Console
) -> Outcomes:
    """Fill an API server and let every contestant start once in each turn, on a fresh stand."""
    outcomes: Outcomes = {kind.name: [] for kind in kinds}
    with Stands(load, len(kinds) * options.turns) as stands:
        plane = stands.plane()
        begun = time.monotonic()
        fill(plane, size, options.new)
        console.print(
            f"the API server has {size.services:,} Services after {time.monotonic() - begun:.0f} s", highlight=False
        )
        for turn in range(options.turns):
            for offset in range(len(kinds)):
                kind, stand = kinds[(turn + offset) % len(kinds)], stands.stands[turn * len(kinds) + offset]
                stands.start_backend(stand, 0, size.listens)
                place = Place(kind(), stand, stands, plane)
                outcomes[kind.name].append(one_turn(place, size.services, options, console))
    return outcomes


def fill(plane: Plane, size: Size, new: int) -> None:
    """Create all objects but the Services that come later."""
    bigcluster.fill(plane.api, size)
    plane.api.create(bigcluster.changing_service())
    plane.api.create(bigcluster.changing_slice(0)[0])
    for number in range(new):
        plane.api.create(bigcluster.new_slice(number))


def summarize(services: int, size: dict[str, Any]) -> Sheet:
    """One column for each contestant."""
    outcomes: Outcomes = size["outcomes"]
    turns = max((len(own) for own in outcomes.values()), default=0)
    title = f"{services:,} Services x {size['endpoints']} endpoints, turns: {turns}"
    sheet = Sheet(title, ("measure", *outcomes))

    def row(name: str, cell: Any) -> None:
        sheet.add(name, *(cell(own) if own else "-" for own in outcomes.values()))

    row("start, s", lambda own: " ".join(f"{one['start']['seconds']:.2f}" for one in own))
    row("CPU seconds of the start", lambda own: " ".join(f"{one['start']['cpu_seconds']:.1f}" for one in own))
    row("not served after it", lambda own: " ".join(str(one["start"]["unserved"]) for one in own))
    row("memory at its highest, start, MB", lambda own: most(own, "start"))
    row("memory at its highest, end, MB", lambda own: most(own, "after"))
    for kind, title in (("changes", "change"), ("new", "new Service")):
        for since, words in (("event", "from the event"), ("write", "from the write")):
            for percent in (50, 99):
                row(f"{title}, {words}, p{percent} ms", lambda own, k=kind, s=since, p=percent: cell(own, k, s, p))
    return sheet


def most(own: Sequence[dict[str, Any]], when: str) -> str:
    """Largest peak of memory in MB."""
    return f"{max(one[when]['memory']['VmHWM'] for one in own) / 1e6:.0f}"


def cell(own: Sequence[dict[str, Any]], kind: str, since: str, percent: int) -> str:
    """A percentile of all turns together in milliseconds."""
    values = [sample[since] for one in own for sample in one[kind]]
    return results.number(quantile(values, percent) * 1e3) if values else "-"


def judge(own: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence on each goal of spliceway."""
    if not own:
        return []
    spread = Spread.of([one["start"]["seconds"] for one in own])
    measured = {
        "start": spread.median if spread else 0.0,
        "memory": float(max(one["after"]["memory"]["VmHWM"] for one in own)),
    }
    for name, kind, since in (
        ("change_event_p99", "changes", "event"),
        ("change_write_p99", "changes", "write"),
        ("service_event_p99", "new", "event"),
    ):
        if values := [sample[since] for one in own for sample in one[kind]]:
            measured[name] = quantile(values, 99)
    return [
        f"goal {name} at most {results.number(goal)}: {'met' if measured[name] <= goal else 'NOT met'} "
        f"({results.number(measured[name])})"
        for name, goal in GOALS.items()
        if name in measured
    ]
