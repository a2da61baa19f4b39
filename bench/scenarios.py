"""What is measured, and which ratio is the goal: to haproxy (`ALL`), to kube-proxy in iptables mode (`SERVICES`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from load import Report


class Scenario(NamedTuple):
    """One load. ``goal`` is spliceway's least ratio to the base of the bench, None where there is none."""

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


def _named(*scenarios: Scenario) -> dict[str, Scenario]:
    return {scenario.name: scenario for scenario in scenarios}


ALL = _named(
    Scenario("bulk1", "bulk download, 1 stream", "Gbit/s", ("bulk", "--streams", "1"), _gigabits, 1.0),
    Scenario("bulk4", "bulk download, 4 streams", "Gbit/s", ("bulk", "--streams", "4"), _gigabits),
    Scenario("upload1", "bulk upload, 1 stream", "Gbit/s", ("bulk", "--streams", "1", "--direction", "up"), _gigabits),
    Scenario("keepalive", "keep-alive requests, 64 B", "1/s", ("rr", "--connections", "32"), _per_second, 0.9),
    Scenario("newconn", "new connection per request", "1/s", ("crr", "--connections", "32"), _per_second, 0.9),
)

SERVICES = _named(
    Scenario("udp-new", "UDP request, new source port each", "1/s", ("udp-new", "--clients", "32"), _per_second, 0.5),
    Scenario("udp-flow", "UDP 64 B, 1 flow, window 32", "1/s", ("udp-flow", "--flows", "1"), _per_second),
    Scenario(
        "udp-flows",
        "UDP 64 B, 1,000 flows",
        "1/s",
        ("udp-flow", "--flows", "1000", "--window", "1"),
        _per_second,
    ),
    *(ALL[name]._replace(goal=None) for name in ("newconn", "keepalive", "bulk1", "bulk4")),
)
