"""When changes arrived and when they were in force: the base of `/healthz`, `/livez` and kube-proxy's sync metrics.

One turn of the pipeline is one sync. It brings both IP families at once, so both have the same times (H-08).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import NamedTuple

from spliceway.model import Delete, EndpointSlice, Fact, Kind, Service, Upsert

#: seconds that a change may wait: twice kube-proxy's syncPeriod (H-08)
UNHEALTHY_AFTER = 60.0
#: 1 ms, doubled 14 times (section 4)
SYNC_BUCKETS = tuple(0.001 * 2**power for power in range(15))
PROGRAMMING_BUCKETS = (
    0.25,
    0.5,
    *(float(second) for second in range(1, 60)),
    *(float(second) for second in range(60, 120, 5)),
    *(float(second) for second in range(120, 301, 30)),
)


class HistogramReading(NamedTuple):
    """A histogram at one moment. ``counts`` are not cumulative, the last one is for +Inf."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Histogram:
    """Counts observations by upper bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def read(self) -> HistogramReading:
        """Copy it."""
        return HistogramReading(self._bounds, tuple(self._counts), self._total)


class SyncReading(NamedTuple):
    """`SyncTimes` at one moment, for any thread. Timestamps in seconds since the Unix epoch; 0: never."""

    healthy: bool
    last_queued: float
    last_synced: float
    service_changes: int
    slice_changes: int
    service_changes_pending: int
    slice_changes_pending: int
    all: HistogramReading
    full: HistogramReading
    partial: HistogramReading
    programming: HistogramReading


class SyncTimes:
    """Told by the pipeline of every batch of facts and every turn; asked by everybody else.

    Args:
        clock: seconds that never go back.
        wall: seconds since the Unix epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._begun = wall()
        #: the oldest and the newest change that no turn has brought
        self._waiting_since: float | None = None
        self._waiting_last = 0.0
        self._last_queued = self._begun
        self._last_synced = 0.0
        self._services = self._slices = 0
        self._services_done = self._slices_done = 0
        self._all = Histogram(SYNC_BUCKETS)
        self._full = Histogram(SYNC_BUCKETS)
        self._partial = Histogram(SYNC_BUCKETS)
        self._programming = Histogram(PROGRAMMING_BUCKETS)

    def queued(self, facts: Iterable[Fact] = ()) -> None:
        """A change arrived that the next turn has to bring: ``facts``, or something else that asks for a turn."""
        now = self._clock()
        if self._waiting_since is None:
            self._waiting_since = now
        self._waiting_last = now
        self._last_queued = self._wall()
        for fact in facts:
            if isinstance(fact, Upsert):
                self._services += isinstance(fact.object, Service)
                self._slices += isinstance(fact.object, EndpointSlice)
            elif isinstance(fact, Delete):
                self._services += fact.kind is Kind.SERVICE
                self._slices += fact.kind is Kind.ENDPOINT_SLICE

    def synced(self, seconds: float, full: bool, triggers: Iterable[float] = ()) -> None:
        """A turn ended well, also one that found nothing to do; a turn that failed is not told.

        Args:
            seconds: how long it took. What was queued while it ran stays waiting.
            full: everything was written anew (the first complete state), not only what changed.
            triggers: ``ServicePlan.triggered`` of the plans that it brought, where it is another than before. Those
                from before this process started are left out (W-13).
        """
        now, wall = self._clock(), self._wall()
        if self._waiting_since is not None:
            self._waiting_since = self._waiting_last if self._waiting_last > now - seconds else None
        if self._waiting_since is None:
            self._services_done, self._slices_done = self._services, self._slices
        self._last_synced = wall
        self._all.observe(seconds)
        (self._full if full else self._partial).observe(seconds)
        for trigger in triggers:
            if trigger >= self._begun:
                self._programming.observe(max(0.0, wall - trigger))

    @property
    def healthy(self) -> bool:
        """No change has waited for more than 60 s (H-08)."""
        return self._waiting_since is None or self._clock() - self._waiting_since <= UNHEALTHY_AFTER

    @property
    def last_synced(self) -> float:
        """When the last turn ended, or else when this process started (H-08), in seconds since the Unix epoch."""
        return self._last_synced or self._begun

    def read(self) -> SyncReading:
        """Copy everything."""
        return SyncReading(
            self.healthy,
            self._last_queued,
            self._last_synced,
            self._services,
            self._slices,
            self._services - self._services_done,
            self._slices - self._slices_done,
            self._all.read(),
            self._full.read(),
            self._partial.read(),
            self._programming.read(),
        )
