"""An engine without worker threads, for tests of the control plane; tests/engine holds it to the real one's answers."""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from spliceway.errors import EngineClosedError, EngineError

if TYPE_CHECKING:
    from spliceway._engine import EngineCounters, Event, Explanation, PoolCounters
    from spliceway.engine import PoolRecord, RouteRecord, Target, UnrouteRecord

BALANCES = ("maglev", "random", "round-robin", "least-conn", "p2c", "source-hash", "sed", "nq")


class FakeEvent(NamedTuple):
    kind: str
    time: float
    pool: str
    backend: str
    reason: str
    count: int  # type: ignore[assignment]


class FakeCandidate(NamedTuple):
    host: str
    port: int
    weight: int
    healthy: bool
    active: int
    consecutive_failures: int
    rank: int
    reason: str


class FakeExplanation(NamedTuple):
    pool: str
    balance: str
    generation: int
    candidates: tuple[FakeCandidate, ...]


class FakePoolCounters(NamedTuple):
    name: str
    flows: int = 0
    active: int = 0


class FakeEngineCounters(NamedTuple):
    generation: int
    listeners: int
    flows: int
    pools: tuple[FakePoolCounters, ...]


class FakeEngine:
    """Same calls as `spliceway._engine.Engine`. ``calls`` records what changed it, for assertions on order."""

    def __init__(self) -> None:
        self.pools: dict[str, PoolRecord] = {}
        self.listeners: dict[int, tuple[int, str]] = {}
        self.routes: dict[UnrouteRecord, tuple[Target | None, ...]] = {}
        self.transparent: list[tuple[int, str]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.refuse_pool = ""
        self.refuse_route = ""
        self._generation = 0
        self._numbers = 0
        self._started = self._closed = False
        self._events: list[FakeEvent] = []
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def start(self) -> None:
        if self._started:
            raise EngineError("the engine was started already")
        self._started = True

    def apply(
        self,
        upserts: list[PoolRecord],
        removes: list[str],
        generation: int,
        routes: Sequence[RouteRecord] = (),
        unroutes: Sequence[UnrouteRecord] = (),
    ) -> None:
        self._require_open()
        for record in upserts:
            self._check(record)
        for _, host, port, *_ in (*routes, *unroutes):
            if host == self.refuse_route:
                raise ValueError(f"route {host}:{port}: refused by the test")
        for protocol, host, port, targets in routes:
            self.routes[protocol, host, port] = targets
            self.calls.append(("route", protocol, host, port))
        for unroute in unroutes:
            if self.routes.pop(unroute, None):
                self.calls.append(("unroute", *unroute))
        self.calls.append(("apply", tuple(record[0] for record in upserts), tuple(removes), generation))
        for record in upserts:
            self.pools[record[0]] = record
        for name in removes:
            self.pools.pop(name, None)
        self._generation = generation

    def _check(self, record: PoolRecord) -> None:
        name, balance, _, _, _, backends = record
        if name == self.refuse_pool:
            raise ValueError(f"pool {name}: refused by the test")
        if balance not in BALANCES:
            raise ValueError(f"pool {name}: balance {balance!r} is not known")
        for host, port, weight, _ in backends:
            try:
                ipaddress.ip_address(host)
            except ValueError:
                raise ValueError(f"pool {name}: address {host!r} is not an IP address") from None
            if not 1 <= port <= 65535:
                raise ValueError(f"pool {name}: port {port} is out of range")
            if weight < 0:
                raise ValueError(f"pool {name}: weight {weight} is negative")

    def add_listener(self, fd: int, pool: str) -> int:
        if self._closed:
            os.close(fd)
            raise EngineClosedError("the engine is closed")
        self._numbers += 1
        self.listeners[self._numbers] = (fd, pool)
        self.calls.append(("add", pool))
        return self._numbers

    def add_transparent_listener(self, fd: int, client_class: str) -> int:
        self._numbers += 1
        self.listeners[self._numbers] = (fd, "")
        self.transparent.append((fd, client_class))
        return self._numbers

    def retarget_listener(self, listener: int, pool: str) -> None:
        fd, _ = self.listeners[listener]
        self.listeners[listener] = (fd, pool)
        self.calls.append(("retarget", pool))

    def remove_listener(self, listener: int) -> None:
        fd, pool = self.listeners.pop(listener)
        os.close(fd)
        self.calls.append(("remove", pool))

    def drain(self, deadline: float, pool: str | None = None) -> None:
        self._require_open()
        self.calls.append(("drain", pool, deadline))
        for number, (_, target) in tuple(self.listeners.items()):
            if pool in (None, target):
                self.remove_listener(number)
        self.emit("drained", pool or "", reason="no flow is left")

    def explain(self, pool: str, host: str, port: int) -> Explanation:
        name, balance, _, _, _, backends = self.pools[pool]
        candidates = tuple(FakeCandidate(*each, 0, 0, rank, "") for rank, each in enumerate(backends, 1))
        return cast("Explanation", FakeExplanation(name, balance, self._generation, candidates))

    def counters(self, *, all_pools: bool = True) -> EngineCounters:
        pools = tuple(map(FakePoolCounters, self.pools)) if all_pools else ()
        return cast("EngineCounters", FakeEngineCounters(self._generation, len(self.listeners), 0, pools))

    def pool_counters(self, pool: str) -> PoolCounters:
        return cast("PoolCounters", FakePoolCounters(self.pools[pool][0]))

    def take_events(self, limit: int = 1024) -> list[Event]:
        taken, self._events = self._events[:limit], self._events[limit:]
        if not self._events and taken:
            os.eventfd_read(self._wake)
        return cast("list[Event]", taken)

    @property
    def wake_fd(self) -> int:
        return self._wake

    @property
    def generation(self) -> int:
        return self._generation

    def close(self, deadline: float = 5.0) -> None:
        if self._closed:
            return
        self._closed = True
        for fd, _ in self.listeners.values():
            os.close(fd)
        self.listeners.clear()
        os.close(self._wake)

    def emit(self, kind: str, pool: str, backend: str = "", reason: str = "", count: int = 1) -> None:
        """Let an event happen."""
        self._events.append(FakeEvent(kind, time.time(), pool, backend, reason, count))
        os.eventfd_write(self._wake, 1)

    def addresses(self) -> dict[tuple[str, int], str]:
        """Which pool each listening address leads to."""
        found: dict[tuple[str, int], str] = {}
        for fd, pool in self.listeners.values():
            with socket.socket(fileno=os.dup(fd)) as copy:
                found[copy.getsockname()[:2]] = pool
        return found

    def backends(self, pool: str) -> list[tuple[str, int]]:
        """The backends of a pool that are healthy."""
        return [(host, port) for host, port, _, healthy in self.pools[pool][5] if healthy]

    def _require_open(self) -> None:
        if self._closed:
            raise EngineClosedError("the engine is closed")
