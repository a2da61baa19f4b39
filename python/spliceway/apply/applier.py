"""Puts steps into the order in which no client meets a state that nobody asked for.

Clients of frontends that come to reject are sent away first; then pools and routes are published in one swap; then
frontends are offered that lead to them; what nobody asks for goes last. A step that fails becomes a problem and never
stops the steps after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import trio

from spliceway.apply.frontends import Frontends, subject
from spliceway.diff import (
    CloseFrontend,
    OpenFrontend,
    RejectFrontend,
    RemovePools,
    RetargetFrontend,
    Step,
    UpsertPools,
)
from spliceway.engine import TrioEngine
from spliceway.model import Frontend, FrontendKey, FrontendState, PoolSpec, Problem

#: pools, and routes, of one engine call, so that the memory for crossing the boundary stays small
CHUNK = 200
ROUTES_CHUNK = 2000
#: what the engine raises for a pool or route that it cannot take: a bad value, or one that does not even cross the
#: boundary
REFUSALS = (ValueError, TypeError, OverflowError)


class _Work(NamedTuple):
    """Steps by what they do."""

    rejected: list[Frontend]
    upserts: list[PoolSpec]
    offered: list[Frontend]
    closed: list[FrontendKey]
    removes: list[str]

    @classmethod
    def of(cls, steps: Sequence[Step]) -> _Work:
        work = cls([], [], [], [], [])
        for step in steps:
            match step:
                case RejectFrontend(frontend=frontend):
                    work.rejected.append(frontend)
                case UpsertPools(pools=pools):
                    work.upserts.extend(pools)
                case OpenFrontend(frontend=frontend) | RetargetFrontend(frontend=frontend):
                    work.offered.append(frontend)
                case CloseFrontend(key=key):
                    work.closed.append(key)
                case RemovePools(names=names):
                    work.removes.extend(names)
        return work


class Applier:
    """Makes frontends and engine follow the steps."""

    def __init__(self, engine: TrioEngine, frontends: Frontends) -> None:
        self._engine = engine
        self._frontends = frontends
        self._lock = trio.Lock()
        self._pool_problems: dict[str, Problem] = {}
        #: frontends whose route the engine refused
        self._route_problems: dict[FrontendKey, Problem] = {}

    async def start(self) -> None:
        """Make ready to serve; called once. Raises `FrontendError` when that is not possible on this machine."""
        await self._frontends.start()

    async def execute(self, steps: Sequence[Step], generation: int) -> None:
        """Carry out ``steps``; at the end the engine has published ``generation``."""
        work = _Work.of(steps)
        async with self._lock:
            changed = [*work.rejected, *work.offered]
            routed = bool(self._frontends.routes(changed[:1]))
            # Readers of the generation must find the whole state behind it, so the last call to the engine publishes.
            whole = len(work.upserts) <= CHUNK and not (work.offered or work.closed or work.removes or routed)
            await self._frontends.withdraw(work.rejected)
            await self._upsert(work.upserts, generation if whole else generation - 1)
            for start in range(0, len(changed) if routed else 0, ROUTES_CHUNK):
                await self._route(changed[start : start + ROUTES_CHUNK], generation - 1)
            await self._frontends.offer(work.offered, work.closed)
            if not (whole and work.upserts) or self._pool_problems:
                gone = await self._unroute_refused(work.closed, generation - 1)
                await self._engine.apply((), work.removes, generation, unroutes=gone)
            for name in work.removes:
                self._pool_problems.pop(name, None)

    async def retry_failed(self) -> bool:
        """Try again what failed. True when something that failed is right now."""
        async with self._lock:
            return await self._frontends.retry_failed()

    async def stop_accepting(self) -> None:
        """From now on no new client is served: shutdown has begun."""
        async with self._lock:
            await self._frontends.stop_accepting()

    def frontends(self) -> Mapping[FrontendKey, FrontendState]:
        """What became of every frontend; a copy, so any thread may read it."""
        return self._frontends.states()

    def state(self, key: FrontendKey) -> FrontendState | None:
        """What became of one frontend; None when nobody asked for it."""
        return self._frontends.state(key)

    def pool_problem(self, pool: str) -> Problem | None:
        """Why the engine refused ``pool`` as it is wanted; None when it has it."""
        return self._pool_problems.get(pool)

    def failing(self) -> bool:
        """There is something to try again."""
        return self._frontends.failing()

    def problems(self) -> tuple[Problem, ...]:
        """Frontends that cannot be served, and pools and routes that the engine refused."""
        refused = (*self._pool_problems.copy().values(), *self._route_problems.copy().values())
        return (*self._frontends.problems(), *refused)

    async def _route(self, frontends: Sequence[Frontend], generation: int) -> None:
        try:
            await self._engine.apply((), (), generation, self._frontends.routes(frontends))
        except REFUSALS as error:
            # One of them is bad and nothing was changed: find it by halves, and apply the others.
            if len(frontends) > 1:
                half = len(frontends) // 2
                await self._route(frontends[:half], generation)
                await self._route(frontends[half:], generation)
                return
            (frontend,) = frontends
            self._route_problems[frontend.key] = Problem(subject(frontend), f"its route is left as it was: {error}")
        else:
            for frontend in frontends if self._route_problems else ():
                self._route_problems.pop(frontend.key, None)

    async def _unroute_refused(self, closed: Sequence[FrontendKey], generation: int) -> list[FrontendKey]:
        """Of those whose route was refused there may be none, or an older one. Returns the others of ``closed``."""
        refused = [key for key in closed if self._route_problems.pop(key, None)]
        for key in refused:
            with suppress(*REFUSALS):
                await self._engine.apply((), (), generation, unroutes=(key,))
        return [key for key in closed if key not in refused] if refused else list(closed)

    async def _upsert(self, pools: Sequence[PoolSpec], generation: int) -> None:
        for start in range(0, len(pools), CHUNK):
            chunk = pools[start : start + CHUNK]
            try:
                await self._engine.apply(chunk, (), generation)
            except REFUSALS:
                # One of them is bad and nothing was changed: find it, and apply the others.
                for pool in chunk:
                    await self._upsert_one(pool, generation)
            else:
                for pool in chunk:
                    self._pool_problems.pop(pool.name, None)
            await trio.lowlevel.checkpoint()  # sources send meanwhile, so that bursts coalesce

    async def _upsert_one(self, pool: PoolSpec, generation: int) -> None:
        try:
            await self._engine.apply((pool,), (), generation)
            self._pool_problems.pop(pool.name, None)
        except REFUSALS as error:
            reason = str(error).removeprefix(f"pool {pool.name}: ")
            self._pool_problems[pool.name] = Problem(f"Pool {pool.name}", f"is left as it was: {reason}")
