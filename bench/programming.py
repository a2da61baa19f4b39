"""How soon 10,000 Services are served and changes take effect, next to kube-proxy: ``run.py programming``."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import bigcluster
import limits
import nodeproxies
import results
from bigcluster import CHANGING, CHANGING_VIP, SERVICE_PORT, Size
from follow import Arrivals, FirstAnswer
from load import LoadTool
from nodecluster import NodeCluster, enter_namespaces
from nodeproxies import NodeProxy
from processes import BenchError, Child
from results import Sheet, Spread, quantile
from rich.console import Console

#: not among them unless asked for: kube-proxy-iptables, whose tools on top of nftables need about a minute for 20,000
#: endpoints and, as it grows with their square, most of an hour for 100,000
CONTESTANTS = ("spliceway", "kube-proxy-iptables-legacy", "kube-proxy-nftables")
#: Services asked by one process of the load tool (its command line is limited), and requests per second
TARGETS = 2000
RATE = 2000
#: of the addresses asked after the start, and of the pauses
SEED = 4
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
SERVICES = "/api/v1/namespaces/default/services"

#: goals of spliceway: seconds and bytes
GOALS = {
    "start": 3.0,
    "memory": 150e6,
    "change_event_p99": 0.010,
    "change_write_p99": 0.050,
    "service_event_p99": 0.020,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py programming``."""
    known = [name for name in nodeproxies.ALL if name != "direct"]
    parser.add_argument("--services", type=int, default=10_000, help="Services (10000)")
    parser.add_argument("--endpoints", type=int, default=10, help="endpoints of each (10)")
    parser.add_argument("--changes", type=int, default=100, help="changes of an endpoint in each turn (100)")
    parser.add_argument("--new", type=int, default=50, help="new Services in each turn (50)")
    parser.add_argument("--turns", type=int, default=2, help="turns: each starts every contestant once (2)")
    parser.add_argument("--pause", type=float, default=1.1, help="seconds between changes (1.1)")
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS, choices=known, metavar="NAME")


def run(options: argparse.Namespace, console: Console) -> int:
    """Run all turns and write results/programming.json. Returns 1 when a Service was not served after the start."""
    enter_namespaces()
    limits.raise_open_files()
    facts = results.machine()
    size = Size(options.services, options.endpoints)
    kinds, absent = nodeproxies.find(options.contestants)
    outcomes: dict[str, list[dict[str, Any]]] = {kind.name: [] for kind in kinds}
    with NodeCluster(LoadTool.build(), len(kinds) * options.turns) as cluster:
        ports = [f"0.0.0.0:{port}" for port in size.ports]
        cluster.start_backend([*ports, *bigcluster.changing_listens(cluster)])
        begun = time.monotonic()
        fill(cluster, size, options.new)
        console.print(f"the API server has it all after {time.monotonic() - begun:.0f} s", highlight=False)
        versions = {}
        for turn in range(options.turns):
            for offset in range(len(kinds)):
                kind = kinds[(turn + offset) % len(kinds)]
                contestant = kind(cluster, cluster.node(turn * len(kinds) + offset))
                versions[kind.name] = contestant.version()
                outcomes[kind.name].append(one_turn(contestant, options, console))
    sheet = summarize(outcomes, options)
    goals = judge(outcomes.get("spliceway", []))
    notes = [
        "start: from the start of the process until a connection to a Service chosen at random is answered; all of "
        "them were asked afterwards (not served: how many did not answer)",
        "change: a slice gets another endpoint; from the API server's answer to the write, or from the arrival of the "
        "watch event in a watch of the bench, to the first new connection that the new endpoint answers; a connection "
        "is made every 0.5 ms",
        f"new Service: the same from its creation; its slice is there before. {options.pause:g} s between changes, "
        "for kube-proxy acts at once then (its minSyncPeriod is 1 s)",
        *(f"{name}: {version}" for name, version in versions.items() if version),
        *(f"{name} did not take part: {why}" for name, why in absent.items()),
        *goals,
    ]
    results.show([sheet], notes, console)
    data = {"machine": facts, "versions": versions, "absent": absent, "outcomes": outcomes, "goals": goals}
    title = f"Programming latency, {size.services:,} Services x {size.endpoints} endpoints"
    console.print(f"written: {results.save('programming', data, results.document(title, facts, [sheet], notes))}")
    return int(any(outcome["start"]["unserved"] for own in outcomes.values() for outcome in own))


def fill(cluster: NodeCluster, size: Size, new: int) -> None:
    """Create all objects but the Services that come later."""
    bigcluster.fill(cluster, size)
    cluster.api.create(bigcluster.changing_service())
    cluster.api.create(bigcluster.changing_slice(cluster, 0)[0])
    for number in range(new):
        cluster.api.create(bigcluster.new_slice(cluster, number))


