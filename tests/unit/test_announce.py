"""Events: users find what is wrong with their Service where they look, and nobody pays for it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from spliceway.model import ObjectKey, Problem
from spliceway.node import announce
from spliceway.node.announce import Announcer
from spliceway.source.eventrecord import EventRecord, EventWriteError

SHOP = ObjectKey("default", "shop")


class Api:
    """Takes Events, or raises what the test says."""

    def __init__(self) -> None:
        self.records: list[EventRecord] = []
        self.errors: list[EventWriteError] = []
        self.attempts = 0

    def write(self, record: EventRecord) -> None:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)
        self.records.append(record)


class Wall:
    """Seconds since the epoch, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(announcer: Announcer) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announcer.run)
        with trio.fail_after(10):
            yield
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("problem", "about"),
    [
        (Problem("Service default/shop", "port dns is SCTP"), ("Service", "default", "shop", "port dns is SCTP")),
        (
            Problem("EndpointSlice default/shop-1", "bad weight", warning=True),
            ("EndpointSlice", "default", "shop-1", "bad weight"),
        ),
        (
            Problem("Frontend 10.0.0.1:80 (default/shop)", "cannot listen: in use"),
            ("Service", "default", "shop", "Frontend 10.0.0.1:80 (default/shop) cannot listen: in use"),
        ),
    ],
)
async def test_problems_of_objects_become_their_events(problem: Problem, about: tuple[str, ...]) -> None:
    """The author of a Service would have to read the agents' logs to find a bad annotation."""
    api = Api()
    announcer = Announcer(api.write)
    async with running(announcer):
        announcer.problem(problem)
        await until(lambda: announcer.written)
    record = api.records[0]
    assert (record.kind, record.namespace, record.name, record.note) == about
    assert (record.reason, record.warning, record.times) == ("NotServedAsAsked", True, 1)
    assert record.action
    assert record.shared == (record.action == "Plan"), "what a plan lacks is the same on every node, a socket is not"
    assert announcer.written == 1


def test_problems_of_nobody_are_the_logs_alone() -> None:
    """An API server that is away would be told so in Events about nothing."""
    announcer = Announcer(Api().write)
    for subject in ("", "Pool default/shop:http", "Service shop", "Frontend 10.0.0.1:80", "Node n1"):
        announcer.problem(Problem(subject, "something"))
    assert not announcer._waiting


async def test_the_nodes_and_services_own_events() -> None:
    """Tools that wait for kube-proxy's Events would wait for ever."""
    api = Api()
    announcer = Announcer(api.write)
    async with running(announcer):
        announcer.node("n1", "Starting", "StartSpliceway", "")
        announcer.service(SHOP, "FailedToStartServiceHealthcheck", "Listen", "port 30001 is taken")
        await until(lambda: announcer.written == 2)
    start, failure = api.records
    assert not start.shared
    assert not failure.shared
    assert (start.kind, start.namespace, start.name, start.reason, start.warning) == (
        "Node",
        "",
        "n1",
        "Starting",
        False,
    )
    assert (failure.kind, failure.reason, failure.warning) == ("Service", "FailedToStartServiceHealthcheck", True)


async def test_what_happens_again_is_counted_in_the_same_event() -> None:
    """A flapping Service would fill the API server with Events (one every minute at most, each with its count)."""
    api, wall = Api(), Wall()
    announcer = Announcer(api.write, wall)
    problem = Problem("Service default/shop", "is odd")
    async with running(announcer):
        announcer.problem(problem)
        await until(lambda: announcer.written)
        for _ in range(100):
            wall.now += 0.5
            announcer.problem(problem)
        assert not announcer._waiting
        wall.now += announce.REPEAT_INTERVAL
        announcer.problem(problem)
        announcer.problem(Problem("Service default/shop", "is odd in another way"))
        await until(lambda: announcer.written == 3)
    first, again, other = api.records
    assert (again.times, again.first) == (102, first.first)
    assert again.last == wall.now
    assert (other.times, other.first) == (1, wall.now)


async def test_events_are_written_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster with a thousand bad Services would be flooded by every node's agent."""
    assert (announce.RATE, announce.BURST) == (5.0, 10)
    monkeypatch.setattr(announce, "RATE", 200.0)
    api = Api()
    announcer = Announcer(api.write)
    async with running(announcer):
        for number in range(50):
            announcer.problem(Problem(f"Service default/s{number}", "is odd"))
        started = trio.current_time()
        await until(lambda: announcer.written == 50)
        assert trio.current_time() - started >= (50 - announce.BURST) / announce.RATE
    assert [record.name for record in api.records] == [f"s{number}" for number in range(50)]


async def test_the_queue_is_bounded_and_what_is_lost_is_counted() -> None:
    """An API server that is slow would cost the agent its memory."""
    announcer = Announcer(Api().write)
    for number in range(announce.MEMORY_LIMIT + 1000):
        announcer.problem(Problem(f"Service default/s{number}", "is odd"))
    assert announcer.dropped == announce.MEMORY_LIMIT + 1000 - announce.QUEUE_LIMIT
    assert len(announcer._known) == announce.MEMORY_LIMIT


async def test_missing_right_is_said_once_and_does_not_stop_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """The log would fill with refusals, or a namespace that is being deleted would end all Events."""
    api = Api()
    api.errors = [EventWriteError("events is forbidden (403)", passing=False, forbidden=True) for _ in range(2)]
    announcer = Announcer(api.write)
    with caplog.at_level(logging.INFO):
        async with running(announcer):
            for number in range(3):
                announcer.problem(Problem(f"Service default/s{number}", "is odd"))
            await until(lambda: announcer.written)
    assert (announcer.dropped, announcer.written) == (2, 1)
    lines = [record.message for record in caplog.records if "Events are not written" in record.message]
    assert len(lines) == 1
    assert "grant 'create' and 'patch' on events" in lines[0]


async def test_an_api_that_is_away_for_a_moment_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What went wrong while the API server restarted would never be told."""
    api = Api()
    monkeypatch.setattr(announce, "RETRY_INTERVAL", 0.001)
    api.errors = [EventWriteError("no answer in time", passing=True) for _ in range(3)]
    announcer = Announcer(api.write)
    async with running(announcer):
        announcer.problem(Problem("Service default/shop", "is odd"))
        await until(lambda: announcer.written)
    assert (announcer.dropped, announcer.written, api.attempts) == (0, 1, 4)


async def test_an_api_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One Event would be tried for ever, and all others would wait behind it."""
    api = Api()
    monkeypatch.setattr(announce, "RETRY_INTERVAL", 0.001)
    api.errors = [EventWriteError("no answer in time", passing=True) for _ in range(announce.TRIES)]
    announcer = Announcer(api.write)
    async with running(announcer):
        announcer.problem(Problem("Service default/shop", "is odd"))
        announcer.problem(Problem("Service default/other", "is odd"))
        await until(lambda: announcer.written)
    assert [record.name for record in api.records] == ["other"]
    assert announcer.dropped == 1
