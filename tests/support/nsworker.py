"""The process that holds a network namespace open: it makes probes there and serves as a backend there.

``python -m support.nsworker`` reads orders (`support.probes`) from the socket that is its standard input, and ends with
it. One process does all that is asked of one namespace, so no probe waits for a process to start.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import signal
import socket
from collections import Counter

import msgspec
import trio
import trio.testing

from support.probes import Cease, Fetch, Observed, Order, Page, Probe, ProbeAll, Request, Response, Serve, Ward

_LARGEST = 1 << 16
_BACKLOG = 1024
#: ENETUNREACH and EHOSTUNREACH are faults of the rig's routes, never an answer of a proxy
_REFUSALS = (errno.ECONNREFUSED,)
#: descriptors of the processes to end with this one: unlike their numbers, they never mean another process
_wards: list[int] = []


class _Dropped(Exception):  # noqa: N818 - an outcome, not a fault
    """Nothing came within the time."""


class _Broken(Exception):  # noqa: N818
    """The connection was accepted, and ended or was reset without an answer."""


# --- probes ----------------------------------------------------------------------------------------------------------


async def _probe_all(order: ProbeAll) -> list[Observed]:
    limit = trio.CapacityLimiter(order.parallel)
    results: dict[int, Observed] = {}

    async def run(index: int, probe: Probe) -> None:
        async with limit:
            results[index] = await _observe(probe)

    async with trio.open_nursery() as nursery:
        for index, probe in enumerate(order.probes):
            nursery.start_soon(run, index, probe)
    return [results[index] for index in range(len(order.probes))]


async def _observe(probe: Probe) -> Observed:
    """Make the attempts of one probe."""
    answers: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    sources: dict[str, set[str]] = {}
    refused = dropped = 0
    for attempt in range(max(probe.at_least, probe.at_most)):
        if dropped >= 2 or (attempt >= probe.at_least and not set(probe.want) - answers.keys()):
            break
        try:
            name, source = await _attempt(probe)
        except _Dropped:
            dropped += 1
        except _Broken:
            faults["broken"] += 1
        except OSError as error:
            if error.errno in _REFUSALS:
                refused += 1
            else:
                faults[errno.errorcode.get(error.errno or 0, str(error))] += 1
        else:
            answers[name] += 1
            sources.setdefault(name, set()).add(source)
    seen = {name: tuple(sorted(hosts)) for name, hosts in sources.items()}
    return Observed(dict(answers), seen, refused, dropped, dict(faults))


async def _attempt(probe: Probe) -> tuple[str, str]:
    """Return who answered, and the client's address as it saw it. Raises OSError, _Dropped, _Broken."""
    family = socket.AF_INET6 if ":" in probe.host else socket.AF_INET
    kind = socket.SOCK_STREAM if probe.protocol == "TCP" else socket.SOCK_DGRAM
    ask = _ask_tcp if probe.protocol == "TCP" else _ask_udp
    with trio.socket.socket(family, kind) as sock, trio.move_on_after(probe.timeout):
        answer = await ask(sock, (probe.host, probe.port), probe.payload.encode())
        name, source, echoed = answer.decode().split(" ", 2)
        if echoed != probe.payload:
            raise OSError(errno.EBADMSG, f"{probe.payload!r} came back as {echoed!r}")
        return name, source
    raise _Dropped


async def _ask_tcp(sock: trio.socket.SocketType, address: tuple[str, int], payload: bytes) -> bytes:
    await sock.connect(address)
    try:
        await sock.send(payload + b"\n")
        received = b""
        while not received.endswith(b"\n"):
            piece = await sock.recv(_LARGEST)
            if not piece:
                raise _Broken
            received += piece
    except OSError as error:
        raise _Broken from error
    return received[:-1]


async def _ask_udp(sock: trio.socket.SocketType, address: tuple[str, int], payload: bytes) -> bytes:
    await sock.connect(address)  # so that only answers from this address count, and ICMP errors are heard
    # A node's own packet may not pass its rules. If they reject, an ICMP error follows; if they drop, nothing does.
    with contextlib.suppress(PermissionError):
        await sock.send(payload)
    return await sock.recv(_LARGEST)


