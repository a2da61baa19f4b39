"""Schedules probes, takes evidence from traffic, and tells verdicts."""

from __future__ import annotations

import math
from array import array

import msgspec
import trio

from spliceway.errors import SettingsError
from spliceway.health.prober import probe
from spliceway.health.schedule import Schedule
from spliceway.health.verdict import HealthStates
from spliceway.model import Address, Evidence, HealthCheck, Target, Verdict

KINDS = ("passive", "tcp", "http", "off")

#: changes that one pass of the scheduler handles before it lets other tasks run
_PROBES_PER_PASS = 100


class HealthStatistics(msgspec.Struct, frozen=True):
    """What the monitor did so far, and what it does now."""

    pools: int
    #: targets that are probed at present, and targets with a failure that is not yet made good
    scheduled: int
    suspects: int
    probes: int
    probes_failed: int
    #: how often the scheduler had to wait because ``probe_limit`` probes were under way
    limit_waits: int
    verdicts: int


class _Pool:
    """A pool's check and, as hashes, its backends: 100,000 of them take 1 MB this way, and 8 MB as they are."""

    __slots__ = ("check", "hashes")

    def __init__(self, backends: tuple[Address, ...], check: HealthCheck) -> None:
        self.check = check
        self.hashes = array("q", map(hash, backends))

    def __contains__(self, backend: Address) -> bool:
        return hash(backend) in self.hashes


