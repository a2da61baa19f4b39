"""UDP and TCP through a node's service proxy: ``run.py services``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack

import limits
import manifests
import nodeproxies
import results
import rounds
import scenarios
from load import LoadTool, Report
from nodecluster import BACKEND_PORT, NodeCluster, enter_namespaces
from nodeproxies import Direct, NodeProxy
from processes import BenchError
from results import Sheet, Spread
from rich.console import Console
from rounds import Sample, Samples
from scenarios import Scenario

#: every ratio is to this contestant's figure of the same round
BASE = "kube-proxy-iptables"
VIP = "198.18.129.1"
SERVICE_PORT = 80
START_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py services``."""
    known = list(scenarios.SERVICES)
    parser.add_argument("--rounds", type=int, default=7, help="rounds (7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each measurement (2)")
    parser.add_argument("--only", action="append", choices=known, help="only this scenario (repeatable)")
    usual = ["direct", "kube-proxy-iptables", "kube-proxy-nftables", "spliceway"]
    parser.add_argument("--contestants", nargs="+", default=usual, choices=list(nodeproxies.ALL), metavar="NAME")


def run(options: argparse.Namespace, console: Console) -> int:
    """Run all scenarios and write results/services.json. Returns 1 when any round had an error."""
    enter_namespaces()
    limits.raise_open_files()
    chosen = [scenarios.SERVICES[name] for name in options.only or scenarios.SERVICES]
    facts = results.machine()
    kinds, absent = nodeproxies.find(options.contestants)
    with NodeCluster(LoadTool.build(), len(kinds)) as cluster, ExitStack() as stack:
        cluster.start_backend(cluster.backends)
        create_service(cluster)
        present = [kind(cluster, cluster.node(number)) for number, kind in enumerate(kinds)]
        for contestant in present:
            start(contestant, stack)
        versions = {contestant.name: contestant.version() for contestant in present}
        samples = rounds.run_rounds(
            present,
            chosen,
            options.rounds,
            lambda contestant, scenario: measure(contestant, scenario, options.seconds),
            console,
        )
        logs = {one.name: one.child.log.read_text(errors="replace").splitlines() for one in present if one.child}
    sheet, goals = rounds.summarize(samples, chosen, BASE)
    notes = [
        f"{options.rounds} rounds of {options.seconds:g} s; one Service with three endpoints on another node",
        *(f"{name}: {version}" for name, version in versions.items() if version),
        *(f"{name} did not take part: {why}" for name, why in absent.items()),
        *(rounds.goal_text(goal, BASE) for goal in goals),
    ]
    sheets = [sheet, latencies(samples, chosen), tracked(samples, chosen)]
    results.show(sheets, notes, console)
    data = {
        "machine": facts,
        "versions": versions,
        "absent": absent,
        "goals": goals,
        "samples": samples,
        "logs": {name: [*lines[:40], "...", *lines[-20:]] for name, lines in logs.items()},
    }
    text = results.document("UDP and TCP through a node's service proxy", facts, sheets, notes)
    console.print(f"written: {results.save('services', data, text)}")
    return int(rounds.any_error(samples))


def create_service(cluster: NodeCluster) -> None:
    """One Service, TCP and UDP on the same port, and its slice."""
    service = manifests.service("bench", VIP, SERVICE_PORT)
    hosts = [backend.partition(":")[0] for backend in cluster.backends]
    slice_ = manifests.endpoint_slice("bench", hosts, BACKEND_PORT)
    service["spec"]["ports"].append({**service["spec"]["ports"][0], "name": "udp", "protocol": "UDP"})
    slice_["ports"].append({**slice_["ports"][0], "name": "udp", "protocol": "UDP"})
    for body in (service, slice_):
        cluster.api.create(manifests.for_api(body))


def start(contestant: NodeProxy, stack: ExitStack) -> None:
    """Start the contestant and wait until a client has an answer over TCP and over UDP."""
    if not isinstance(contestant, Direct):
        child = stack.enter_context(contestant.start())
        child.wait_until(lambda: answers(contestant), "answering a client", deadline=START_SECONDS, step=0.1)
    elif not answers(contestant):
        raise BenchError("clients do not reach the backend")


def answers(contestant: NodeProxy) -> bool:
    """True when requests over TCP and UDP get their replies."""
    asked = (["crr", "--connections", "1"], ["udp-new", "--clients", "1"])
    reports = [load(contestant, [*words, "--seconds", "0.01", "--warmup", "0"]) for words in asked]
    return all(report.requests and not report.errors for report in reports)


def load(contestant: NodeProxy, arguments: Sequence[str]) -> Report:
    """Run the load tool in the contestant's client Pod."""
    cluster, node = contestant.cluster, contestant.node
    sources = ["--sources", ",".join(cluster.sources(node))] if arguments[0] == "udp-new" else []
    return cluster.measure(cluster.client(node), [*arguments, *sources], contestant.targets(f"{VIP}:{SERVICE_PORT}"))


def measure(contestant: NodeProxy, scenario: Scenario, seconds: float) -> Sample:
    """One sample: the figure, what it cost the contestant's process, and the tracked connections that it left."""
    cluster, node, child = contestant.cluster, contestant.node, contestant.child
    node.namespace.run("conntrack", "--flush")
    before = child.cpu_seconds() if child else 0.0
    report = load(contestant, [*scenario.arguments, "--seconds", str(seconds), "--warmup", str(rounds.WARMUP)])
    sample: Sample = {"value": scenario.value(report), "errors": report.errors, "report": report.as_dict()}
    sample["conntrack"] = {"service": cluster.conntrack(node, VIP), "all": cluster.conntrack(node)}
    if child:
        child.check()
        sample["cpu_share"] = (child.cpu_seconds() - before) / (seconds + rounds.WARMUP)
        sample["memory"] = child.memory()
    return sample


def latencies(samples: Samples, chosen: Sequence[Scenario]) -> Sheet:
    """Median over the rounds of what a request took."""
    sheet = Sheet("Time of a request, ms: median over the rounds", ("scenario", "contestant", "p50", "p99"))
    for scenario in chosen:
        for name, own in samples[scenario.name].items():
            cells = [
                spread.median * 1e3 if (spread := Spread.of([one["report"][key] for one in own])) else 0.0
                for key in ("p50", "p99")
            ]
            if any(cells):
                sheet.add(scenario.title, name, *(f"{cell:.3f}" for cell in cells))
    return sheet


def tracked(samples: Samples, chosen: Sequence[Scenario]) -> Sheet:
    """Most entries of conntrack that a round left behind."""
    columns = ("scenario", "contestant", "of the Service", "all")
    sheet = Sheet("Entries of connection tracking on the node after a round, at most", columns)
    for scenario in chosen:
        for name, own in samples[scenario.name].items():
            most = {key: max(one["conntrack"][key] for one in own) for key in ("service", "all")}
            sheet.add(scenario.title, name, f"{most['service']:,}", f"{most['all']:,}")
    return sheet