# --- backends --------------------------------------------------------------------------------------------------------


class _Backends:
    """The servers of this namespace, by name."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: dict[str, trio.CancelScope] = {}

    async def serve(self, order: Serve) -> None:
        """Return when all sockets are bound. Raises OSError, KeyError."""
        if order.name in self._scopes:
            raise KeyError(f"{order.name} serves already")
        sockets = [_bound(host, order.port, protocol) for host in order.hosts for protocol in order.protocols]
        self._scopes[order.name] = scope = trio.CancelScope()
        self._nursery.start_soon(self._run, scope, order.name.encode(), sockets)

    async def cease(self, order: Cease) -> None:
        self._scopes.pop(order.name).cancel()
        await trio.testing.wait_all_tasks_blocked()  # the sockets are closed by then

    async def _run(self, scope: trio.CancelScope, name: bytes, sockets: list[trio.socket.SocketType]) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                for sock in sockets:
                    serve = _accept if sock.type == socket.SOCK_STREAM else _answer_datagrams
                    nursery.start_soon(serve, name, sock)


def _bound(host: str, port: int, protocol: str) -> trio.socket.SocketType:
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
        return trio.socket.from_stdlib_socket(sock)
    except OSError:
        sock.close()
        raise


async def _accept(name: bytes, listener: trio.socket.SocketType) -> None:
    with listener:
        async with trio.open_nursery() as nursery:
            while True:
                connection, peer = await listener.accept()
                nursery.start_soon(_answer_lines, name, connection, peer[0].encode())


async def _answer_lines(name: bytes, connection: trio.socket.SocketType, peer: bytes) -> None:
    buffered = b""
    with connection:
        try:
            while piece := await connection.recv(_LARGEST):
                *lines, buffered = (buffered + piece).split(b"\n")
                for line in lines:
                    await trio.SocketStream(connection).send_all(b" ".join((name, peer, line)) + b"\n")
        except (OSError, trio.BrokenResourceError):
            return


async def _answer_datagrams(name: bytes, sock: trio.socket.SocketType) -> None:
    with sock:
        while True:
            try:
                payload, peer = await sock.recvfrom(_LARGEST)
                await sock.sendto(b" ".join((name, peer[0].encode(), payload)), peer)
            except OSError:
                continue  # the client is gone, or cannot be reached


# --- pages -----------------------------------------------------------------------------------------------------------


def _fetch(order: Fetch) -> Page:
    connection = http.client.HTTPConnection(order.host, order.port, timeout=order.timeout)
    try:
        connection.request("GET", order.path)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Page(response.status, headers, response.read().decode())
    except (OSError, http.client.HTTPException) as error:
        return Page(0, body=repr(error))
    finally:
        connection.close()


# --- orders ----------------------------------------------------------------------------------------------------------


async def _result(order: Order, backends: _Backends) -> object:
    match order:
        case ProbeAll():
            return await _probe_all(order)
        case Serve():
            await backends.serve(order)
        case Cease():
            await backends.cease(order)
        case Fetch():
            return await trio.to_thread.run_sync(_fetch, order)
        case Ward():
            _wards.append(os.pidfd_open(order.pid))
    return None


async def _main() -> None:
    channel = trio.SocketStream(trio.socket.fromfd(0, socket.AF_UNIX, socket.SOCK_STREAM))
    lock = trio.Lock()
    encoder, decoder = msgspec.json.Encoder(), msgspec.json.Decoder(Request)
    async with trio.open_nursery() as nursery:
        backends = _Backends(nursery)

        async def carry_out(request: Request) -> None:
            try:
                result = await _result(request.order, backends)
                response = Response(request.number, msgspec.Raw(encoder.encode(result)))
            except (OSError, KeyError, ValueError) as error:
                response = Response(request.number, msgspec.Raw(b"null"), repr(error))
            async with lock:
                await channel.send_all(encoder.encode(response) + b"\n")

        buffered = b""
        async for piece in channel:
            *lines, buffered = (buffered + piece).split(b"\n")
            for line in lines:
                nursery.start_soon(carry_out, decoder.decode(line))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main)
    for ward in _wards:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(ward, signal.SIGKILL)
    os._exit(0)  # threads that still wait for a page must not hold the namespace
