"""What connections that stand and do nothing cost in memory: ``run.py idle``."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import kernelmemory
import limits
import manifests
import proxies
import results
from kernelmemory import KernelMemory
from load import LoadTool, Report
from processes import BenchError, Child
from proxies import Contestant
from proxies.spliceway import Spliceway
from results import Sheet, number
from rich.console import Console
from stands import BACKEND_PORT, PODS, SERVICE_PORT, VIP, Stand, Stands, enter_hub


class OnlyTcp(Spliceway):
    """spliceway without the third of its descriptors that it keeps for UDP sessions."""

    flags = (*Spliceway.flags, "--max-sessions=16")


KINDS: dict[str, type[Contestant]] = {**proxies.ALL, OnlyTcp.name: OnlyTcp}
DIRECT = "direct"
#: Who takes part, the descriptors of each connection, and those that are set aside for everything else: sozu has a pipe
#: for each direction, and so has the Go library of kube-proxy-userspace; haproxy and spliceway have some for all.
DESCRIPTORS = {
    DIRECT: (1, 600),
    "spliceway": (2, 2100),
    "haproxy": (2, 2600),
    "nginx": (2, 600),
    "sozu": (6, 600),
    "kube-proxy-userspace": (6, 600),
}
#: connections that are made before the first look at memory, so that what is made once is not counted
WARM = ("crr", "--connections", "16", "--seconds", "0.5", "--warmup", "0")
#: seconds until all connections must stand, and until all have ended
OPEN_SECONDS = 120.0
END_SECONDS = 60.0
#: memory has settled when it has changed by less than this share, look by look
SETTLED = 0.002
LOOKS = 4
LOOK_SECONDS = 0.25
SETTLE_SECONDS = 10.0
#: the kernel frees what it has forgotten a little later
FREED_SECONDS = 0.4
#: caches of the kernel that are kept in the results, those that have grown most
CACHES = 12

#: bytes by kind
Memory = dict[str, int]


class Held:
    """The load tool's ``idle`` in a stand's client, as a context manager: connections that stand until `end`."""

    def __init__(self, stand: Stand, command: Sequence[str]) -> None:
        self._command = stand.client.command(*command)

    def __enter__(self) -> Self:
        words = ["setpriv", "--pdeathsig", "KILL", *self._command]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def opened(self) -> int:
        """Wait until all stand, and return how many do.

        Raises:
            BenchError: it ended, or took too long.
        """
        assert self._process.stdout is not None
        timer = threading.Timer(OPEN_SECONDS, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            raise BenchError(f"connections were not open within {OPEN_SECONDS:g} s")
        return int(json.loads(line)["open"])

    def end(self) -> Report:
        """Have a part of the connections used once more, and all closed.

        Raises:
            BenchError: it took too long.
        """
        try:
            text, _ = self._process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"connections did not end within {END_SECONDS:g} s") from error
        return Report.parse(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py idle``."""
    results.add_run_argument(parser)
    parser.add_argument(
        "--connections", type=int, default=10_000, help="idle connections, or what descriptors allow (10000)"
    )
    parser.add_argument("--turns", type=int, default=3, help="turns, each with fresh processes (3)")
    parser.add_argument(
        "--contestants", nargs="+", default=list(DESCRIPTORS), choices=list(DESCRIPTORS), metavar="NAME"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Measure all contestants in each turn and write results/idle.json. Returns 1 when any connection failed."""
    enter_hub()
    limits.raise_open_files()
    facts = results.machine()
    load = LoadTool.build()
    names = [DIRECT, *(name for name in options.contestants if name != DIRECT)]
    absent = {name: why for name in names if (why := KINDS[name].missing()) is not None}
    kinds = [KINDS[name] for name in names if name not in absent]
    turns: dict[str, list[dict[str, Any]]] = {kind.name: [] for kind in kinds}
    for turn in range(options.turns):
        with Stands(load, len(kinds)) as stands:
            present = start_all(kinds, stands)
            for contestant, stand in [*present[turn % len(present) :], *present[: turn % len(present)]]:
                sample = measure(contestant, stand, stands, options.connections)
                turns[contestant.name].append(sample)
                tell(console, f"turn {turn + 1}/{options.turns}", contestant.name, sample)
    figures = {name: figure for name, own in turns.items() if (figure := judge(own, turns[DIRECT])) is not None}
    sheet = summarize(figures)
    versions = {kind.name: kind().version() for kind in kinds}
    notes = [
        "agent: growth of the processes' PSS from before the connections to when all stand, each of which has carried "
        "a request and its reply",
        f"kernel: growth of slabs in use, {', '.join(kernelmemory.OTHERS)} (/proc/meminfo) and the memory of TCP "
        f"sockets, less that of {DIRECT} with as many connections: what the two ends need is not the proxy's",
        f"a process may have {files():,} descriptors, which decides how many connections some contestants can have",
        *(f"{name}: {version}" for name, version in versions.items() if version),
        *(f"{name} did not take part: {why}" for name, why in absent.items()),
    ]
    results.show([sheet], notes, console)
    data = {"machine": facts, "versions": versions, "absent": absent, "contestants": figures, "turns": turns}
    text = results.document("Memory of idle connections", facts, [sheet], notes)
    console.print(f"written: {results.save('idle', data, text, options.run)}")
    return int(any(sample["errors"] for own in turns.values() for sample in own))


def start_all(kinds: Sequence[type[Contestant]], stands: Stands) -> list[tuple[Contestant, Stand]]:
    """Start all of them and their backends, and wait until each answers."""
    plane = stands.plane()
    for body in (manifests.service("bench", VIP, SERVICE_PORT), manifests.endpoint_slice("bench", PODS, BACKEND_PORT)):
        plane.api.create(manifests.for_api(manifests.with_udp(body)))
    present = [(kind(), stand) for kind, stand in zip(kinds, stands.stands, strict=True)]
    for contestant, stand in present:
        stands.start_backends(stand)
        contestant.start(stand, stands, plane.kubeconfig)
        contestant.await_answer(stand, stands)
    return present


def measure(contestant: Contestant, stand: Stand, stands: Stands, connections: int) -> dict[str, Any]:
    """Memory before the connections and while they stand."""
    each, others = DESCRIPTORS[contestant.name]
    wanted = min(connections, (files() - others) // each)
    targets = contestant.targets()
    stands.measure(stand, WARM, targets)
    stands.forget(stand)
    before, caches = settled(contestant.child)
    with Held(stand, stands.load_command(["idle", "--connections", str(wanted)], targets)) as held:
        opened = held.opened()
        during, grown = settled(contestant.child)
        report = held.end()
    errors = dict(report.errors)
    if opened < wanted and not errors:
        errors["not-open"] = wanted - opened
    growth = {key: during[key] - before[key] for key in during}
    most = Counter({name: size - caches.get(name, 0) for name, size in grown.items()}).most_common(CACHES)
    return {
        "connections": opened,
        "errors": errors,
        "before": before,
        "during": during,
        "growth": growth,
        "caches": dict(most),
    }


def files() -> int:
    """Descriptors that a process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def settled(child: Child | None) -> tuple[Memory, Memory]:
    """Memory by kind once it has stopped changing, or after 10 s, and the kernel's caches; the least of some looks."""
    end = time.monotonic() + SETTLE_SECONDS
    looks = [look(child)[0]]
    while time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
        looks = [*looks[-LOOKS:], look(child)[0]]
        if len(looks) > LOOKS and all(quiet([each[key] for each in looks]) for key in looks[0]):
            break
    return min((cleared(child) for _ in range(LOOKS)), key=lambda seen: kernel(seen[0]))


def cleared(child: Child | None) -> tuple[Memory, Memory]:
    """Memory without what others on the machine leave; who looks at all of /proc just then makes it more."""
    kernelmemory.forget_names()
    time.sleep(FREED_SECONDS)
    return look(child)


def quiet(values: Sequence[int]) -> bool:
    """Whether they are all alike."""
    return max(values) - min(values) <= SETTLED * max(values)


def look(child: Child | None) -> tuple[Memory, Memory]:
    """Bytes of the contestant's processes and of the kernel by kind, and of the caches of the kernel."""
    kernel = KernelMemory.read()
    agent = child.proportional_memory() if child else 0
    resident = child.memory()["VmRSS"] if child else 0
    return {"agent": agent, "resident": resident, **kernel.kinds}, kernel.caches


def judge(own: Sequence[dict[str, Any]], direct: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Medians of the turns without errors, in bytes for all connections; None without any."""
    good = [(sample, base) for sample, base in zip(own, direct, strict=True) if not sample["errors"] | base["errors"]]
    if not good:
        return None
    beyond = [
        kernel(sample["growth"]) - kernel(base["growth"]) * sample["connections"] / base["connections"]
        for sample, base in good
    ]
    return {
        "connections": good[0][0]["connections"],
        "agent_bytes": statistics.median(sample["growth"]["agent"] for sample, _ in good),
        "resident_bytes": statistics.median(sample["growth"]["resident"] for sample, _ in good),
        "kernel_bytes": statistics.median(beyond),
        "turns": len(good),
    }


def kernel(memory: Memory) -> int:
    """The kernel's part in bytes."""
    return sum(size for kind, size in memory.items() if kind not in ("agent", "resident"))


def tell(console: Console, turn: str, name: str, sample: dict[str, Any]) -> None:
    """One line in the terminal."""
    count = sample["connections"] or 1
    errors = f", errors: {sample['errors']}" if sample["errors"] else ""
    agent, system = sample["growth"]["agent"] / count, kernel(sample["growth"]) / count
    console.print(
        f"{turn}  {name:20} {sample['connections']:,} connections, agent {number(agent)} B, "
        f"kernel {number(system)} B each{errors}",
        highlight=False,
        soft_wrap=True,
    )


def summarize(figures: dict[str, dict[str, float]]) -> Sheet:
    """Bytes for each connection."""
    columns = ("contestant", "connections", "agent, B each", "resident, B each", "kernel, B each", "agent + kernel")
    sheet = Sheet("Memory of an idle connection", columns)
    for name, figure in figures.items():
        count = figure["connections"]
        each = [figure[key] / count for key in ("agent_bytes", "resident_bytes", "kernel_bytes")]
        sheet.add(name, f"{count:,}", *map(number, each), number(each[0] + each[2]))
    return sheet
