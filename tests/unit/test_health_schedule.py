"""The probe schedule: everybody is probed in time, nobody twice, and jitter spreads the load."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from spliceway.health.schedule import JITTER, SUSPECT_INTERVAL, Schedule
from spliceway.model import Address, HealthCheck, Target

REGULAR = HealthCheck(kind="tcp", interval=10.0)
PASSIVE = HealthCheck(kind="passive", interval=5.0)


def target(number: int) -> Target:
    return Target("pool", Address("10.0.0.1", number + 1))


def test_start_is_spread_over_one_interval() -> None:
    """A restart would probe every Pod of the cluster in one instant."""
    schedule = Schedule(seed=1)
    for number in range(1000):
        schedule.add_regular(target(number), REGULAR, now=0.0)
    slots = [0] * 10
    for second in range(1, 11):
        while schedule.pop_due(float(second)):
            slots[second - 1] += 1
    assert sum(slots) == 1000
    assert min(slots) > 50


def test_regular_target_is_probed_each_interval() -> None:
    """A backend that died without traffic would be found late, or never."""
    schedule = Schedule(seed=2)
    schedule.add_regular(target(1), REGULAR, now=0.0)
    moments = []
    for _ in range(50):
        due = schedule.next_due()
        assert due is not None
        assert schedule.pop_due(due) == target(1)
        moments.append(due)
        schedule.again(target(1), REGULAR, True, due)
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert all(10.0 * (1 - JITTER) <= gap <= 10.0 * (1 + JITTER) for gap in gaps)
    assert len({round(gap, 6) for gap in gaps}) > 40


def test_suspect_waits_longer_after_each_failure_but_never_longer_than_the_interval() -> None:
    """A node that is down for a day would get a probe a second for each Pod it had; or come back hours late."""
    schedule = Schedule(seed=3)
    schedule.add_suspect(target(1), PASSIVE, now=0.0)
    now, gaps = 0.0, []
    for _ in range(8):
        due = schedule.next_due()
        assert due is not None
        gaps.append(due - now)
        now = due
        assert schedule.pop_due(now) == target(1)
        schedule.again(target(1), PASSIVE, False, now)
    assert gaps[0] <= SUSPECT_INTERVAL * (1 + JITTER)
    assert gaps[-1] > 2 * gaps[0]
    assert max(gaps) <= PASSIVE.interval * (1 + JITTER)
    schedule.pop_due(1e9)
    schedule.again(target(1), PASSIVE, True, 0.0)
    due = schedule.next_due()
    assert due is not None
    assert due <= SUSPECT_INTERVAL * (1 + JITTER)


Operation = tuple[str, int]


@given(st.lists(st.tuples(st.sampled_from(["add", "suspect", "discard", "pop"]), st.integers(0, 5)), max_size=200))
def test_a_target_is_given_out_once_and_only_while_it_is_scheduled(operations: list[Operation]) -> None:
    """Probes of removed Pods would go on, or one Pod would get two probes at a time."""
    schedule = Schedule(seed=4)
    waiting: set[Target] = set()
    known: set[Target] = set()
    now = 0.0
    for operation, number in operations:
        now += 1.0
        if operation in ("add", "suspect"):
            add = schedule.add_regular if operation == "add" else schedule.add_suspect
            add(target(number), REGULAR, now)
            if target(number) not in known:
                known.add(target(number))
                waiting.add(target(number))
        elif operation == "discard":
            schedule.discard(target(number))
            known.discard(target(number))
            waiting.discard(target(number))
        else:
            popped = schedule.pop_due(now + 100)
            assert (popped in waiting) if waiting else popped is None
            waiting.discard(popped)
        assert len(schedule) == len(known)
        assert (schedule.next_due() is not None) == bool(waiting)
