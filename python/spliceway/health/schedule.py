"""When each target is probed next: a heap, jitter and backoff. Pure: the present time is an argument."""

from __future__ import annotations

import heapq
import random

from spliceway.model import HealthCheck, Target

#: seconds until a backend that failed under traffic is probed first, and between the probes that it passes: a Pod that
#: restarted should have its share again soon
SUSPECT_INTERVAL = 0.25
#: each failed probe of a suspect makes the wait so much longer, up to the check's interval or this many seconds: one
#: SYN in two seconds costs nobody anything
SUSPECT_BACKOFF = 1.5
SUSPECT_LIMIT = 2.0
#: intervals vary by this part up and down, so that probes of one moment drift apart
JITTER = 0.2


class _Entry:
    __slots__ = ("number", "wait")

    def __init__(self, number: int, wait: float) -> None:
        #: tells the present place in the heap from older ones
        self.number = number
        self.wait = wait


class Schedule:
    """The targets that are probed, ordered by time in seconds of any one clock."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)
        self._entries: dict[Target, _Entry] = {}
        self._heap: list[tuple[float, int, Target]] = []
        self._number = 0

    def add_suspect(self, target: Target, check: HealthCheck, now: float) -> None:
        """Probe ``target`` soon. Does nothing when it is scheduled already."""
        if target not in self._entries:
            wait = min(SUSPECT_INTERVAL, check.interval)
            self._place(target, now + self._jittered(wait), wait)

    def add_regular(self, target: Target, check: HealthCheck, now: float) -> None:
        """Probe ``target`` every interval, first at a random moment of the first one. Does nothing when it is there."""
        if target not in self._entries:
            self._place(target, now + self._random.random() * check.interval, check.interval)

    def again(self, target: Target, check: HealthCheck, ok: bool, now: float) -> None:
        """Schedule the probe after the one that just ended, unless the target was discarded meanwhile."""
        entry = self._entries.get(target)
        if entry is None:
            return
        if check.kind != "passive":
            wait = check.interval
        elif ok:
            wait = min(SUSPECT_INTERVAL, check.interval)
        else:
            wait = min(entry.wait * SUSPECT_BACKOFF, check.interval, SUSPECT_LIMIT)
        self._place(target, now + self._jittered(wait), wait)

    def discard(self, target: Target) -> None:
        """Probe ``target`` no more."""
        if self._entries.pop(target, None) is not None:
            self._drop_stale()

    def pop_due(self, now: float) -> Target | None:
        """Take a target whose time has come; `again` puts it back."""
        while self._heap and self._heap[0][0] <= now:
            _, number, target = heapq.heappop(self._heap)
            if self._is_current(target, number):
                return target
        return None

    def next_due(self) -> float | None:
        """The moment at which `pop_due` gives something next, None when nothing is scheduled."""
        while self._heap and not self._is_current(self._heap[0][2], self._heap[0][1]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def __contains__(self, target: Target) -> bool:
        return target in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def _place(self, target: Target, due: float, wait: float) -> None:
        self._number += 1
        self._entries[target] = _Entry(self._number, wait)
        heapq.heappush(self._heap, (due, self._number, target))

    def _is_current(self, target: Target, number: int) -> bool:
        entry = self._entries.get(target)
        return entry is not None and entry.number == number

    def _jittered(self, wait: float) -> float:
        return wait * self._random.uniform(1 - JITTER, 1 + JITTER)

    def _drop_stale(self) -> None:
        # Discarded targets stay in the heap until their time; when they are most of it, it is built anew.
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._entries):
            self._heap = [item for item in self._heap if self._is_current(item[2], item[1])]
            heapq.heapify(self._heap)
