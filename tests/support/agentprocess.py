"""A real agent as a subprocess, and real backends in threads, for process tests."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from spliceway.cli.agent import fetch_state
from spliceway.errors import AgentUnreachableError
from spliceway.model import Address
from spliceway.observe.state import AgentState

#: seconds that a test waits for anything
PATIENCE = 20.0
#: ports above the kernel's ephemeral range (32768 to 60999), different in each process that runs tests
_ports: Iterator[int] = itertools.count(61_000 + os.getpid() % 4000)


def free_vip() -> Address:
    """An address on 127/8 that nobody else uses."""
    for port in _ports:
        address = Address("127.64.0.10", port % 65_536 or 61_000)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(address)
            except OSError:
                continue
            return address
    raise AssertionError("unreachable")


def manifest(vip: Address, *backends: Address, name: str = "shop", replay: bool = True) -> str:
    """A Service and its EndpointSlice."""
    ports = {backend.port for backend in backends} or {1}
    assert len(ports) == 1, "one slice has one port"
    endpoints = "".join(f"\n  - addresses: ['{backend.host}']" for backend in backends) or " []"
    return f"""\
apiVersion: v1
kind: Service
metadata:
  name: {name}
  annotations: {{spliceway.io/replay: "{str(replay).lower()}"}}
spec:
  clusterIP: {vip.host}
  ports: [{{name: http, port: {vip.port}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {ports.pop()}}}]
endpoints:{endpoints}
"""


class EchoBackend:
    """Sends back what it gets, until the client is done."""

    def __init__(self, address: Address = Address("127.0.0.1", 0)) -> None:  # noqa: B008
        self._listener = socket.create_server(address, backlog=128)
        self.address = Address(*self._listener.getsockname())
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=_echo, args=(client,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE)


def _echo(client: socket.socket) -> None:
    with client:
        try:
            while data := client.recv(65536):
                client.sendall(data)
        except OSError:
            return


class AgentProcess:
    """``spliceway run`` with its log in a file; killed at the end at the latest."""

    def __init__(self, folder: Path, *arguments: str, name: str = "agent") -> None:
        self.socket = folder / f"{name}.sock"
        self.log_path = folder / f"{name}.log"
        command = [sys.executable, "-m", "spliceway", "run", "--state-socket", str(self.socket)]
        for flag in ("--healthz-bind-address", "--metrics-bind-address"):
            if flag not in arguments:
                command += [flag, "off"]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def state(self) -> AgentState:
        return fetch_state(self.socket)

    def wait(self, condition: Callable[[AgentState], bool]) -> AgentState:
        """Wait until the agent's state fulfils ``condition``."""
        deadline = time.monotonic() + PATIENCE
        state = None
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the agent ended: {self.log}"
            try:
                state = self.state()
            except AgentUnreachableError:
                time.sleep(0.02)
                continue
            if condition(state):
                return state
            time.sleep(0.02)
        raise AssertionError(f"not in time: {state}\n{self.log}")

    def wait_ready(self) -> AgentState:
        return self.wait(lambda state: state.ready)

    def wait_log(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in self.log:
            assert time.monotonic() < deadline, f"{text!r} was never logged: {self.log}"
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_exit(self) -> int:
        return self.process.wait(PATIENCE)


def cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``spliceway`` with these arguments to its end."""
    return subprocess.run(
        [sys.executable, "-m", "spliceway", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )


def round_trip(address: Address, message: bytes = b"ping") -> bytes:
    """Send a message over a new connection and return what comes back until the end."""
    with socket.create_connection(address, timeout=PATIENCE) as sock:
        sock.sendall(message)
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while data := sock.recv(65536):
            received += data
        return received
