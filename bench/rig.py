"""Where a bench runs: three network namespaces joined by veth (root), or loopback addresses.

``client -- proxy -- backend``: clients reach Service addresses in the proxy namespace, and backends are reached only
through it, as Pods are through a node. Addresses are of 198.18.0.0/15, reserved for benchmarks; nothing leaves the
machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from load import LoadTool, Report
from processes import BenchError, Child, output_of

#: the part of a namespace's name that tells that it is ours
PREFIX = "spliceway-bench-"

#: so that neither ports nor TIME_WAIT sockets nor backlogs are what is measured
SYSCTLS = {
    "net/ipv4/ip_local_port_range": "1024 65000",
    "net/ipv4/tcp_tw_reuse": "1",
    "net/ipv4/tcp_max_tw_buckets": "1000",
    "net/core/somaxconn": "4096",
    "net/ipv4/tcp_max_syn_backlog": "4096",
    "net/ipv4/ip_forward": "1",
}

#: Service addresses, one for each contestant
SERVICE_PORT = 80
BACKEND_PORT = 8080
BACKENDS = 3


class Rig:
    """The parts of a layout. Use as a context manager: leaving it ends all processes and removes all namespaces."""

    def __init__(self, load: LoadTool) -> None:
        self.load = load
        self.isolated = os.geteuid() == 0
        self.folder = Path()
        self.backends: list[str] = []
        self._stack = ExitStack()
        self._children = 0
        self._namespaces: dict[str, str] = {}

    def __enter__(self) -> Rig:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spliceway-bench-")))
            if self.isolated:
                remove_leftovers()
                stack.callback(self._remove_namespaces)
                self._make_namespaces()
            self.backends = [f"{self._backend_address(number)}:{BACKEND_PORT}" for number in range(BACKENDS)]
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def service_address(self, number: int) -> str:
        """A Service's address:port in the proxy namespace."""
        return f"198.18.1.{100 + number}:{SERVICE_PORT}" if self.isolated else f"127.66.1.{100 + number}:7080"

    def command(self, place: str, command: Sequence[str]) -> list[str]:
        """``command`` as it runs in a namespace (``client``, ``proxy``, ``backend``)."""
        if not self.isolated:
            return list(command)
        return ["nsenter", f"--net=/run/netns/{self._namespaces[place]}", *command]

    def start(self, name: str, place: str, command: Sequence[str], env: dict[str, str] | None = None) -> Child:
        """Start a daemon that ends with the rig."""
        self._children += 1
        log = self.folder / f"{self._children}-{name}.log"
        return self._stack.enter_context(Child(name, self.command(place, command), log, env))

    def start_backend(self, *addresses: str) -> Child:
        """Start one backend process on all ``addresses`` and wait until it accepts."""
        command = [str(self.load.path), "serve", "--listen", ",".join(addresses)]
        child = self.start("backend", "backend", command)
        child.wait_until(lambda: b"ready" in child.log.read_bytes(), "accepting")
        return child

    def measure(self, arguments: Sequence[str], targets: Sequence[str], timeout: float = 60.0) -> Report:
        """Run the load tool in the client namespace against ``targets``."""
        return Report.parse(output_of(self.command("client", self._load_command(arguments, targets)), timeout))

    def start_load(self, arguments: Sequence[str], targets: Sequence[str]) -> Child:
        """The same without waiting for the end; the report will be all that is in the child's log."""
        return self.start("load", "client", self._load_command(arguments, targets))

    def _load_command(self, arguments: Sequence[str], targets: Sequence[str]) -> list[str]:
        return [str(self.load.path), *arguments, "--target", ",".join(targets)]

    def answers(self, targets: Sequence[str]) -> bool:
        """True when one request to ``targets`` gets its reply."""
        report = self.measure(["paced", "--rate", "100", "--seconds", "0.005"], targets)
        return report.requests > 0 and not report.errors

    def _backend_address(self, number: int) -> str:
        return f"198.18.2.{11 + number}" if self.isolated else f"127.66.2.{11 + number}"

    def _make_namespaces(self) -> None:
        if shutil.which("ip") is None or shutil.which("nsenter") is None:
            raise BenchError("network namespaces need ip and nsenter: apt-get install iproute2 util-linux")
        for place in ("client", "proxy", "backend"):
            self._namespaces[place] = f"{PREFIX}{os.getpid()}-{place}"
            output_of(["ip", "netns", "add", self._namespaces[place]])
            self._ip(place, "link set lo up")
            settings = "; ".join(f"echo {value} > /proc/sys/{name}" for name, value in SYSCTLS.items())
            output_of(self.command(place, ["sh", "-ec", settings]))
        for place, link, net in (("client", "front", 1), ("backend", "back", 2)):
            proxy = self._namespaces["proxy"]
            self._ip(place, f"link add eth0 type veth peer name {link} netns {proxy}")
            self._ip("proxy", f"address add 198.18.{net}.1/24 dev {link}")
            self._ip("proxy", f"link set {link} up")
            self._ip(place, f"address add 198.18.{net}.2/24 dev eth0")
            self._ip(place, "link set eth0 up")
            self._ip(place, f"route add default via 198.18.{net}.1")
        for number in range(10):
            host = self.service_address(number).rpartition(":")[0]
            self._ip("proxy", f"address add {host}/32 dev front")
        for number in range(BACKENDS):
            self._ip("backend", f"address add {self._backend_address(number)}/24 dev eth0")

    def _ip(self, place: str, words: str) -> None:
        output_of(["ip", "-netns", self._namespaces[place], *words.split()])

    def _remove_namespaces(self) -> None:
        for name in self._namespaces.values():
            with contextlib.suppress(BenchError):
                output_of(["ip", "netns", "del", name])


def remove_leftovers() -> None:
    """Remove the namespaces of benches that were killed before they could clean up."""
    for line in output_of(["ip", "netns", "list"]).splitlines():
        name = line.split()[0]
        owner = name.removeprefix(PREFIX).partition("-")[0]
        if name.startswith(PREFIX) and not Path(f"/proc/{owner}").exists():
            output_of(["ip", "netns", "del", name])
