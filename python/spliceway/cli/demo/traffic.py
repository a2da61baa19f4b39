"""The demo's clients: some open a connection for each request, some keep theirs; all note every error they see."""

from __future__ import annotations

import os
from collections import Counter

import h11
import trio

from spliceway.model import Address

#: seconds in which a client wants its answer
_PATIENCE = 5.0
#: requests on one kept connection
_REQUESTS_KEPT = 25
_RECEIVE_SIZE = 65536


class Phase:
    """What the clients saw in one part of the demo. Latencies are seconds from connecting to the last byte."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.requests = 0
        self.errors: Counter[str] = Counter()
        #: new connections by the backend that answered
        self.backends: Counter[str] = Counter()
        self.latencies: list[float] = []

    def percentile(self, part: float) -> float:
        """The latency that ``part`` (0 to 1) of all requests did not exceed; 0 without requests."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


class _ClosedEarlyError(Exception):
    """The connection ended before the first byte of an answer."""


class Traffic:
    """A steady stream of requests to ``frontend``.

    ``new`` clients open a connection for each request, ``kept`` clients use one for many, and each sends ``rate``
    requests a second. A kept connection that is closed between two answers is opened again and the GET repeated, as
    every HTTP client does (RFC 9112, 9.3.1); anything else that goes wrong is an error.
    """

    def __init__(self, frontend: Address, *, new: int, kept: int, rate: float) -> None:
        self.phases: list[Phase] = []
        self.reopened = 0
        self._frontend = frontend
        self._new = new
        self._kept = kept
        self._interval = 1 / rate

    def begin(self, title: str) -> None:
        """Note what follows under ``title``."""
        self.phases.append(Phase(title))

    async def run(self) -> None:
        """Send requests until cancelled."""
        async with trio.open_nursery() as nursery:
            for number in range(self._new):
                nursery.start_soon(self._open_each_time, number / self._new)
            for number in range(self._kept):
                nursery.start_soon(self._keep_open, number / self._kept)

    async def _open_each_time(self, offset: float) -> None:
        due = trio.current_time() + offset * self._interval
        while True:
            due = await self._pace(due)
            phase, started = self.phases[-1], trio.current_time()
            with trio.move_on_after(_PATIENCE) as scope:
                try:
                    async with await _connect(self._frontend) as stream:
                        backend = await _get(stream, h11.Connection(h11.CLIENT), self._frontend)
                    phase.backends[backend] += 1
                except Exception as error:
                    phase.errors[_reason(error)] += 1
            self._note(phase, scope, started)

    async def _keep_open(self, offset: float) -> None:
        due = trio.current_time() + offset * self._interval
        client = _KeptConnection(self._frontend)
        try:
            while True:
                due = await self._pace(due)
                phase, started = self.phases[-1], trio.current_time()
                with trio.move_on_after(_PATIENCE) as scope:
                    try:
                        backend, opened = await client.get()
                        phase.backends[backend] += opened
                    except Exception as error:
                        phase.errors[_reason(error)] += 1
                self.reopened += client.take_reopened()
                self._note(phase, scope, started)
        finally:
            await client.discard()

    async def _pace(self, due: float) -> float:
        """Wait for the moment of the next request; after a stall, go on from now instead of catching up."""
        await trio.sleep_until(due)
        return max(due + self._interval, trio.current_time())

    def _note(self, phase: Phase, scope: trio.CancelScope, started: float) -> None:
        phase.requests += 1
        phase.latencies.append(trio.current_time() - started)
        if scope.cancelled_caught:
            phase.errors[f"no answer within {_PATIENCE:g} s"] += 1


class _KeptConnection:
    """A client that sends many requests on one connection."""

    def __init__(self, frontend: Address) -> None:
        self._frontend = frontend
        self._stream: trio.SocketStream | None = None
        self._used = 0
        self._reopened = 0

    async def get(self) -> tuple[str, bool]:
        """The backend that answered, and whether the connection is a new one."""
        while True:
            opened = self._stream is None
            if self._stream is None:
                self._stream, self._used = await _connect(self._frontend), 0
            try:
                backend = await _get(self._stream, h11.Connection(h11.CLIENT), self._frontend)
            except BaseException as error:
                await self.discard()
                if opened or not isinstance(error, _ClosedEarlyError):
                    raise
                self._reopened += 1
                continue
            self._used += 1
            if self._used >= _REQUESTS_KEPT:
                await self.discard()
            return backend, opened

    async def discard(self) -> None:
        """Close the connection, if there is one."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await trio.aclose_forcefully(stream)

    def take_reopened(self) -> int:
        """How often a connection was replaced because it had ended between two answers, since the last call."""
        count, self._reopened = self._reopened, 0
        return count


async def _connect(frontend: Address) -> trio.SocketStream:
    return await trio.open_tcp_stream(frontend.host, frontend.port)


async def _get(stream: trio.SocketStream, connection: h11.Connection, frontend: Address) -> str:
    """Send a GET and return the body of its answer. Raises `_ClosedEarlyError`, `OSError` and `ValueError`."""
    request = h11.Request(method="GET", target="/", headers=[("Host", str(frontend))])
    head = (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
    body = b""
    received = False
    try:
        await stream.send_all(head)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                data = await stream.receive_some(_RECEIVE_SIZE)
                if not data and not received:
                    raise _ClosedEarlyError("closed without an answer")
                received = True
                connection.receive_data(data)
            elif isinstance(event, h11.Response) and event.status_code != 200:
                raise ValueError(f"HTTP {event.status_code}")
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return body.decode().strip()
    except trio.BrokenResourceError as error:
        if not received:
            raise _ClosedEarlyError(_reason(error)) from None
        raise


def _reason(error: BaseException) -> str:
    """The innermost cause in words."""
    while isinstance(error, BaseExceptionGroup) or error.__cause__:
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error
    strerror = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    return (strerror or str(error) or type(error).__name__).lower()