class HealthMonitor:
    """Watches the backends of all pools.

    ``check`` applies to every pool that is not given its own. ``probe_limit`` bounds the probes under way at once.
    ``seed`` makes jitter repeatable. With kind ``passive`` only backends that failed lately have any state or cost
    anything; there is one scheduler task in all, never one for each target.

    Folding every batch of verdicts that `run` sends gives what `unhealthy` tells: a target that is removed while it is
    unhealthy is reported as healthy, so nobody keeps a grudge against an address that another Pod gets later.

    Raises:
        SettingsError: a field of ``check`` has an unusable value.
    """

    def __init__(self, check: HealthCheck, probe_limit: int, *, seed: int | None = None) -> None:
        validate_check(check)
        self._check = check
        self._limiter = trio.CapacityLimiter(probe_limit)
        self._schedule = Schedule(seed)
        self._states = HealthStates()
        self._pools: dict[str, _Pool] = {}
        #: the backends of each pool that have any state: those that are probed, or failed lately
        self._watched: dict[str, set[Address]] = {}
        #: verdicts not yet sent, the latest of each target; and what wakes the tasks of `run`
        self._flips: dict[Target, Verdict] = {}
        self._flipped = trio.Event()
        self._rescheduled = trio.Event()
        self._probes = self._probes_failed = self._limit_waits = self._verdicts = 0

    def update_pool(self, pool: str, backends: tuple[Address, ...], check: HealthCheck | None = None) -> None:
        """Watch exactly ``backends`` (the unhealthy ones included) of ``pool``. Those that stay keep their state.

        Raises:
            SettingsError: a field of ``check`` has an unusable value.
        """
        if check is None:
            check = self._check
        else:
            validate_check(check)
        old, new = self._pools.get(pool), _Pool(backends, check)
        if old is not None and old.hashes == new.hashes and old.check == check:
            return
        self._pools[pool] = new
        watched = tuple(self._watched.get(pool, ()))
        for backend in watched:
            if backend not in new or (old is not None and old.check != check):
                self._forget(Target(pool, backend))
        if check.kind in ("tcp", "http"):
            now = trio.current_time()
            for backend in backends:
                self._watched.setdefault(pool, set()).add(backend)
                self._schedule.add_regular(Target(pool, backend), check, now)
            self._rescheduled.set()

    def remove_pool(self, pool: str) -> None:
        """Watch ``pool`` no more and forget its state. An unknown pool is fine."""
        self._pools.pop(pool, None)
        for backend in tuple(self._watched.get(pool, ())):
            self._forget(Target(pool, backend))

    def observe(self, evidence: Evidence) -> None:
        """Take one observation. Evidence about targets that are not watched (any more) is ignored."""
        target = evidence.target
        pool = self._pools.get(target.pool)
        if pool is None or pool.check.kind == "off" or target.backend not in pool:
            return
        verdict = self._states.observe(evidence, pool.check)
        if verdict is not None:
            self._tell(verdict)
        if pool.check.kind != "passive":
            return
        if not self._states.is_suspect(target):
            self._unwatch(target)
        elif target not in self._schedule:
            self._watched.setdefault(target.pool, set()).add(target.backend)
            self._schedule.add_suspect(target, pool.check, trio.current_time())
            self._rescheduled.set()

    async def run(self, verdicts: trio.MemorySendChannel[tuple[Verdict, ...]]) -> None:
        """Probe, and send verdicts in batches as they change, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe_all, nursery)
            while True:
                await self._flipped.wait()
                self._flipped = trio.Event()
                batch = tuple(self._flips.values())
                self._flips.clear()
                await verdicts.send(batch)

    def unhealthy(self) -> tuple[Verdict, ...]:
        """The present verdict of every unhealthy target."""
        return tuple(self._states.unhealthy())

    def statistics(self) -> HealthStatistics:
        """What the monitor did so far."""
        return HealthStatistics(
            pools=len(self._pools),
            scheduled=len(self._schedule),
            suspects=len(self._states),
            probes=self._probes,
            probes_failed=self._probes_failed,
            limit_waits=self._limit_waits,
            verdicts=self._verdicts,
        )

    async def _probe_all(self, nursery: trio.Nursery) -> None:
        """Start every probe at its time; the limiter's tokens belong to the probes' tasks."""
        started = 0
        while True:
            target = self._schedule.pop_due(trio.current_time())
            if target is None:
                await self._wait_due()
                continue
            if self._limiter.available_tokens == 0:
                self._limit_waits += 1
            # A token is taken here and not in the task, so that no more tasks than tokens exist.
            token = object()
            await self._limiter.acquire_on_behalf_of(token)
            nursery.start_soon(self._probe_one, target, token)
            started += 1
            if started % _PROBES_PER_PASS == 0:
                await trio.lowlevel.checkpoint()

    async def _wait_due(self) -> None:
        due = self._schedule.next_due()
        with trio.move_on_at(math.inf if due is None else due):
            await self._rescheduled.wait()
            self._rescheduled = trio.Event()

    async def _probe_one(self, target: Target, token: object) -> None:
        try:
            pool = self._pools.get(target.pool)
            if pool is None or target not in self._schedule:
                return
            evidence = await probe(target, pool.check)
        finally:
            self._limiter.release_on_behalf_of(token)
        self._probes += 1
        self._probes_failed += not evidence.ok
        pool = self._pools.get(target.pool)  # it may have changed, or be gone, since the probe began
        if pool is None or target not in self._schedule:
            return
        self.observe(evidence)
        self._schedule.again(target, pool.check, evidence.ok, trio.current_time())
        self._rescheduled.set()

    def _unwatch(self, target: Target) -> None:
        self._schedule.discard(target)
        watched = self._watched.get(target.pool)
        if watched is not None:
            watched.discard(target.backend)
            if not watched:
                del self._watched[target.pool]

    def _forget(self, target: Target) -> None:
        self._unwatch(target)
        if self._states.forget(target):
            self._tell(Verdict(target, True, "no longer watched"))

    def _tell(self, verdict: Verdict) -> None:
        self._verdicts += 1
        self._flips[verdict.target] = verdict
        self._flipped.set()


def validate_check(check: HealthCheck) -> None:
    """Raise `SettingsError` that names the field when ``check`` cannot be used."""
    if check.kind not in KINDS:
        raise SettingsError(f"health check: kind {check.kind!r} is not one of {', '.join(KINDS)}")
    for field in ("interval", "timeout"):
        if not 0 < getattr(check, field) <= 86_400:
            raise SettingsError(f"health check: {field} must be more than 0 and at most 86400 seconds")
    for field in ("rise", "fall"):
        if not 1 <= getattr(check, field) <= 1000:
            raise SettingsError(f"health check: {field} must be from 1 to 1000")
    if check.port is not None and not 1 <= check.port <= 65535:
        raise SettingsError("health check: port must be from 1 to 65535")
    if not check.path.startswith("/") or not all("!" <= character <= "~" for character in check.path):
        raise SettingsError(f"health check: path {check.path!r} must begin with / and hold no spaces")
    if not 100 <= check.expect[0] <= check.expect[1] <= 599:
        raise SettingsError("health check: expect must be two HTTP status codes, the lower first")
