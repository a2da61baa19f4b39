"""A Pod is killed without telling anybody, and restored, while clients open connections at a fixed rate."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import agent
import limits
import manifests
import proxies
import results
from load import LoadTool, Report
from processes import Child
from proxies import Contestant
from proxies.spliceway import Spliceway
from results import Sheet
from rich.console import Console
from stands import BACKEND_PORT, PODS, SERVICE_PORT, VIP, Stand, Stands, enter_hub


class SplicewayReplay(Spliceway):
    """spliceway on a Service that asks for replay: a request whose Pod died before it answered goes to another one."""

    name = "spliceway-replay"
    VIP = "198.18.129.2"

    def __init__(self) -> None:
        super().__init__(self.VIP)


KINDS: dict[str, type[Contestant]] = {**proxies.ALL, SplicewayReplay.name: SplicewayReplay}
EVERYONE = (
    "spliceway",
    "spliceway-replay",
    "haproxy",
    "nginx",
    "sozu",
    "kube-proxy-userspace",
    "kube-proxy-iptables",
)
#: the contestants of which no client may see an error
MUST_BE_CLEAN = ("spliceway", "spliceway-replay")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py kill``."""
    results.add_run_argument(parser)
    parser.add_argument("--runs", type=int, default=5, help="runs of each contestant (5)")
    parser.add_argument("--rate", type=int, default=1000, help="new connections per second, an open loop (1000)")
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="length of a run; killed at 1/3, restored at 2/3 (6)"
    )
    parser.add_argument("--contestants", nargs="+", default=EVERYONE, choices=list(KINDS), metavar="NAME")


class Place:
    """A contestant at work on its stand, and one process for each Pod behind it, so that one can be killed."""

    def __init__(self, contestant: Contestant, stand: Stand, stands: Stands, kubeconfig: Path) -> None:
        self.contestant = contestant
        self.stand = stand
        self._stands = stands
        self._pods = stands.start_backends(stand)
        contestant.start(stand, stands, kubeconfig)
        contestant.await_answer(stand, stands)

    def kill(self, pod: int) -> None:
        """SIGKILL: connections are reset, and new ones refused."""
        self._pods[pod].kill()

    def restore(self, pod: int) -> None:
        """Start the same backend again and wait until it accepts."""
        self._pods[pod] = self._stands.start_backend(self.stand, pod, [self.stand.backends[pod]])

    def load(self, arguments: Sequence[str]) -> Child:
        """Start the load tool in the client; the report will be all that is in its log."""
        command = self._stands.load_command(arguments, self.contestant.targets())
        return self._stands.child("load", self.stand.client, command)

    def counters(self) -> dict[str, int]:
        """The contestant's own counts of tries, where it has any."""
        if not isinstance(self.contestant, Spliceway):
            return {}
        return agent.pool_totals(agent.status(self.contestant.state_socket))


def run(options: argparse.Namespace, console: Console) -> int:
    """Interleave the contestants and write results/kill.json. Returns 1 when a client of spliceway saw an error."""
    enter_hub()
    limits.raise_open_files()
    facts = results.machine()
    absent = {name: why for name in options.contestants if (why := KINDS[name].missing()) is not None}
    present = [KINDS[name]() for name in options.contestants if name not in absent]
    runs: dict[str, list[dict[str, Any]]] = {contestant.name: [] for contestant in present}
    with Stands(LoadTool.build(), len(present)) as stands:
        plane = stands.plane()
        for body in services():
            plane.api.create(body)
        places = [Place(*pair, stands, plane.kubeconfig) for pair in zip(present, stands.stands, strict=True)]
        versions = {contestant.name: contestant.version() for contestant in present}
        for turn in range(options.runs):
            for offset in range(len(places)):
                place = places[(turn + offset) % len(places)]
                outcome = one_run(place, options, turn % len(PODS))
                runs[place.contestant.name].append(outcome)
                tell(console, f"run {turn + 1}/{options.runs}", place.contestant.name, outcome)
    sheet = summarize(runs, options)
    notes = [
        *(f"{name}: {version}" for name, version in versions.items() if version),
        *(f"{name} did not take part: {why}" for name, why in absent.items()),
        "Nobody tells: the EndpointSlice goes on naming the killed Pod, as until a kubelet has noticed it.",
        "A request that a Pod had already received when it was killed can only be saved by replay, which a Service "
        "must ask for, because its request may have had an effect.",
    ]
    results.show([sheet], notes, console)
    about = {key: getattr(options, key) for key in ("runs", "rate", "seconds")}
    data = {"machine": facts, "versions": versions, "absent": absent, "options": about, "runs": runs}
    text = results.document("Kill test", facts, [sheet], notes)
    console.print(f"written: {results.save('kill', data, text, options.run)}")
    return int(any(outcome["errors"] for name in MUST_BE_CLEAN for outcome in runs.get(name, [])))


