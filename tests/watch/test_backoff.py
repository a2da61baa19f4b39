"""How soon and how often a failing API server is asked again."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from spliceway.settings import SourceSettings
from spliceway.source.faults import Backoff
from support.fakeapi import FakeApi
from support.fold import folded
from support.watching import source_of


def waits(failures: int, *, overloaded: bool = False) -> list[float]:
    settings = SourceSettings()
    backoff = Backoff(settings.backoff, settings.backoff_limit)
    return [backoff.next(overloaded=overloaded) for _ in range(failures)]


def test_after_a_long_outage_the_next_attempt_is_near() -> None:
    """Lost: an agent would serve an old state for half a minute after the API server is back."""
    late = waits(1000)[-100:]
    assert all(2.5 <= wait <= 5.0 for wait in late)
    assert max(late) - min(late) > 0.5, "agents must not come all at once"
    assert waits(1)[0] <= 0.5


def test_overloaded_api_server_is_left_alone_for_longer() -> None:
    """Lost: thousands of agents would keep an API server down that asks for time."""
    assert all(15.0 <= wait <= 30.0 for wait in waits(1000, overloaded=True)[-100:])


def test_success_forgets_the_failures() -> None:
    """Lost: one hiccup a day after an outage would cost as long as in it."""
    backoff = Backoff(0.5, 5.0)
    for _ in range(10):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 0.5


@pytest.mark.parametrize(
    ("status", "requests", "least"),
    [("500", 7, (0.02 + 0.04 + 4 * 0.05) / 2), ("429", 7, (0.02 + 0.04 + 0.08 + 0.16 + 2 * 0.3) / 2)],
)
async def test_no_storm_of_requests(api: FakeApi, tmp_path: Path, status: str, requests: int, least: float) -> None:
    """Lost: an API server in trouble would get requests without a pause, from every node."""
    api.faults["list"].extend([status] * 10_000)
    source = source_of(api, tmp_path, backoff=0.02, backoff_limit=0.05)
    begun = trio.current_time()
    async with folded(source, wait=False):
        await trio.to_thread.run_sync(api.wait_for, "list", requests)
        assert trio.current_time() - begun >= least
