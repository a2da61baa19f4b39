"""Health checks, evidence and verdicts."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from spliceway.model.names import Address


class HealthCheck(msgspec.Struct, frozen=True, gc=False):
    """How backends are checked. Times in seconds.

    ``passive`` probes (by TCP connect) only backends that failed under traffic, until they answer again; ``tcp`` and
    ``http`` probe all backends all the time; ``off`` uses no evidence at all.
    """

    kind: str = "passive"
    interval: float = 5.0
    timeout: float = 1.0
    rise: int = 2
    fall: int = 3
    path: str = "/"
    #: probe this port instead of the backend's own
    port: int | None = None
    #: HTTP status codes from..to that pass
    expect: tuple[int, int] = (200, 399)


class Target(NamedTuple):
    """A backend of a pool, as health sees it."""

    pool: str
    backend: Address


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """One observation about a target, from a probe or from traffic; both enter by the same door."""

    target: Target
    ok: bool
    #: ``probe`` or ``traffic``
    origin: str
    reason: str = ""
    #: counts for this many observations in a row (traffic reports consecutive failures at once)
    count: int = 1


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """Health's opinion on a target changed."""

    target: Target
    healthy: bool
    reason: str = ""
