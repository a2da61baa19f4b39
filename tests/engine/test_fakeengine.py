"""The fake engine answers as the real one does, or tests with it prove nothing."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator

import pytest

from spliceway import _engine
from spliceway.engine import pool_record
from spliceway.errors import EngineClosedError, EngineError
from spliceway.model import Backend, PoolSpec
from support.fakeengine import FakeEngine

Engine = FakeEngine | _engine.Engine
A = PoolSpec("a", (Backend("10.0.0.1", 80), Backend("10.0.0.2", 80)))


@pytest.fixture(params=["fake", "real"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made: Engine = FakeEngine() if request.param == "fake" else _engine.Engine(workers=1)
    yield made
    made.close()


def listener() -> tuple[int, int]:
    made = socket.create_server(("127.0.0.1", 0))
    made.setblocking(False)
    return made.getsockname()[1], made.detach()


def refused(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(5)
        # Where the pool is unknown, the engine may reset the client before it has even seen the connection.
        return client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_pools_come_change_and_go(engine: Engine) -> None:
    engine.start()
    engine.apply([pool_record(A)], [], 3)
    assert engine.generation == engine.counters().generation == 3
    explained = engine.explain("a", "127.0.0.1", 5000)
    assert (explained.pool, explained.balance, explained.generation) == ("a", "maglev", 3)
    assert {each.host for each in explained.candidates} == {"10.0.0.1", "10.0.0.2"}
    assert engine.pool_counters("a").flows == 0
    engine.apply([], ["a", "never-seen"], 4)
    with pytest.raises(KeyError):
        engine.explain("a", "127.0.0.1", 5000)
    with pytest.raises(KeyError):
        engine.pool_counters("a")


@pytest.mark.parametrize(
    "bad",
    [
        PoolSpec("bad", (Backend("pod", 80),)),
        PoolSpec("bad", (Backend("10.0.0.1", 0),)),
        PoolSpec("bad", (Backend("10.0.0.1", 70000),)),
        PoolSpec("bad", (Backend("10.0.0.1", 80, -1),)),
    ],
)
def test_a_bad_value_changes_nothing(engine: Engine, bad: PoolSpec) -> None:
    engine.start()
    with pytest.raises(ValueError, match="bad"):
        engine.apply([pool_record(A), pool_record(bad)], [], 1)
    assert engine.generation == 0
    with pytest.raises(KeyError):
        engine.pool_counters("a")


def test_listeners_open_move_and_close(engine: Engine) -> None:
    engine.start()
    port, fd = listener()
    number = engine.add_listener(fd, "a")
    assert engine.counters().listeners == 1
    engine.retarget_listener(number, "b")
    engine.remove_listener(number)
    assert refused(port)
    with pytest.raises(KeyError):
        engine.remove_listener(number)
    with pytest.raises(KeyError):
        engine.retarget_listener(number, "a")


def test_drain_closes_the_listeners_of_a_pool_and_tells(engine: Engine) -> None:
    engine.start()
    engine.apply([pool_record(A)], [], 1)
    ports = []
    for pool in ("a", "other"):
        port, fd = listener()
        engine.add_listener(fd, pool)
        ports.append(port)
    engine.drain(1.0, "a")
    assert [refused(port) for port in ports] == [True, False]
    assert wait_event(engine) == ("drained", "a", "")
    engine.drain(1.0)
    assert refused(ports[1])
    assert wait_event(engine) == ("drained", "", "")


def wait_event(engine: Engine) -> tuple[str, str, str]:
    assert select.select([engine.wake_fd], [], [], 5)[0], "an event makes wake_fd readable"
    (event,) = engine.take_events()
    assert not select.select([engine.wake_fd], [], [], 0)[0], "it is not once all events are taken"
    return event.kind, event.pool, event.backend


def test_misuse_is_refused_and_descriptors_are_closed(engine: Engine) -> None:
    engine.start()
    with pytest.raises(EngineError):
        engine.start()
    engine.close()
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.apply([], [], 1)
    _, fd = listener()
    with pytest.raises(EngineClosedError):
        engine.add_listener(fd, "a")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
