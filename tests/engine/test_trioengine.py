"""The Trio face over the real engine. A failure leaves health blind, or an agent that cannot stop."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from spliceway.engine import TrioEngine, connect_bounds, new_engine
from spliceway.errors import EngineClosedError, EngineError
from spliceway.model import Address, Backend, PoolSpec
from spliceway.settings import EngineSettings


@pytest.fixture
def engine() -> TrioEngine:
    made = TrioEngine.open(EngineSettings(workers=1))
    made.start()
    return made


async def test_events_arrive_while_a_task_waits(engine: TrioEngine) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    address = Address(*listener.getsockname())
    engine.add_listener(listener.detach(), "a")
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = Backend(*free.getsockname())
    await engine.apply([PoolSpec("a", (dead,))], (), 1)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def dial() -> None:
                async with await trio.open_tcp_stream(*address) as client:
                    with pytest.raises(trio.BrokenResourceError):
                        await client.receive_some(1)

            nursery.start_soon(dial)
            events = await engine.receive_events()
    assert (events[0].kind, events[0].pool, events[0].backend) == ("connect-failed", "a", str(dead.address))
    await engine.close()


async def test_closing_wakes_whoever_waits_for_events(engine: TrioEngine) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await engine.receive_events()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await engine.close()
        with pytest.raises(trio.ClosedResourceError):
            await engine.receive_events()
        await engine.close()


async def test_big_changes_do_not_hold_up_other_tasks(engine: TrioEngine) -> None:
    """While tables of a big pool are built, events and admin requests must be answered."""
    backends = tuple(Backend(f"10.{one}.{two}.1", 80) for one in range(100) for two in range(100))
    ran = False
    async with trio.open_nursery() as nursery:

        async def other() -> None:
            nonlocal ran
            ran = True

        nursery.start_soon(other)
        await engine.apply([PoolSpec("a", backends)], (), 1)
        assert ran
    assert len(engine.explain("a", Address("127.0.0.1", 5000)).candidates) > 0
    with pytest.raises(ValueError, match="pool a: "):
        await engine.apply([PoolSpec("a", (*backends, Backend("pod", 80)))], (), 2)
    await engine.close()


async def test_misuse_is_one_clear_error(engine: TrioEngine) -> None:
    with pytest.raises(EngineError):
        engine.start()
    await engine.close()
    with pytest.raises(EngineClosedError):
        await engine.apply((), (), 1)
    with pytest.raises(EngineError, match="engine settings: "):
        new_engine(EngineSettings(max_flows=-1))
    assert list(connect_bounds()) == sorted(connect_bounds())