def one_turn(contestant: NodeProxy, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Start the contestant once, measure, and end it."""
    cluster = contestant.cluster
    client = cluster.client(contestant.node)
    dice = random.Random(SEED)
    with ExitStack() as stack:
        first = stack.enter_context(FirstAnswer(client.namespace.command(str(cluster.load.path), "first")))
        child = stack.enter_context(contestant.start())
        begun = begin(contestant, child, first, options.services, dice)
        console.print(
            f"{contestant.name:20} start {begun['seconds']:.2f} s, {begun['memory']['VmHWM'] / 1e6:.0f} MB, "
            f"{begun['unserved']} not served",
            highlight=False,
        )
        slices = stack.enter_context(watch(cluster, SLICES, CHANGING))
        services = stack.enter_context(watch(cluster, SERVICES, ""))
        changes = [change(cluster, first, slices, turn, pause(options, dice)) for turn in range(1, options.changes + 1)]
        told(console, contestant, "change", changes)
        added = [add(cluster, first, services, number, pause(options, dice)) for number in range(options.new)]
        told(console, contestant, "new Service", added)
        after = {"memory": child.memory(), "cpu_seconds": child.cpu_seconds()}
        log = child.log.read_text(errors="replace").splitlines()
    for number in range(options.new):
        cluster.api.delete("Service", bigcluster.new_service(number)["metadata"]["name"])
    cluster.api.replace(bigcluster.changing_slice(cluster, 0)[0])
    return {"start": begun, "changes": changes, "new": added, "after": after, "log": [*log[:40], "...", *log[-20:]]}


def begin(
    contestant: NodeProxy, child: Child, first: FirstAnswer, services: int, dice: random.Random
) -> dict[str, Any]:
    """What the start took, and how many Services do not answer after it."""
    first.begin(f"{bigcluster.vip(dice.randrange(services))}:{SERVICE_PORT}", interval=0.005)
    try:
        seconds = first.result().at / 1e9 - child.started
    except BenchError as error:
        child.check()
        tail = child.log.read_text(errors="replace").strip()[-800:]
        raise BenchError(f"{contestant.name}: {error}; it said last: {tail}") from error
    sample = {"seconds": seconds, "memory": child.memory(), "cpu_seconds": child.cpu_seconds()}
    return {**sample, "unserved": unserved(contestant, services)}


def unserved(contestant: NodeProxy, services: int) -> int:
    """How many Services do not answer a verified reply."""
    cluster, answered = contestant.cluster, 0
    addresses = [f"{bigcluster.vip(number)}:{SERVICE_PORT}" for number in range(services)]
    for start in range(0, services, TARGETS):
        targets = addresses[start : start + TARGETS]
        arguments = ["paced", "--rate", str(RATE), "--seconds", str(len(targets) / RATE)]
        report = cluster.measure(cluster.client(contestant.node), arguments, targets)
        answered += report.requests
    return services - answered


def watch(cluster: NodeCluster, path: str, service: str) -> Arrivals:
    """A watch of the bench's own objects from now on."""
    selection = {"labelSelector": f"kubernetes.io/service-name={service}"} if service else {}
    version = cluster.api.request("GET", f"{path}?limit=1")["metadata"]["resourceVersion"]
    return Arrivals(cluster.plane.kubeconfig, path, resourceVersion=version, **selection)


def pause(options: argparse.Namespace, dice: random.Random) -> float:
    """Seconds until the next change: not in step with anything."""
    return float(options.pause) + dice.uniform(0.0, 0.1)


def change(cluster: NodeCluster, first: FirstAnswer, slices: Arrivals, turn: int, wait: float) -> dict[str, float]:
    """Another endpoint for the changing Service."""
    body, server = bigcluster.changing_slice(cluster, turn)
    time.sleep(wait)
    first.begin(f"{CHANGING_VIP}:{SERVICE_PORT}", server)
    time.sleep(0.02)  # by now connections are made all the time
    begun = time.monotonic_ns()
    stored = cluster.api.replace(body)
    return timing(begun, time.monotonic_ns(), stored, first, slices)


def add(cluster: NodeCluster, first: FirstAnswer, services: Arrivals, number: int, wait: float) -> dict[str, float]:
    """A new Service."""
    body = bigcluster.new_service(number)
    time.sleep(wait)
    first.begin(f"{bigcluster.new_vip(number)}:{SERVICE_PORT}")
    time.sleep(0.02)
    begun = time.monotonic_ns()
    stored = cluster.api.create(body)
    return timing(begun, time.monotonic_ns(), stored, first, services)


def timing(
    begun: int, written: int, stored: dict[str, Any], first: FirstAnswer, arrivals: Arrivals
) -> dict[str, float]:
    """Seconds to the first right answer: from the request to the API server, from its answer, and from the event."""
    found = first.result()
    event = arrivals.at(stored["metadata"]["resourceVersion"])
    return {
        "request": (found.at - begun) / 1e9,
        "write": (found.at - written) / 1e9,
        "event": (found.at - event) / 1e9,
    }


def told(console: Console, contestant: NodeProxy, what: str, samples: Sequence[dict[str, float]]) -> None:
    """One line in the terminal."""
    event = [sample["event"] for sample in samples]
    if event:
        median, high = quantile(event, 50) * 1e3, quantile(event, 99) * 1e3
        console.print(f"{contestant.name:20} {what}: p50 {median:.1f} ms, p99 {high:.1f} ms", highlight=False)


def summarize(outcomes: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> Sheet:
    """One column for each contestant."""
    sheet = Sheet(
        f"{options.services:,} Services x {options.endpoints} endpoints, {options.turns} turns", ("measure", *outcomes)
    )

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
