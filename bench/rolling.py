"""The three Pods of a Deployment are replaced one after another, under load: ``run.py rolling``."""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import limits
import manifests
import proxies
import results
from load import LoadTool, Report
from processes import Child, wait_for
from proxies import Contestant
from results import Sheet
from rich.console import Console
from rounds import Place, rotated
from stands import BACKEND_PORT, SERVICE_PORT, VIP, Plane, Stand, Stands, enter_hub

CONTESTANTS = ("spliceway", "kube-proxy-iptables", "kube-proxy-nftables")
#: why others are not there
NOT_TOLD = "nobody tells it of EndpointSlices: that would need a controller which is not a part of it"
#: an old Pod ends after the slice says so, or before
MODES = ("orderly", "early")
REPLICAS = 3
#: connections over which requests of the second kind go
KEPT = 32
#: seconds: from a new Pod being ready until its predecessor is deleted; from then until an orderly one is told to end
#: (as a preStop hook is there for); from the end of a Pod until the slice is without it; before the first and after the
#: last step
DELETED = 0.5
PRE_STOP = 2.0
REMOVED = 0.5
MARGIN = 1.0
#: seconds that a Pod may take for the connections it has
DRAIN_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py rolling``."""
    results.add_run_argument(parser)
    known = [name for name, kind in proxies.ALL.items() if kind.follows_api]
    parser.add_argument("--runs", type=int, default=3, help="updates of each kind for each contestant (3)")
    parser.add_argument("--rate", type=int, default=500, help="new connections/s, and requests/s on kept ones (500)")
    parser.add_argument("--early", type=float, default=0.5, help="seconds by which a Pod ends too early (0.5)")
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS, choices=known, metavar="NAME")


class Pod(NamedTuple):
    """A Pod: the process in it and its own address, which no other has had before."""

    host: str
    child: Child


class Deployment:
    """The Pods of the Service on one stand, and its slice."""

    def __init__(self, stands: Stands, stand: Stand, plane: Plane, hosts: Iterator[str]) -> None:
        self._stands = stands
        self._stand = stand
        self._plane = plane
        self._hosts = hosts
        self.pods = [self._start() for _ in range(REPLICAS)]
        self.tell()

    def _start(self) -> Pod:
        host = next(self._hosts)
        words = [str(self._stands.load.path), "serve", "--drain", "true", "--listen", f"{host}:{BACKEND_PORT}"]
        child = self._stands.start("pod", self._stand.pods[0], words)
        child.wait_until(lambda: b"ready" in child.log.read_bytes(), "accepting")
        return Pod(host, child)

    def add(self) -> str:
        """Start one more, and return its address once the slice has it."""
        self.pods.append(self._start())
        self.tell()
        return self.pods[-1].host

    def oldest(self) -> Pod:
        """The next to go."""
        return self.pods[0]

    def tell(self, terminating: Sequence[str] = ()) -> None:
        """Write the slice as the Pods are now."""
        hosts = [pod.host for pod in self.pods]
        body = manifests.endpoint_slice("bench", hosts, BACKEND_PORT, terminating=terminating)
        self._plane.api.replace(manifests.for_api(manifests.with_udp(body)))

    def remove(self) -> None:
        """Take the oldest out of the slice."""
        del self.pods[0]
        self.tell()

    def serves_all(self, targets: Sequence[str]) -> bool:
        """Whether clients reach these Pods, and nothing else."""
        report = self._stands.measure(self._stand, ["paced", "--rate", "300", "--seconds", "0.2"], targets)
        return not report.errors and set(report.servers) == {f"{pod.host}:{BACKEND_PORT}" for pod in self.pods}

    def stop(self) -> None:
        """End all Pods at once."""
        for pod in self.pods:
            pod.child.kill()


def run(options: argparse.Namespace, console: Console) -> int:
    """Interleave the contestants and write results/rolling.json. Returns 1 when a client of spliceway saw an error."""
    enter_hub()
    limits.raise_open_files()
    facts = results.machine()
    kinds, absent = proxies.find(options.contestants)
    absent |= {name: NOT_TOLD for name, kind in proxies.ALL.items() if not kind.follows_api and name != "direct"}
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {kind.name: {mode: [] for mode in MODES} for kind in kinds}
    hosts = (f"198.19.{200 + number // 250}.{number % 250 + 1}" for number in itertools.count())
    with Stands(LoadTool.build(), len(kinds)) as stands:
        plane = stands.plane()
        for body in services():
            plane.api.create(body)
        places = [start(kind, stand, stands, plane) for kind, stand in zip(kinds, stands.stands, strict=True)]
        versions = {place.contestant.name: place.contestant.version() for place in places}
        for turn in range(options.runs):
            for mode in MODES:
                for place in rotated(places, turn):
                    outcome = one_run(place, stands, plane, hosts, options, early=mode == "early")
                    runs[place.contestant.name][mode].append(outcome)
                    tell(console, f"run {turn + 1}/{options.runs}  {mode}", place.contestant.name, outcome)
    sheet = summarize(runs, options)
    notes = [
        *explain(options),
        *(f"{name}: {version}" for name, version in versions.items() if version),
        *(f"{name} did not take part: {why}" for name, why in absent.items()),
    ]
    results.show([sheet], notes, console)
    about = {key: getattr(options, key) for key in ("runs", "rate", "early")}
    data = {"machine": facts, "versions": versions, "absent": absent, "options": about, "runs": runs}
    text = results.document("Rolling update", facts, [sheet], notes)
    console.print(f"written: {results.save('rolling', data, text, options.run)}")
    ours = (outcome for own in runs.get("spliceway", {}).values() for outcome in own)
    return int(any(outcome[load]["errors"] for outcome in ours for load in ("new", "kept")))


def explain(options: argparse.Namespace) -> list[str]:
    """How Pods are replaced."""
    return [
        f"A new Pod serves, and the slice names it; {DELETED:g} s later its predecessor is deleted. orderly: the slice "
        f"says that it terminates, {PRE_STOP:g} s later it gets SIGTERM, and {REMOVED:g} s after its end the slice is "
        f"without it. early: it gets SIGTERM {options.early:g} s before the slice says that it terminates, as a Pod "
        "without a preStop hook does.",
        "With SIGTERM a Pod stops accepting, answers each connection that it has once more, closes it, and ends.",
        "new: an open loop of new connections; kept: an open loop of requests on connections that clients keep, and "
        "open anew when the server has closed them between two requests.",
    ]


def services() -> list[manifests.Object]:
    """The Service, whose Pods are still to come."""
    bodies = [manifests.service("bench", VIP, SERVICE_PORT), manifests.endpoint_slice("bench", [], BACKEND_PORT)]
    return [manifests.for_api(manifests.with_udp(body)) for body in bodies]


def start(kind: type[Contestant], stand: Stand, stands: Stands, plane: Plane) -> Place:
    """Start the contestant; that it serves is seen later."""
    place = Place(kind(), stand)
    place.contestant.start(stand, stands, plane.kubeconfig)
    return place


def one_run(
    place: Place, stands: Stands, plane: Plane, hosts: Iterator[str], options: argparse.Namespace, *, early: bool
) -> dict[str, Any]:
    """Replace all Pods of a fresh Deployment under load."""
    contestant, stand = place
    targets = contestant.targets()
    deployment = Deployment(stands, stand, plane, hosts)
    wait_for(lambda: deployment.serves_all(targets), f"{contestant.name} serving three new Pods", 60.0, step=0.2)
    seconds = 2 * MARGIN + REPLICAS * (DELETED + max(PRE_STOP, options.early) + REMOVED)
    paced = ["--rate", str(options.rate), "--seconds", str(seconds)]
    with ExitStack() as stack:
        loads = {
            name: stack.enter_context(stands.child(name, stand.client, stands.load_command([*words, *paced], targets)))
            for name, words in (("new", ["paced"]), ("kept", ["pool", "--connections", str(KEPT)]))
        }
        begun = time.monotonic()
        events: list[dict[str, Any]] = []
        time.sleep(MARGIN)
        for _ in range(REPLICAS):
            for what, host in replace(deployment, options.early if early else None):
                events.append({"at": time.monotonic() - begun, "what": what, "pod": host})
        for load in loads.values():
            load.wait_end(seconds + 30)
        reports = {name: Report.parse(load.log.read_text()) for name, load in loads.items()}
    deployment.stop()
    return {"events": events, **{name: report.as_dict() for name, report in reports.items()}}


def replace(deployment: Deployment, early: float | None) -> Iterator[tuple[str, str]]:
    """Replace the oldest Pod, which ends ``early`` seconds before the slice says so; tells each step once done."""
    yield "new endpoint", deployment.add()
    time.sleep(DELETED)
    old = deployment.oldest()
    if early is None:
        deployment.tell([old.host])
        yield "terminating", old.host
        time.sleep(PRE_STOP)
        yield end(old), old.host
    else:
        yield end(old), old.host
        time.sleep(early)
        deployment.tell([old.host])
        yield "terminating", old.host
    time.sleep(REMOVED)
    deployment.remove()
    yield "removed", old.host


def end(pod: Pod) -> str:
    """SIGTERM, and tell whether the Pod could end the connections that it had."""
    pod.child.stop(DRAIN_SECONDS)
    return "ended" if pod.child.process.returncode == 0 else "killed"


def tell(console: Console, turn: str, name: str, outcome: dict[str, Any]) -> None:
    """One line in the terminal."""
    errors = "  ".join(f"{load}: {outcome[load]['errors'] or 'no errors'}" for load in ("new", "kept"))
    killed = sum(event["what"] == "killed" for event in outcome["events"])
    console.print(
        f"{turn}  {name:20} {errors}{f'  Pods killed: {killed}' if killed else ''}", highlight=False, soft_wrap=True
    )


def summarize(runs: dict[str, dict[str, list[dict[str, Any]]]], options: argparse.Namespace) -> Sheet:
    """One row for each contestant, kind of update and load."""
    title = f"Errors of clients in rolling updates of {REPLICAS} Pods, {options.rate:,}/s of each load"
    columns = ("contestant", "Pods end", "load", "replies", "errors, by run", "their kinds", "p99 ms", "worst ms")
    sheet = Sheet(title, columns)
    for name, modes in runs.items():
        for mode, outcomes in modes.items():
            for load, title in (("new", "new connections"), ("kept", "kept connections")):
                reports = [outcome[load] for outcome in outcomes]
                kinds: Counter[str] = Counter()
                for report in reports:
                    kinds.update(report["errors"])
                sheet.add(
                    name,
                    mode,
                    title,
                    f"{sum(report['requests'] for report in reports):,}",
                    " ".join(str(sum(report["errors"].values())) for report in reports),
                    ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common()) or "-",
                    f"{max((report['p99'] for report in reports), default=0) * 1e3:.1f}",
                    f"{max((report['max'] for report in reports), default=0) * 1e3:.0f}",
                )
    return sheet