def services() -> list[manifests.Object]:
    """The Service of all, and that of the contestant with replay, on the same Pods."""
    replay = {"spliceway.io/replay": "true"}
    bodies = [
        manifests.service("bench", VIP, SERVICE_PORT),
        manifests.endpoint_slice("bench", PODS, BACKEND_PORT),
        manifests.service("replay", SplicewayReplay.VIP, SERVICE_PORT, annotations=replay),
        manifests.endpoint_slice("replay", PODS, BACKEND_PORT),
    ]
    return [manifests.for_api(manifests.with_udp(body)) for body in bodies]


def one_run(place: Place, options: argparse.Namespace, victim: int) -> dict[str, Any]:
    """Kill and restore by the clock of the load's start."""
    killed, restored = options.seconds / 3, options.seconds * 2 / 3
    before = place.counters()
    with place.load(["paced", "--rate", str(options.rate), "--seconds", str(options.seconds)]) as load:
        wait_until(load.started + killed)
        place.kill(victim)
        wait_until(load.started + restored)
        place.restore(victim)
        load.wait_end(options.seconds + 30)
        report = Report.parse(load.log.read_text())
    after = place.counters()
    return {
        "requests": report.requests,
        "errors": report.errors,
        "counters": {key: after[key] - before.get(key, 0) for key in after},
        "killed_at": killed,
        "restored_at": restored,
        "report": report.as_dict(),
    }


def wait_until(moment: float) -> None:
    """Let the load run until a moment of the monotonic clock."""
    time.sleep(max(0.0, moment - time.monotonic()))


def tell(console: Console, turn: str, name: str, outcome: dict[str, Any]) -> None:
    """One line in the terminal."""
    console.print(
        f"{turn}  {name:20} {outcome['requests']:,} replies, errors: {outcome['errors'] or 'none'}  "
        f"{outcome['counters'] or ''}",
        highlight=False,
        soft_wrap=True,
    )


def summarize(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> Sheet:
    """One row for each contestant."""
    load = f"{options.rate:,} new connections/s, {options.runs} runs of {options.seconds:g} s"
    title = f"One of 3 Pods killed and restored at {load}"
    columns = ("contestant", "replies", "errors of clients, by run", "their kinds", "clean runs", "saved by a retry")
    sheet = Sheet(title, (*columns, "replayed", "p99 ms", "worst ms"))
    for name, outcomes in runs.items():
        errors = [sum(outcome["errors"].values()) for outcome in outcomes]
        kinds: Counter[str] = Counter()
        counters: Counter[str] = Counter()
        for outcome in outcomes:
            kinds.update(outcome["errors"])
            counters.update(outcome["counters"])
        sheet.add(
            name,
            f"{sum(outcome['requests'] for outcome in outcomes):,}",
            " ".join(map(str, errors)),
            ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common()) or "-",
            f"{errors.count(0)}/{len(errors)}",
            *(f"{counters[key]:,}" if counters else "-" for key in ("saved", "replayed")),
            f"{max(outcome['report']['p99'] for outcome in outcomes) * 1e3:.1f}",
            f"{max(outcome['report']['max'] for outcome in outcomes) * 1e3:.0f}",
        )
    return sheet
