"""The agent on 10,000 Services of 10 endpoints: how soon it serves, what it needs, how fast it follows a change."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import agent
import limits
import manifests
import results
from load import LoadTool, Report
from processes import BenchError, Child, output_of, wait_for
from results import Sheet, quantile
from rich.console import Console
from stands import SYSCTLS

SERVICE_PORT = 7080
#: one wildcard listener is the backend of all Services
BACKEND_PORT = 18080
#: the Service that changes: its address, and the endpoints that it has in turn
CHANGING = "127.63.0.1"
ENDPOINTS = ("127.62.0.1", "127.62.0.2")
CHANGING_PORT = 18081
ADMIN = ("127.0.0.1", 10256)
#: Services asked by one process of the load tool (its command line is limited), and requests per second
TARGETS = 2000
RATE = 5000
#: set in the process that runs in a network namespace of its own
MARK = "SPLICEWAY_BENCH_NAMESPACE"

#: seconds, seconds, bytes, seconds
GOALS = {"ready": 3.0, "served": 1.0, "memory": 150e6, "change_p99": 0.010}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py scale``."""
    results.add_run_argument(parser)
    parser.add_argument("--services", type=int, default=10_000, help="Services (10000)")
    parser.add_argument("--endpoints", type=int, default=10, help="endpoints of each (10)")
    parser.add_argument(
        "--bound", type=int, nargs="+", default=[2000, 10_000], help="how many can be bound, a run each"
    )
    parser.add_argument("--changes", type=int, default=300, help="changes of one endpoint (300)")


def run(options: argparse.Namespace, console: Console) -> int:
    """One run for each number of bound Services. Returns 1 when a bound Service did not serve."""
    enter_namespace(console)
    limits.raise_open_files()
    facts = results.machine()
    load = LoadTool.build()
    runs = [one_run(options, min(bound, options.services), load, console) for bound in options.bound]
    sheet = summarize(runs, options)
    notes = [
        "ready: from the start of the process until /readyz says that all is read, merged, planned and in the engine",
        f"served: until a verified reply had come through every bound Service, after ready; asking {RATE:,} takes 1 s",
        "change: from the rename of a manifest file until a new connection reaches the new endpoint",
        "the ClusterIPs of Services that are not bound are not addresses of this machine; the agent keeps trying them",
        f"spliceway: {agent.version()}",
    ]
    results.show([sheet], notes, console)
    data = {"machine": facts, "runs": runs}
    console.print(
        f"written: {results.save('scale', data, results.document('Scale', facts, [sheet], notes), options.run)}"
    )
    return int(any(outcome["served_errors"] for outcome in runs))


