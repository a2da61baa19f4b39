"""What the parts beside the pipeline tell of themselves, copied for a scrape."""

from __future__ import annotations

from typing import NamedTuple

from spliceway.model import Problem


class CaptureReading(NamedTuple):
    """The packet rules. ``last_seconds``: how long the last change of them took."""

    changes: int
    failures: int
    #: how often somebody else's change of our rules was undone
    restored: int
    #: frontends that the rules hold now
    elements: int
    last_seconds: float


class AgentReadings(NamedTuple):
    """Everything that runs beside the pipeline. ``capture`` None: there are no packet rules."""

    capture: CaptureReading | None = None
    #: healthCheckNodePorts that cannot be opened, and how many listeners of them are open
    problems: tuple[Problem, ...] = ()
    health_ports: int = 0
    #: Events that the API has taken, and that were given up (queue full, refused, unreachable)
    events_written: int = 0
    events_dropped: int = 0


class AdminReadings(NamedTuple):
    """What the admin side knows besides the pipeline. Answers of /healthz and /livez by status code."""

    agent: AgentReadings = AgentReadings()
    healthz: tuple[tuple[int, int], ...] = ()
    livez: tuple[tuple[int, int], ...] = ()
    #: connections that were closed to make room for others
    dropped: int = 0
