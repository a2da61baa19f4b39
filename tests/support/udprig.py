"""Datagrams around a real engine: UDP backends in threads, and an engine in front of them, all on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from spliceway._engine import Engine, PoolCounters
from support.rig import PATIENCE, Address, record, wait_until

#: what a backend answers to a datagram; none: nothing
Answer = Callable[[bytes], bytes | None]


def udp_socket(address: Address = ("127.0.0.1", 0), *, family: int = socket.AF_INET) -> socket.socket:
    """A bound datagram socket that gives up waiting in time."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE)
    sock.bind(address)
    return sock


def closed_udp_port() -> Address:
    """An address at which nobody takes datagrams."""
    with udp_socket() as sock:
        address: Address = sock.getsockname()
    return address


def silent(_: bytes) -> None:
    """Answer nothing."""


def echo(datagram: bytes) -> bytes:
    """Answer the same."""
    return datagram


def named(name: bytes) -> Answer:
    """Answer ``name`` and what was asked."""
    return lambda datagram: name + b":" + datagram


class UdpBackend:
    """A backend on loopback that answers each datagram in a thread of its own."""

    def __init__(self, answer: Answer = echo, address: Address = ("127.0.0.1", 0)) -> None:
        self.answer = answer
        self.received: list[tuple[bytes, Address]] = []
        self._socket = udp_socket(address)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.address: Address = self._socket.getsockname()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._socket.settimeout(None)
        while not self._closing:
            try:
                datagram, client = self._socket.recvfrom(1 << 16)
            except OSError:
                return
            if self._closing:
                return
            self.received.append((datagram, client))
            answer = self.answer(datagram)
            if answer is not None:
                with contextlib.suppress(OSError):
                    self._socket.sendto(answer, client)

    def close(self) -> None:
        """Refuse datagrams from now on."""
        self._closing = True
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self.address)  # wakes the thread
        self._thread.join(PATIENCE)
        self._socket.close()

    def __enter__(self) -> UdpBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class UdpRig:
    """An engine with one pool, ``p``, behind one UDP socket."""

    def __init__(
        self, backends: list[Address], *, workers: int = 2, listen: Address = ("127.0.0.1", 0), **options: object
    ) -> None:
        self.engine = Engine(workers=workers, **options)  # type: ignore[arg-type]
        self.engine.start()
        self.generation = 0
        self.apply(backends)
        sock = udp_socket(listen)
        self.address: Address = sock.getsockname()
        self.listener = self.engine.add_listener(sock.detach(), "p")

    def apply(self, backends: list[Address], *, weights: tuple[int, ...] = (), **options: object) -> None:
        """Publish the pool with these backends, all healthy, of weight 1 unless ``weights`` tells."""
        self.generation += 1
        pool = record("p", backends, **options)  # type: ignore[arg-type]
        if weights:
            members = tuple((host, port, weight, True) for (host, port), weight in zip(backends, weights, strict=True))
            pool = (*pool[:5], members)
        self.engine.apply([pool], [], self.generation)

    def client(self, address: Address = ("127.0.0.1", 0)) -> socket.socket:
        """A client's socket, connected to the engine: it takes answers from the address dialled only."""
        sock = udp_socket(address)
        sock.connect(self.address)
        return sock

    def counters(self) -> PoolCounters:
        """The pool's counters."""
        return self.engine.pool_counters("p")

    def sessions(self) -> int:
        """Sessions now."""
        return self.engine.counters().sessions

    def wait_sessions(self, count: int) -> None:
        """Wait until there are ``count`` sessions."""
        wait_until(lambda: self.sessions() == count, f"{count} sessions, not {self.sessions()}")


def ask(client: socket.socket, question: bytes = b"who?") -> bytes:
    """Send a datagram and take the answer."""
    client.send(question)
    return client.recv(1 << 16)


@contextlib.contextmanager
def udp_rig(backends: list[Address], **options: object) -> Iterator[UdpRig]:
    """An engine that is closed in the end, and whose workers never panicked."""
    made = UdpRig(backends, **options)  # type: ignore[arg-type]
    try:
        yield made
        assert made.engine.counters().worker_panics == 0
    finally:
        made.engine.close()
