"""Real sockets around a real engine: backends in threads, and an engine in front of them, all on loopback."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

from spliceway._engine import Engine, PoolCounters

#: how long any single wait may take before a test fails
PATIENCE = 20.0
Address = tuple[str, int]
Policy = tuple[int, float, float, float, int, bool]
#: group and timeout in seconds
Affinity = tuple[str, float]
Record = tuple[str, str, Policy, float | None, Affinity | None, tuple[tuple[str, int, int, bool], ...]]


def policy(
    tries: int = 4,
    connect_timeout: float = 0.25,
    deadline: float = 0.9,
    budget_ratio: float = 1.0,
    budget_reserve: int = 100,
    replay: bool = False,
) -> Policy:
    """A retry policy in the engine's order, with the product's defaults."""
    return (tries, connect_timeout, deadline, budget_ratio, budget_reserve, replay)


def record(
    name: str,
    backends: list[Address],
    *,
    balance: str = "round-robin",
    retry: Policy | None = None,
    drain: float | None = None,
    affinity: Affinity | None = None,
) -> Record:
    """A pool in the engine's order, with these backends, all healthy and of weight 1."""
    members = tuple((host, port, 1, True) for host, port in backends)
    return (name, balance, retry or policy(), drain, affinity, members)


def wait_until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait for ``condition``; fail with ``what`` when it does not come true in time."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {patience} s: {what}"
        time.sleep(0.002)


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_all(sock: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    chunks = []
    while chunk := sock.recv(1 << 18):
        chunks.append(chunk)
    return b"".join(chunks)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """``size`` bytes, or fewer when the stream ends first."""
    chunks = []
    while size and (chunk := sock.recv(size)):
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


_ports = itertools.count(20_000)


def closed_port() -> Address:
    """An address on which nobody listens: a new one each time, outside the ephemeral range."""
    for port in _ports:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return ("127.0.0.1", port)
    raise AssertionError("no free port")


def listening(address: Address = ("127.0.0.1", 0)) -> socket.socket:
    """A listening socket."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    sock.listen(4096)
    return sock


class Backend:
    """A backend on loopback that serves each connection with ``handler`` in a thread of its own."""

    def __init__(self, handler: Callable[[socket.socket], None], address: Address = ("127.0.0.1", 0)) -> None:
        self.handler = handler
        self.accepted = 0
        self._listener = listening(address)
        self.address: Address = self._listener.getsockname()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            connection.settimeout(PATIENCE)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.handler(connection)

    def close(self) -> None:
        """Refuse connections from now on; those that stand go on."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE)

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def echo(connection: socket.socket) -> None:
    """Send back what comes, until the peer ends."""
    while chunk := connection.recv(1 << 16):
        connection.sendall(chunk)


def named(name: bytes) -> Callable[[socket.socket], None]:
    """A handler that answers every request of one line with its own name."""

    def handler(connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            connection.sendall(name)

    return handler


class Rig:
    """An engine with one pool, ``p``, behind one listener."""

    def __init__(
        self, backends: list[Address], *, workers: int = 2, retry: Policy | None = None, **options: object
    ) -> None:
        self.engine = Engine(workers=workers, **options)  # type: ignore[arg-type]
        self.engine.start()
        self.generation = 0
        self.apply(backends, retry=retry)
        listener = listening()
        self.address: Address = listener.getsockname()
        self.listener = self.engine.add_listener(listener.detach(), "p")

    def apply(
        self,
        backends: list[Address],
        *,
        balance: str = "round-robin",
        retry: Policy | None = None,
        drain: float | None = None,
        affinity: Affinity | None = None,
    ) -> None:
        """Publish the pool with these backends, all healthy and of weight 1."""
        self.generation += 1
        pool = record("p", backends, balance=balance, retry=retry, drain=drain, affinity=affinity)
        self.engine.apply([pool], [], self.generation)

    def connect(self, client: str = "127.0.0.1") -> socket.socket:
        """A connection of a client with this address."""
        sock = socket.create_connection(self.address, PATIENCE, (client, 0))
        sock.settimeout(PATIENCE)
        return sock

    def counters(self) -> PoolCounters:
        """The pool's counters."""
        return self.engine.pool_counters("p")

    def wait_idle(self) -> None:
        """Wait until no flow is left."""
        wait_until(lambda: self.engine.counters().flows == 0, "flows to end")


@contextlib.contextmanager
def rig(backends: list[Address], **options: object) -> Iterator[Rig]:
    """An engine that is closed in the end, and whose workers never panicked."""
    made = Rig(backends, **options)  # type: ignore[arg-type]
    try:
        yield made
        assert made.engine.counters().worker_panics == 0
    finally:
        made.engine.close()
