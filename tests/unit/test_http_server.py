"""The admin side's HTTP server when the process is out of file descriptors."""

from __future__ import annotations

import errno
from typing import Any, Self

import pytest
import trio
import trio.testing

from spliceway.observe.http import HttpServer, Request, Response


class ExhaustedListener:
    """Has no file descriptor left for the first connections."""

    def __init__(self, failures: int, stream: trio.abc.Stream) -> None:
        self._failures = failures
        self._stream: trio.abc.Stream | None = stream

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self._failures:
            self._failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        if self._stream is None:
            await trio.sleep_forever()
        stream, self._stream = self._stream, None
        assert stream is not None
        return stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


async def test_no_descriptor_left_is_one_line_in_the_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """At the limit of open files the log would get ten tracebacks a second, or the admin side would end."""

    async def answer(_: Request) -> Response:
        await trio.lowlevel.checkpoint()
        return Response(200, "text/plain", b"here")

    server = HttpServer(answer, timeout=10.0, max_connections=2)
    client, stream = trio.testing.memory_stream_pair()
    listener: Any = ExhaustedListener(100, stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, listener)
        await client.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(60):
            assert (await client.receive_some()).startswith(b"HTTP/1.1 200")
        nursery.cancel_scope.cancel()
    assert [record.message for record in caplog.records] == [
        "Admin side: cannot accept connections: too many open files; probes and status must wait."
    ]
    assert caplog.records[0].exc_info is None
