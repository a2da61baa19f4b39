"""What is measured: each scenario is one command of the load tool and one figure of its report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from load import Report

Protocol = Literal["TCP", "UDP"]
Better = Literal["higher", "lower"]

GIGABITS = "Gbit/s"
PER_SECOND = "1/s"
MICROSECONDS = "p99, us"

#: requests to which CPU time is related
REQUESTS = 10_000


class Scenario(NamedTuple):
    """One load. ``better`` tells which figures win; ``contestants`` who takes part, None for all that can."""

    name: str
    title: str
    unit: str
    arguments: tuple[str, ...]
    value: Callable[[Report], float]
    protocol: Protocol = "TCP"
    better: Better = "higher"
    contestants: tuple[str, ...] | None = None

    def takes(self, name: str, *, udp: bool) -> bool:
        """Whether a contestant of this name takes part, ``udp`` if it carries that."""
        return (udp or self.protocol == "TCP") and (self.contestants is None or name in self.contestants)

    @property
    def work_unit(self) -> str:
        """What CPU time is related to."""
        return "Gbit" if self.unit == GIGABITS else f"{REQUESTS:,} requests"

    def work(self, report: Report) -> float:
        """How much of `work_unit` was done in the measured seconds."""
        return report.bytes * 8 / 1e9 if self.unit == GIGABITS else report.requests / REQUESTS

    def at_rate(self, rate: int) -> Scenario:
        """The same at so many requests per second, for those with an open loop."""
        return self._replace(arguments=(*self.arguments, "--rate", str(rate)))


def _gigabits(report: Report) -> float:
    return report.bytes * 8 / report.seconds / 1e9


def _per_second(report: Report) -> float:
    return report.requests / report.seconds


def _p99(report: Report) -> float:
    return report.p99 * 1e6


def _bulk(streams: int, direction: Literal["down", "up"]) -> Scenario:
    name = f"{'bulk' if direction == 'down' else 'up'}{streams}"
    title = f"bulk {direction}load, {streams} stream{'s' if streams > 1 else ''}"
    return Scenario(name, title, GIGABITS, ("bulk", "--streams", str(streams), "--direction", direction), _gigabits)


def _requests(name: str, title: str, *arguments: str, protocol: Protocol = "TCP") -> Scenario:
    return Scenario(name, title, PER_SECOND, arguments, _per_second, protocol)


#: the only one whose rate is found at the start (`Scenario.at_rate`)
LATENCY = Scenario(
    "latency",
    "request at a fixed rate, 32 connections",
    MICROSECONDS,
    ("steady", "--connections", "32"),
    _p99,
    better="lower",
)

_LISTED = (
    *(_bulk(streams, "down") for streams in (1, 4, 64)),
    *(_bulk(streams, "up") for streams in (1, 4, 64)),
    _requests("keepalive", "keep-alive requests, 64 B", "rr", "--connections", "32"),
    _requests("keepalive16k", "keep-alive requests, 16 KiB", "rr", "--connections", "32", "--size", "16384"),
    _requests("newconn", "new connection per request", "crr", "--connections", "32"),
    LATENCY,
    Scenario("first", "first request of a connection, one at a time", MICROSECONDS, ("connect",), _p99, better="lower"),
    _requests("udp-new", "UDP request, new source port each", "udp-new", "--clients", "32", protocol="UDP"),
    _requests("udp-flow", "UDP 64 B, 1 flow, window 32", "udp-flow", "--flows", "1", protocol="UDP"),
    _requests("udp-flows", "UDP 64 B, 1,000 flows", "udp-flow", "--flows", "1000", "--window", "1", protocol="UDP"),
    Scenario(
        "udp-trains",
        "UDP 1,200 B in trains of 16, 4 flows",
        GIGABITS,
        ("udp-trains", "--flows", "4", "--window", "4"),
        _gigabits,
        protocol="UDP",
    ),
)
ALL = {scenario.name: scenario for scenario in _LISTED}