def enter_namespace(console: Console) -> None:
    """Start over in a network namespace, where all of 127.0.0.0/8 is free and the sysctls are ours."""
    if os.environ.get(MARK):
        output_of(["ip", "link", "set", "lo", "up"])
        for name, value in SYSCTLS.items():
            with contextlib.suppress(OSError):
                Path("/proc/sys/net", name).write_text(str(value))
        return
    flags = ["--net"] if os.geteuid() == 0 else ["--net", "--map-root-user"]
    unshare = shutil.which("unshare")
    if unshare and subprocess.run([unshare, *flags, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[MARK] = "1"
        os.execv(unshare, [unshare, *flags, sys.executable, *sys.argv])
    console.print(
        "no network namespace: the backend listens on all addresses of this machine meanwhile", style="yellow"
    )


def write_manifests(folder: Path, options: argparse.Namespace, bound: int) -> int:
    """The big file and the small one that will change; returns the big one's size in bytes."""
    big = folder / "cluster.json"
    manifests.write(big, manifests.many(options.services, options.endpoints, bound, SERVICE_PORT, BACKEND_PORT))
    manifests.write(folder / "changing-service.json", [manifests.service("changing", CHANGING, SERVICE_PORT)])
    change(folder, 0)
    return big.stat().st_size


def change(folder: Path, turn: int) -> str:
    """Give the changing Service its other endpoint, and return the name by which the backend will answer."""
    host = ENDPOINTS[turn % 2]
    manifests.write(folder / "changing-slice.json", [manifests.endpoint_slice("changing", [host], CHANGING_PORT)])
    return f"{host}:{CHANGING_PORT}"


def one_run(options: argparse.Namespace, bound: int, load: LoadTool, console: Console) -> dict[str, Any]:
    """Start everything once and measure."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spliceway-bench-")))
        cluster = folder / "manifests"
        cluster.mkdir()
        size = write_manifests(cluster, options, bound)
        listens = [f"0.0.0.0:{BACKEND_PORT}", *(f"{host}:{CHANGING_PORT}" for host in ENDPOINTS)]
        command = [str(load.path), "serve", "--listen", ",".join(listens)]
        backend = stack.enter_context(Child("backend", command, folder / "backend.log"))
        backend.wait_until(lambda: b"ready" in backend.log.read_bytes(), "accepting")
        words = agent.command([cluster], folder / "state.sock", admin=f"{ADMIN[0]}:{ADMIN[1]}")
        child = stack.enter_context(Child("spliceway", words, folder / "agent.log", agent.environment()))
        child.wait_until(is_ready, "being ready", deadline=120, step=0.005)
        ready = time.monotonic() - child.started
        errors = serve_all(load, bound)
        served = time.monotonic() - child.started - ready
        memory = child.memory()
        console.print(
            f"{bound:,} bound: ready {ready:.2f} s, served {served:.2f} s, {memory['VmHWM'] / 1e6:.0f} MB",
            highlight=False,
        )
        changes = [one_change(cluster, turn) for turn in range(1, options.changes + 1)]
        return {
            "bound": bound,
            "manifest_bytes": size,
            "ready": ready,
            "served": served,
            "served_errors": errors,
            "memory": memory,
            "memory_after_changes": child.memory(),
            "changes": changes,
            "log": child.log.read_text(errors="replace").splitlines()[:40],
        }


def is_ready() -> bool:
    """/readyz answers 200."""
    connection = http.client.HTTPConnection(*ADMIN, timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def serve_all(load: LoadTool, bound: int) -> dict[str, int]:
    """A verified reply through every bound Service; returns the errors by kind.

    Raises:
        BenchError: the last one does not answer within 30 s.
    """
    addresses = [f"{manifests.cluster_ip(number, manifests.LOCAL)}:{SERVICE_PORT}" for number in range(bound)]
    wait_for(lambda: reaches(addresses[-1]) is not None, "an answer through the last Service", deadline=30, step=0.005)
    errors: dict[str, int] = {}
    replies = 0
    for start in range(0, bound, TARGETS):
        targets = addresses[start : start + TARGETS]
        arguments = ["paced", "--rate", str(RATE), "--seconds", str(len(targets) / RATE), "--target", ",".join(targets)]
        report = Report.parse(output_of([str(load.path), *arguments]))
        replies += report.requests
        for kind, count in report.errors.items():
            errors[kind] = errors.get(kind, 0) + count
    if not errors and replies < bound:
        errors["not-asked"] = bound - replies
    return errors


def reaches(address: str, timeout: float = 2.0) -> str | None:
    """One request on a new connection: the name of the backend that answered, or None."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
            reply = b""
            while chunk := connection.recv(4096):
                reply += chunk
    except OSError:
        return None
    return reply.rpartition(b"server=")[2].decode().strip() or None


def one_change(folder: Path, turn: int) -> float:
    """Seconds from the rename of the file until a new connection reaches the new endpoint."""
    time.sleep(random.uniform(0.01, 0.04))  # so that changes do not fall in step with anything in the agent
    expected = change(folder, turn)
    start = time.perf_counter()
    while reaches(f"{CHANGING}:{SERVICE_PORT}") != expected:
        if time.perf_counter() - start > 10:
            raise BenchError(f"change {turn} had no effect within 10 s")
    return time.perf_counter() - start


def summarize(runs: Sequence[dict[str, Any]], options: argparse.Namespace) -> Sheet:
    """One column for each run, with the goals."""
    title = f"{options.services:,} Services x {options.endpoints} endpoints from JSON manifests"
    sheet = Sheet(title, ("measure", "goal", *(f"{outcome['bound']:,} bound" for outcome in runs)))
    rows: list[tuple[str, str, list[str]]] = [
        ("manifest size, MB", "", [f"{one['manifest_bytes'] / 1e6:.0f}" for one in runs]),
        ("start to ready, s", f"{GOALS['ready']:g}", [f"{one['ready']:.2f}" for one in runs]),
        ("ready to all bound served, s", f"{GOALS['served']:g} (2,000)", [f"{one['served']:.2f}" for one in runs]),
        (
            "memory at its highest, MB",
            f"{GOALS['memory'] / 1e6:.0f}",
            [f"{one['memory']['VmHWM'] / 1e6:.0f}" for one in runs],
        ),
        ("memory then, MB", "", [f"{one['memory']['VmRSS'] / 1e6:.0f}" for one in runs]),
        ("change, median ms", "", [f"{quantile(one['changes'], 50) * 1e3:.1f}" for one in runs]),
        (
            "change, p99 ms",
            f"{GOALS['change_p99'] * 1e3:g}",
            [f"{quantile(one['changes'], 99) * 1e3:.1f}" for one in runs],
        ),
        ("change, worst ms", "", [f"{max(one['changes']) * 1e3:.1f}" for one in runs]),
    ]
    for name, goal, cells in rows:
        sheet.add(name, goal, *cells)
    return sheet
