"""One probe of one backend: a TCP connect, or an HTTP/1.1 GET. Redirects are answers, they are never followed."""

from __future__ import annotations

import errno
import os
import socket
import struct

import h11
import trio

from spliceway.model import Address, Evidence, HealthCheck, Target

#: bytes of a response head that are read at most
_MAX_HEAD = 16 * 1024
_RECEIVE_SIZE = 4096
#: close with RST: a probe every few seconds would leave thousands of sockets in TIME_WAIT
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection reset",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
}


async def probe(target: Target, check: HealthCheck) -> Evidence:
    """Probe ``target`` as ``check`` says (kind ``http``: GET; every other kind: TCP connect) and tell the result.

    Takes ``check.timeout`` seconds at most and never raises for anything that a backend or the network does.
    """
    address = Address(target.backend.host, check.port or target.backend.port)
    reason: str | None = f"no answer within {check.timeout:g} s"
    with trio.move_on_after(check.timeout):
        try:
            reason = await (_http(address, check) if check.kind == "http" else _tcp(address))
        except OSError as error:
            reason = _describe(error)
    ok = reason is None
    return Evidence(target, ok, "probe", reason or "answers", 1)


async def _connect(address: Address) -> trio.socket.SocketType:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        await sock.connect(tuple(address))
    except BaseException:
        sock.close()
        raise
    return sock


async def _tcp(address: Address) -> None:
    (await _connect(address)).close()


async def _http(address: Address, check: HealthCheck) -> str | None:
    sock = await _connect(address)
    with sock:
        try:
            status = await _get(trio.SocketStream(sock), address, check.path)
        except h11.ProtocolError as error:
            return f"no HTTP answer: {error}"
    low, high = check.expect
    return None if low <= status <= high else f"HTTP {status}"


async def _get(stream: trio.SocketStream, address: Address, path: str) -> int:
    """Send one GET and return the status of the response; its body is left unread."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    request = h11.Request(
        method="GET",
        target=path,
        headers=[("Host", str(address)), ("User-Agent", "spliceway-probe"), ("Accept", "*/*"), ("Connection", "close")],
    )
    head = (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
    try:
        await stream.send_all(head)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                data = await stream.receive_some(_RECEIVE_SIZE)
                if not data:
                    raise h11.RemoteProtocolError("closed before a status")
                connection.receive_data(data)
            elif isinstance(event, h11.Response):
                return event.status_code
    except trio.BrokenResourceError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise h11.RemoteProtocolError("connection broken") from None


def _describe(error: OSError) -> str:
    code = error.errno or 0
    return _WORDS.get(code) or (os.strerror(code).lower() if code else str(error))
