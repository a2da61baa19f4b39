"""Tells the cluster, by Events, what its users should know of. Never in anybody's way.

Events wait in a bounded queue; one task writes them, at most 5 a second. What happens again is counted in the Event
that exists, and what cannot be written is dropped and counted here.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import NamedTuple

import trio

from spliceway.model import ObjectKey, Problem
from spliceway.source.eventrecord import EventRecord, EventWriteError

log = logging.getLogger(__name__)

#: Events that wait, and Events that are remembered so that they are counted when they happen again
QUEUE_LIMIT = 500
MEMORY_LIMIT = 4096
#: Events a second, and at once after a pause
RATE = 5.0
BURST = 10
#: seconds until an Event that goes on happening is written again
REPEAT_INTERVAL = 60.0
#: seconds until the API server is tried again when it does not answer, and how often
RETRY_INTERVAL = 10.0
TRIES = 12

#: what the object's author can change
PROBLEM_REASON = "NotServedAsAsked"
_SUBJECT = re.compile(r"(Service|EndpointSlice) ([^/ ]+)/([^/ ]+)")
_FRONTEND = re.compile(r"Frontend \S+ \(([^/ ]+)/([^/ ]+)\)")


class _Key(NamedTuple):
    kind: str
    namespace: str
    name: str
    reason: str
    note: str


class Announcer:
    """The queue and the one who writes it. Its methods return at once and may be called before it runs.

    Args:
        write: puts one Event into the API, in a thread. Raises `EventWriteError`.
        wall: seconds since the Unix epoch.
    """

    def __init__(self, write: Callable[[EventRecord], None], wall: Callable[[], float] = time.time) -> None:
        self._write = write
        self._wall = wall
        self._waiting: dict[_Key, EventRecord] = {}
        self._known: dict[_Key, EventRecord] = {}
        #: when each known one was written last
        self._written_at: dict[_Key, float] = {}
        self._wake = trio.Event()
        self._refused = False
        #: Events that the API has taken, and that were given up
        self.written = 0
        self.dropped = 0

    def node(self, name: str, reason: str, action: str, note: str, *, warning: bool = False) -> None:
        """Something about the Node."""
        self._say(_Key("Node", "", name, reason, note), action, warning=warning)

    def service(self, key: ObjectKey, reason: str, action: str, note: str) -> None:
        """Something wrong with a Service."""
        self._say(_Key("Service", key.namespace, key.name, reason, note), action, warning=True)

    def problem(self, problem: Problem) -> None:
        """A problem that came up, if it is one of a Service or an EndpointSlice; others are the log's alone."""
        if match := _SUBJECT.fullmatch(problem.subject):
            kind, namespace, name = match.groups()
            key = _Key(kind, namespace, name, PROBLEM_REASON, problem.message)
            self._say(key, "Plan", warning=True, shared=True)
        elif match := _FRONTEND.fullmatch(problem.subject):
            namespace, name = match.groups()
            note = f"{problem.subject} {problem.message}"
            self._say(_Key("Service", namespace, name, PROBLEM_REASON, note), "Listen", warning=True)

    async def run(self) -> None:
        """Write what waits until cancelled."""
        tokens, filled = float(BURST), trio.current_time()
        while True:
            while not self._waiting:
                self._wake = trio.Event()
                await self._wake.wait()
            now = trio.current_time()
            tokens, filled = min(float(BURST), tokens + (now - filled) * RATE), now
            if tokens < 1.0:
                await trio.sleep((1.0 - tokens) / RATE)
                continue
            tokens -= 1.0
            key = next(iter(self._waiting))
            await self._deliver(key, self._waiting.pop(key))

    def _say(self, key: _Key, action: str, *, warning: bool, shared: bool = False) -> None:
        now = self._wall()
        known = self._known.pop(key, None)
        if known is None:
            record = EventRecord(*key[:4], action, key.note, warning, now, now, shared=shared)
        else:
            record = known._replace(last=now, times=known.times + 1)
        self._known[key] = record  # at the end: it was used last
        if len(self._known) > MEMORY_LIMIT:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._written_at.pop(oldest, None)
        if key in self._waiting:
            self._waiting[key] = record
        elif now - self._written_at.get(key, float("-inf")) >= REPEAT_INTERVAL:
            self._enqueue(key, record)

    def _enqueue(self, key: _Key, record: EventRecord) -> None:
        if len(self._waiting) >= QUEUE_LIMIT:
            self.dropped += 1
            return
        self._waiting[key] = record
        self._wake.set()

    async def _deliver(self, key: _Key, record: EventRecord) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                await trio.to_thread.run_sync(self._write, record, abandon_on_cancel=True)
            except EventWriteError as error:
                if error.passing and attempt < TRIES:
                    log.debug("Event not written, tried again in %g s: %s", RETRY_INTERVAL, error.message)
                    await trio.sleep(RETRY_INTERVAL)
                    continue
                self._give_up(error)
                return
            self.written += 1
            self._written_at[key] = self._wall()
            return

    def _give_up(self, error: EventWriteError) -> None:
        self.dropped += 1
        if self._refused:
            log.debug("Event not written: %s", error.message)
            return
        self._refused = True
        advice = "; grant 'create' and 'patch' on events in group events.k8s.io, or use --no-events"
        log.warning(
            "Kubernetes Events are not written: %s%s (said once; metric spliceway_events_dropped_total counts them)",
            error.message,
            advice if error.forbidden else "",
        )
