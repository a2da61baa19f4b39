"""What is measured, and which ratio to haproxy is the goal."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from load import Report


class Scenario(NamedTuple):
    """One load. ``goal`` is spliceway's least ratio to haproxy, None where there is none."""

    name: str
    title: str
    unit: str
    arguments: tuple[str, ...]
    value: Callable[[Report], float]
    goal: float | None = None


def _gigabits(report: Report) -> float:
    return report.bytes * 8 / report.seconds / 1e9


def _per_second(report: Report) -> float:
    return report.requests / report.seconds


ALL: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("bulk1", "bulk download, 1 stream", "Gbit/s", ("bulk", "--streams", "1"), _gigabits, 1.0),
        Scenario("bulk4", "bulk download, 4 streams", "Gbit/s", ("bulk", "--streams", "4"), _gigabits),
        Scenario(
            "upload1", "bulk upload, 1 stream", "Gbit/s", ("bulk", "--streams", "1", "--direction", "up"), _gigabits
        ),
        Scenario("keepalive", "keep-alive requests, 64 B", "1/s", ("rr", "--connections", "32"), _per_second, 0.9),
        Scenario("newconn", "new connection per request", "1/s", ("crr", "--connections", "32"), _per_second, 0.9),
    )
}
