"""Rise and fall: a backend is set aside neither too early nor too late, and comes back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceway.health.passive import evidence_from_event
from spliceway.health.verdict import HealthStates
from spliceway.model import Address, Evidence, HealthCheck, Target

CHECK = HealthCheck(rise=2, fall=3)
TARGET = Target("default/shop:http", Address("10.0.0.1", 80))


def seen(ok: bool, *, origin: str = "probe", count: int = 1, reason: str = "r") -> Evidence:
    return Evidence(TARGET, ok, origin, reason, count)


def feed(states: HealthStates, *results: bool) -> list[bool]:
    verdicts = [states.observe(seen(ok), CHECK) for ok in results]
    return [verdict.healthy for verdict in verdicts if verdict]


def test_unhealthy_after_fall_failures_in_a_row() -> None:
    """A single lost SYN would take a backend out."""
    states = HealthStates()
    assert feed(states, False, False) == []
    assert feed(states, False) == [False]
    assert [verdict.reason for verdict in states.unhealthy()] == ["r"]


def test_success_between_failures_starts_the_count_again() -> None:
    """A backend that answers two of three would be set aside."""
    assert feed(HealthStates(), False, False, True, False, False, True) == []


def test_healthy_after_rise_successes_in_a_row() -> None:
    """A flapping backend would come back on its first lucky answer."""
    states = HealthStates()
    feed(states, False, False, False)
    assert feed(states, True, False, True) == []
    assert states.is_unhealthy(TARGET)
    assert feed(states, True) == [True]
    assert not states.is_unhealthy(TARGET)


def test_traffic_reports_a_whole_run_at_once() -> None:
    """Three refused clients would have to happen again before anybody believed them."""
    verdict = HealthStates().observe(seen(False, origin="traffic", count=3, reason="connection refused"), CHECK)
    assert verdict is not None
    assert not verdict.healthy
    assert verdict.reason == "connection refused"


def test_overlapping_traffic_runs_are_not_added_up() -> None:
    """Failures 1 and 2 of one run would count as three, and two lost SYNs would take a backend out."""
    states = HealthStates()
    assert states.observe(seen(False, origin="traffic", count=1), CHECK) is None
    assert states.observe(seen(False, origin="traffic", count=2), CHECK) is None
    assert states.observe(seen(False, origin="traffic", count=3), CHECK) is not None


def test_forgotten_target_starts_clean() -> None:
    """A new Pod with an old address would inherit the grudge."""
    states = HealthStates()
    feed(states, False, False, False)
    assert states.forget(TARGET)
    assert not states.forget(TARGET)
    assert feed(states, False, False) == []


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_agrees_with_the_definition(results: list[bool], rise: int, fall: int) -> None:
    """The rule that the docs promise would not be the rule that runs."""
    check = HealthCheck(rise=rise, fall=fall)
    states = HealthStates()
    healthy = True
    for index, ok in enumerate(results):
        states.observe(seen(ok), check)
        need = fall if healthy else rise
        recent = results[max(0, index + 1 - need) : index + 1]
        if len(recent) == need and all(entry != healthy for entry in recent):
            healthy = not healthy
        assert states.is_unhealthy(TARGET) != healthy
    if all(results):
        assert len(states) == 0


def event(kind: str, backend: str = "10.0.0.1:80", count: int = 1, reason: str = "") -> Any:
    return SimpleNamespace(kind=kind, time=0.0, pool="default/shop:http", backend=backend, reason=reason, count=count)


@pytest.mark.parametrize(
    ("kind", "ok"), [("connect-failed", False), ("backend-aborted", False), ("connect-recovered", True)]
)
def test_events_become_evidence(kind: str, ok: bool) -> None:
    """A dead backend would be found by probes only."""
    evidence = evidence_from_event(event(kind, count=2, reason="connection refused"))
    assert evidence is not None
    assert (evidence.target, evidence.ok, evidence.origin, evidence.count) == (TARGET, ok, "traffic", 2)
    assert evidence.reason


def test_ipv6_backend_is_recognised() -> None:
    """Passive health would work for IPv4 only."""
    evidence = evidence_from_event(event("connect-failed", backend="[fd00::1]:80", count=0))
    assert evidence is not None
    assert evidence.target.backend == Address("fd00::1", 80)
    assert evidence.count == 1


@pytest.mark.parametrize("kind", ["paused", "resumed", "drained", "worker-died", "no-backend", "from-the-future"])
def test_other_events_say_nothing(kind: str) -> None:
    """The fd limit of the proxy would be blamed on a backend."""
    assert evidence_from_event(event(kind, backend="")) is None
    assert evidence_from_event(event("connect-failed", backend="")) is None
