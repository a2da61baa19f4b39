"""Flows that a test holds in its own hands: standing connections, and datagrams from one port that never changes."""

from __future__ import annotations

import itertools
import socket
import threading
from contextlib import suppress
from typing import Self

from support.nodes import Host
from support.rig import wait_until

from .expect import PATIENCE
from .services import Target

#: seconds that one step of a connection may take; as long as a client waits that has sent its SYN twice
STEP_SECONDS = 5.0
#: between two datagrams of a stream
PACE_SECONDS = 0.02
#: answers in a row that make certain who serves a stream
CERTAIN = 5
_LARGEST = 1 << 16


def family_of(host: str) -> socket.AddressFamily:
    """The address family of an IP address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def connect(client: Host, target: Target, timeout: float = STEP_SECONDS) -> socket.socket:
    """A connection from a place to a target. Raises OSError."""
    sock = client.namespace.open_socket(family_of(target.host), socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect((target.host, target.port))
    except OSError:
        sock.close()
        raise
    return sock


def listen(host: Host, port: int, family: int = 4) -> socket.socket:
    """A listening socket at a place."""
    address = host.host(family)
    sock = host.namespace.open_socket(family_of(address), socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.settimeout(STEP_SECONDS)
    sock.bind((address, port))
    sock.listen()
    return sock


def exchange(connection: socket.socket, text: str = "still there") -> str:
    """Send a line to one of the rig's backends and return the name of the one that answers. Raises OSError."""
    connection.sendall(f"{text}\n".encode())
    received = b""
    while not received.endswith(b"\n"):
        piece = connection.recv(_LARGEST)
        assert piece, "the backend has closed the connection"
        received += piece
    name, _, echoed = received.decode().removesuffix("\n").split(" ", 2)
    assert echoed == text
    return name


class Stream:
    """A client that sends datagrams from one port to one target, whatever comes back. Use it as a context manager."""

    def __init__(self, client: Host, target: Target, port: int = 33_500) -> None:
        self.target = target
        self.port = port
        #: who answered, in order
        self.answers: list[str] = []
        #: errors that its socket was told, as ICMP errors are
        self.errors = 0
        self._numbers = itertools.count()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._socket = client.namespace.open_socket(family_of(target.host), socket.SOCK_DGRAM)
        self._socket.bind(("", port))
        self._socket.connect((target.host, target.port))
        self._socket.settimeout(PACE_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(STEP_SECONDS)
        self._socket.close()

    def wait_served_by(self, backend: str) -> None:
        """Return when the latest answers, some in a row, are this backend's."""
        wait_until(lambda: self._served_by(backend), f"{backend} serves {self}", PATIENCE)

    def wait_refused(self) -> None:
        """Return when the client was told several times more that nobody is there."""
        before = self.errors
        wait_until(lambda: self.errors >= before + CERTAIN, f"{self} is refused", PATIENCE)

    def stays_with(self, backend: str) -> None:
        """Return after some more answers, all of which must be this backend's."""
        before = len(self.answers)
        wait_until(lambda: len(self.answers) >= before + CERTAIN, f"{self} goes on", PATIENCE)
        assert set(self.answers[before:]) == {backend}

    def __str__(self) -> str:
        return f"a stream to {self.target} ({self.errors} errors, last answers {self.answers[-CERTAIN:]})"

    def _served_by(self, backend: str) -> bool:
        return len(self.answers) >= CERTAIN and set(self.answers[-CERTAIN:]) == {backend}

    def _run(self) -> None:
        while not self._ended.is_set():
            number = f"{next(self._numbers)}"
            try:
                self._socket.send(number.encode())
                name, _, echoed = self._socket.recv(_LARGEST).decode().split(" ", 2)
                while echoed != number:  # late ones, of numbers before
                    name, _, echoed = self._socket.recv(_LARGEST).decode().split(" ", 2)
                self.answers.append(name)
                self._ended.wait(PACE_SECONDS)
            except TimeoutError:
                continue
            except OSError:
                self.errors += 1
                self._ended.wait(PACE_SECONDS)


class Sink:
    """A backend that reads all, and then answers with how many bytes there were."""

    def __init__(self, host: Host, port: int) -> None:
        self._listener = listen(host, port)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(STEP_SECONDS)

    def _run(self) -> None:
        self._listener.settimeout(None)
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=_count, args=(connection,), daemon=True).start()


def _count(connection: socket.socket) -> None:
    buffer, total = bytearray(1 << 20), 0
    with connection, suppress(OSError):
        connection.settimeout(STEP_SECONDS)
        while count := connection.recv_into(buffer):
            total += count
        connection.sendall(f"{total}".encode())
