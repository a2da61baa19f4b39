"""A network namespace that lives as long as the test's process: made, entered and driven from outside.

A worker process (`support.nsworker`) holds it. It has no name on the machine; when the worker ends, which it does when
its standard input is closed, the kernel removes the namespace with everything in it.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Self

import msgspec

from support.probes import (
    Cease,
    Fetch,
    Observed,
    Order,
    Page,
    Probe,
    ProbeAll,
    Protocol,
    Request,
    Response,
    Serve,
    Ward,
)

TESTS = Path(__file__).resolve().parents[1]
#: an order is carried out within this time; hundreds of probes that all wait for a time-out are the slowest
ORDER_SECONDS = 120.0
COMMAND_SECONDS = 30.0
STOP_SECONDS = 10.0
CLONE_NEWNET = 0x40000000


class NamespaceError(Exception):
    """A command or an order in a namespace failed; the message has its output."""


class Namespace:
    """One namespace and its worker. Threads may share it. Use it as a context manager."""

    def __init__(self, name: str, folder: Path, *, mounts: bool = False, own: bool = True) -> None:
        """Prepare; nothing runs before start().

        ``folder`` takes the worker's log. ``mounts``: it also has mounts of its own, with an empty /run and a /sys that
        shows its own devices, so that programs of two nodes share no file there. ``own`` False: a worker in the
        network namespace that this process has.
        """
        self.name = name
        self.log = folder / f"{name}.log"
        self._mounts = mounts
        self._own = own
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Response]] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Make the namespace and return when its loopback device is up. Raises NamespaceError."""
        self._channel, theirs = socket.socketpair()
        unshare = ["unshare", "--net", *(["--mount"] if self._mounts else [])] if self._own else []
        command = [*unshare, sys.executable, "-m", "support.nsworker"]
        with theirs, self.log.open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": str(TESTS)}
            # In a group of its own: Ctrl-C reaches it only through `stop`, which still needs it.
            self._process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=log, stderr=log, env=environment, process_group=0
            )
        threading.Thread(target=self._listen, args=(self._channel,), daemon=True).start()
        self.probe([])  # it answers, so unshare has done its work
        if self._own:
            self.ip("link set lo up")
        if self._mounts:
            self.run("mount", "-t", "tmpfs", "tmpfs", "/run")
            self.run("mount", "-t", "sysfs", "sysfs", "/sys")

    def stop(self) -> None:
        """End the worker, and so the namespace, once nothing else runs in it. May be called more than once."""
        channel, self._channel = self._channel, None
        process, self._process = self._process, None
        if channel is not None:
            channel.shutdown(socket.SHUT_RDWR)  # its thread may be reading
            channel.close()
        if process is not None:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the worker. Raises NamespaceError if it does not run."""
        if self._process is None:
            raise NamespaceError(f"the namespace {self.name} is not started")
        return self._process.pid

    # --- commands

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs a command inside. Its working directory is the root directory."""
        mounts = ["--mount"] if self._mounts else []
        return ["nsenter", f"--target={self.pid}", "--net", *mounts, *arguments]

    def run(self, *arguments: str, text: str = "") -> str:
        """Run a command inside to its end and return its output. Raises NamespaceError if it fails."""
        command = self.command(*arguments)
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
        if done.returncode:
            said = f"{done.stdout}{done.stderr}".strip()
            raise NamespaceError(f"{self.name}: {' '.join(arguments)} ended with code {done.returncode}: {said}")
        return done.stdout

    def popen(self, *arguments: str, log: IO[bytes], **environment: str) -> subprocess.Popen[bytes]:
        """Start a command inside, with its output in ``log``. The caller ends it; else it is killed with the worker."""
        process = subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
            env={**os.environ, **environment},
        )
        self._order(Ward(process.pid))
        return process

    def ip(self, *lines: str) -> None:
        """Run ``ip`` with each line as its arguments, in one process. Raises NamespaceError."""
        self.run("ip", "-batch", "-", text="".join(f"{line}\n" for line in lines))

    def sysctl(self, settings: Mapping[str, object]) -> None:
        """Write settings, named by their path under /proc/sys/net. Raises NamespaceError."""
        script = "".join(f"echo {value} > /proc/sys/net/{path}\n" for path, value in settings.items())
        self.run("sh", "-e", text=script)

    def open_socket(self, family: socket.AddressFamily, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
        """A socket of this process in the namespace: it stays there, wherever it is used. Raises OSError."""
        made: Future[socket.socket] = Future()

        def make() -> None:
            try:
                with Path(f"/proc/{self.pid}/ns/net").open("rb") as namespace:
                    _enter(namespace.fileno())
                made.set_result(socket.socket(family, kind, protocol))
            except BaseException as error:
                made.set_exception(error)

        # A thread has a namespace of its own, and ends with it.
        threading.Thread(target=make, daemon=True).start()
        return made.result(COMMAND_SECONDS)

    # --- the worker

    def probe(self, probes: Iterable[Probe], *, parallel: int = 48) -> list[Observed]:
        """Make all the probes and return what came of each, in order. Raises NamespaceError."""
        return msgspec.json.decode(self._order(ProbeAll(tuple(probes), parallel)), type=list[Observed])

    def serve(self, name: str, hosts: Sequence[str], port: int, protocols: Sequence[Protocol] = ("TCP", "UDP")) -> None:
        """Serve as a backend (see `Serve`) and return when it listens. Raises NamespaceError."""
        self._order(Serve(name, tuple(hosts), port, tuple(protocols)))

    def cease(self, name: str) -> None:
        """End the backend of this name. Raises NamespaceError."""
        self._order(Cease(name))

    def fetch(self, host: str, port: int, path: str = "/") -> Page:
        """Ask for a page by HTTP. Raises NamespaceError."""
        return msgspec.json.decode(self._order(Fetch(host, port, path)), type=Page)

    def _order(self, order: Order) -> msgspec.Raw:
        """Have an order carried out and return its result. Raises NamespaceError."""
        future: Future[Response] = Future()
        with self._lock:
            if self._channel is None:
                raise NamespaceError(f"the namespace {self.name} is not started")
            number = next(self._numbers)
            self._waiting[number] = future
            try:
                self._channel.sendall(msgspec.json.encode(Request(number, order)) + b"\n")
            except OSError as error:
                raise self._ended() from error
        response = future.result(ORDER_SECONDS)
        if response.error:
            raise NamespaceError(f"{self.name}: {response.error}")
        return response.result

    def _listen(self, channel: socket.socket) -> None:
        """Hand responses to those who wait; when there are no more, tell them."""
        buffered = b""
        try:
            while piece := channel.recv(1 << 16):
                *lines, buffered = (buffered + piece).split(b"\n")
                for line in lines:
                    response = msgspec.json.decode(line, type=Response)
                    self._waiting.pop(response.number).set_result(response)
        except OSError:
            pass
        for future in list(self._waiting.values()):
            future.set_exception(self._ended())

    def _ended(self) -> NamespaceError:
        log = self.log.read_text(errors="replace") if self.log.exists() else ""
        return NamespaceError(f"the worker of {self.name} ended: {log[-2000:]}")


def _enter(namespace: int) -> None:
    """Move this thread to a network namespace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
