"""Single probes, of real sockets."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from spliceway.health.prober import probe
from spliceway.model import Address, HealthCheck, Target

POOL = "default/shop:http"


def listen(port: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen()
    return sock


def address_of(sock: socket.socket) -> Address:
    return Address(*sock.getsockname())


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("answer", "ok", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True, "answers"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n", True, "answers"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", True, "answers"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False, "HTTP 503"),
        (b"", False, "closed before a status"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", False, "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000, False, "no HTTP answer"),
    ],
)
async def test_http_probe(answer: bytes, ok: bool, reason: str) -> None:
    """A backend that says 503 would get clients, or one that redirects would get none."""
    requests: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            requests.append(await stream.receive_some(4096))
            try:
                await stream.send_all(answer)
            except trio.BrokenResourceError:
                assert len(answer) > 16_384  # the prober hung up on an endless head, as it should

    check = HealthCheck(kind="http", path="/ready?deep=1", timeout=5.0)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        evidence = await probe(Target(POOL, Address("127.0.0.1", port)), check)
        nursery.cancel_scope.cancel()
    assert evidence.ok == ok
    assert reason in evidence.reason
    assert requests[-1].startswith(b"GET /ready?deep=1 HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{port}".encode() in requests[-1]


async def test_probe_of_another_port() -> None:
    """A backend whose health endpoint has its own port would never be healthy."""
    with listen() as sock:
        check = HealthCheck(kind="tcp", port=address_of(sock).port)
        evidence = await probe(Target(POOL, Address("127.0.0.1", 1)), check)
    assert evidence.ok


@pytest.mark.parametrize("kind", ["tcp", "http"])
async def test_silence_is_a_failure_that_says_how_long(kind: str) -> None:
    """A hung backend would hold a probe for ever, and the others behind it."""
    with listen() as sock:
        fillers = []
        if kind == "tcp":  # a full accept queue drops SYNs: the nearest thing to a black hole without privileges
            sock.listen(0)
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(sock.getsockname())
                fillers.append(filler)
        evidence = await probe(Target(POOL, address_of(sock)), HealthCheck(kind=kind, timeout=0.1))
        for filler in fillers:
            filler.close()
    assert not evidence.ok
    assert evidence.reason == "no answer within 0.1 s"


async def test_probes_leak_no_file_descriptors() -> None:
    """An agent would run out of descriptors after a day of probing."""
    with listen() as sock:
        targets = [address_of(sock), Address("127.0.0.1", 1), Address("240.0.0.1", 1), Address("::1", 1)]
        before = open_descriptors()
        for backend in targets:
            for kind in ("tcp", "http"):
                await probe(Target(POOL, backend), HealthCheck(kind=kind, timeout=0.05))
        assert open_descriptors() == before
