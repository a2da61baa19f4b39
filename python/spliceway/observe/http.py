"""A small HTTP/1.1 server for the admin side: h11 over Trio streams, with bounds and time-outs everywhere.

No request has a body that anybody reads. A client that sends slowly, reads slowly, or opens many connections costs
itself its own connection, and nobody else an answer.
"""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import h11
import trio

logger = logging.getLogger(__name__)

#: bytes of a request head that are read at most
MAX_HEAD = 16 * 1024
_RECEIVE_SIZE = 4096
#: after a refusal, unread bytes would make the kernel reset the connection before the client has read the answer
_LINGER_BYTES = 256 * 1024
_LINGER_SECONDS = 1.0
#: errors of ``accept`` that pass when somebody closes something; seconds between two tries, and between two log lines
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_ACCEPT_INTERVAL = 0.1
_LOG_INTERVAL = 60.0


class Request(NamedTuple):
    """What a handler needs of a request. Of parameters given twice, the last one counts."""

    method: str
    path: str
    query: dict[str, str]
    accept: str


class Response(NamedTuple):
    """A complete response."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Awaitable[Response]]


def text_response(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """A line of plain text."""
    return Response(status, "text/plain; charset=utf-8", f"{text}\n".encode(), headers)


class HttpServer:
    """Serves ``handler`` on streams.

    ``timeout`` (seconds) bounds each of: the wait for a whole request head, the handler, and the sending of its
    response. With ``max_connections`` open, a new one takes the place of the one that has waited longest for its client
    to send or to read, or, when every one is being answered, of the one with the oldest request; `dropped` counts them.
    Only GET and HEAD are served, unless ``any_method``.
    """

    def __init__(self, handler: Handler, *, timeout: float, max_connections: int, any_method: bool = False) -> None:
        self.dropped = 0
        self._any_method = any_method
        self._handler = handler
        self._timeout = timeout
        self._max_connections = max_connections
        self._open = 0
        #: connections whose client has to send or to read, and those that are being answered, the longest first
        self._waiting: dict[trio.CancelScope, None] = {}
        self._answering: dict[trio.CancelScope, None] = {}

    async def serve(self, listener: trio.SocketListener) -> None:
        """Accept on ``listener`` until cancelled, and close it."""
        quiet_until = -math.inf
        async with listener, trio.open_nursery() as nursery:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in _EXHAUSTED:
                        raise
                    if trio.current_time() >= quiet_until:
                        quiet_until = trio.current_time() + _LOG_INTERVAL
                        reason = (error.strerror or str(error)).lower()
                        logger.error("Admin side: cannot accept connections: %s; probes and status must wait.", reason)
                    await trio.sleep(_ACCEPT_INTERVAL)
                else:
                    nursery.start_soon(self._connection, stream)

    async def _connection(self, stream: trio.SocketStream) -> None:
        if self._open >= self._max_connections:
            self._make_room()
        self._open += 1
        scope = trio.CancelScope()
        self._waiting[scope] = None
        try:
            with scope:
                await self._requests(stream, scope)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.LocalProtocolError) as error:
            logger.debug("admin connection ended: %s", error)
        finally:
            self._open -= 1
            self._waiting.pop(scope, None)
            self._answering.pop(scope, None)
            await trio.aclose_forcefully(stream)

    def _make_room(self) -> None:
        holders = self._waiting or self._answering
        oldest = next(iter(holders))
        del holders[oldest]
        oldest.cancel()
        self.dropped += 1

    async def _requests(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        while True:
            try:
                head = await self._request_head(stream, connection)
                if head is None:
                    return
                has_body = not isinstance(connection.next_event(), h11.EndOfMessage)
            except h11.RemoteProtocolError as error:
                await self._refuse(stream, connection, error)
                return
            _move(scope, self._waiting, self._answering)
            response = await self._respond(head)
            _move(scope, self._answering, self._waiting)
            if not await self._send(stream, connection, head, response, close=has_body):
                return
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _request_head(self, stream: trio.SocketStream, connection: h11.Connection) -> h11.Request | None:
        """The next request, or None when the client closed or took too long."""
        with trio.move_on_after(self._timeout):
            while True:
                event = connection.next_event()
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    return None
                connection.receive_data(await stream.receive_some(_RECEIVE_SIZE))
        return None

    async def _respond(self, head: h11.Request) -> Response:
        try:
            target = urlsplit(head.target.decode("ascii"))
        except ValueError as error:
            return text_response(400, f"Not a usable path: {error}.")
        request = Request(
            head.method.decode("ascii"),
            target.path,
            dict(parse_qsl(target.query)),
            dict(head.headers).get(b"accept", b"").decode("latin-1"),
        )
        if not self._any_method and request.method not in ("GET", "HEAD"):
            return text_response(405, "Only GET and HEAD are served.", ("Allow", "GET, HEAD"))
        with trio.move_on_after(self._timeout):
            try:
                return await self._handler(request)
            except Exception:
                logger.exception("admin request %s failed", request.path)
                return text_response(500, "The agent failed to answer; its log says why.")
        return text_response(503, "The agent is too busy to answer.")

    async def _send(
        self,
        stream: trio.SocketStream,
        connection: h11.Connection,
        head: h11.Request,
        response: Response,
        *,
        close: bool,
    ) -> bool:
        """Send the whole response; False when the client did not read it in time."""
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("X-Content-Type-Options", "nosniff"),
            *response.headers,
        ]
        if close:
            headers.append(("Connection", "close"))
        parts = [connection.send(h11.Response(status_code=response.status, headers=headers))]
        if head.method != b"HEAD":
            parts.append(connection.send(h11.Data(data=response.body)))
        parts.append(connection.send(h11.EndOfMessage()))
        with trio.move_on_after(self._timeout) as scope:
            await stream.send_all(b"".join(part for part in parts if part))
        if close:
            await _linger(stream)
        return not scope.cancelled_caught

    async def _refuse(
        self, stream: trio.SocketStream, connection: h11.Connection, error: h11.RemoteProtocolError
    ) -> None:
        """Answer something that is not an HTTP request."""
        if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = f"Not a usable HTTP request: {error}\n".encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        headers.append(("Connection", "close"))
        status = error.error_status_hint or 400
        parts = (
            connection.send(h11.Response(status_code=status, headers=headers)),
            connection.send(h11.Data(data=body)),
            connection.send(h11.EndOfMessage()),
        )
        with trio.move_on_after(self._timeout):
            await stream.send_all(b"".join(part for part in parts if part))
        await _linger(stream)


def _move(scope: trio.CancelScope, giver: dict[trio.CancelScope, None], taker: dict[trio.CancelScope, None]) -> None:
    """Note that it is somebody else's turn now. One that has made room is not noted any more."""
    if scope in giver:
        del giver[scope]
        taker[scope] = None


async def _linger(stream: trio.SocketStream) -> None:
    """End our side, and read what the client still sends for a moment."""
    left = _LINGER_BYTES
    with trio.move_on_after(_LINGER_SECONDS):
        await stream.send_eof()
        while left > 0:
            data = await stream.receive_some(_RECEIVE_SIZE)
            if not data:
                break
            left -= len(data)
