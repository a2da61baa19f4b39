"""The demo's clients notice what goes wrong: a demo that cannot fail would show nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from spliceway.cli.demo import traffic as traffic_module
from spliceway.cli.demo.command import find_manifest
from spliceway.cli.demo.play import read_scene
from spliceway.cli.demo.traffic import Phase, Traffic
from spliceway.errors import ManifestError
from spliceway.model import Address

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npod-1\n"
Server = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def traffic_to(server: Server | None, *, new: int = 0, kept: int = 0) -> AsyncIterator[Traffic]:
    """Clients that send requests to ``server`` (None: to nobody)."""
    async with trio.open_nursery() as nursery:
        port = 1
        if server:
            listeners = await nursery.start(trio.serve_tcp, server, 0)
            port = listeners[0].socket.getsockname()[1]
        traffic = Traffic(Address("127.0.0.1", port), new=new, kept=kept, rate=200.0)
        traffic.begin("test")
        nursery.start_soon(traffic.run)
        with trio.fail_after(10):
            yield traffic
        nursery.cancel_scope.cancel()


async def requests(traffic: Traffic, number: int) -> Phase:
    """Wait until so many requests have ended."""
    while traffic.phases[-1].requests < number:  # noqa: ASYNC110 - the clients have no event to wait for
        await trio.sleep(0.005)
    return traffic.phases[-1]


def answering(answer: bytes, times: int = 1_000_000) -> Server:
    """A server that gives ``answer`` so many times on a connection and closes it."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            for _ in range(times):
                if not await stream.receive_some():
                    return
                await stream.send_all(answer)

    return serve


async def test_answers_are_counted_by_backend() -> None:
    """The shares in the table would be wrong."""
    async with traffic_to(answering(OK), new=2) as traffic:
        phase = await requests(traffic, 10)
        assert phase.errors.total() == 0
        assert set(phase.backends) == {"pod-1"}
        assert 0 < phase.percentile(0.5) <= phase.percentile(0.99) < 5


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        OK[:-3],
        b"pod-1\n\r\n\r\n",
    ],
)
@pytest.mark.parametrize("kind", ["new", "kept"])
async def test_broken_answers_are_errors(kind: str, answer: bytes) -> None:
    """The demo would claim that no client saw an error."""
    async with traffic_to(answering(answer, times=1), **{kind: 2}) as traffic:
        phase = await requests(traffic, 10)
        assert phase.errors.total() >= phase.requests - 2
        assert traffic.reopened == 0


async def test_refused_connections_are_errors() -> None:
    """An agent that died would look perfect."""
    async with traffic_to(None, new=1, kept=1) as traffic:
        phase = await requests(traffic, 4)
        assert phase.errors["connection refused"] >= 2


async def test_silence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stalled agent would stop the clock instead of failing the demo."""
    monkeypatch.setattr(traffic_module, "_PATIENCE", 0.05)

    async def silent(stream: trio.SocketStream) -> None:
        async with stream:
            while await stream.receive_some():
                pass

    async with traffic_to(silent, new=1, kept=1) as traffic:
        phase = await requests(traffic, 4)
        assert phase.errors.total() >= 2


async def test_kept_connection_that_ends_between_answers_is_opened_again() -> None:
    """Every HTTP client copes with that; the demo would blame the agent."""
    async with traffic_to(answering(OK, times=3), kept=1) as traffic:
        phase = await requests(traffic, 12)
        assert phase.errors.total() == 0
        assert traffic.reopened >= 2


def test_example_is_a_scene() -> None:
    """`make demo` would not start."""
    scene = read_scene(find_manifest())
    assert scene.frontend == Address("127.64.0.10", 8080)
    assert scene.pool == "default/shop:http"
    assert list(scene.backends) == ["pod-1", "pod-2", "pod-3"]


def test_other_manifest_is_explained(tmp_path: Path) -> None:
    """A user's own manifest would end in a traceback."""
    path = tmp_path / "a.yaml"
    path.write_text("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {clusterIP: None}\n")
    with pytest.raises(ManifestError, match="three endpoints"):
        read_scene(path)
