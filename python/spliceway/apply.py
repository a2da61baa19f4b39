"""Carries out steps on capture and engine. The only writer of both, and the keeper of what became of each frontend.

A step that fails becomes a problem or a failed frontend and never stops the steps after it. Frontends that could not be
opened are tried again by `Applier.retry_failed`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import trio

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
from spliceway.errors import FrontendError
from spliceway.model import Address, Frontend, FrontendState, PoolSpec, Problem
from spliceway.pace import Pace

SERVING = "serving"
REJECTING = "rejecting"
FAILED = "failed"

#: pools of one engine call, so that the memory for crossing the boundary stays small
CHUNK = 200
#: failed frontends that are tried again in one go (thousands may fail when addresses are not local; they take turns),
#: and at once, before a change gets its turn
RETRY_LIMIT = 500
RETRY_CHUNK = 50
#: what the engine raises for a pool that it cannot take: a bad value, or one that does not even cross the boundary
REFUSALS = (ValueError, TypeError, OverflowError)
#: frontends of one batch that get a line each in the log
LOG_LINES = 10

log = logging.getLogger(__name__)


class Capture(Protocol):
    """What opens frontends. `spliceway.capture.bind` is one."""

    def open(self, address: Address) -> int:
        """Return a listening socket's file descriptor, or raise `FrontendError`."""
        ...


class Applier:
    """Makes capture and engine follow the steps."""

    def __init__(self, engine: TrioEngine, capture: Capture) -> None:
        self._engine = engine
        self._capture = capture
        self._lock = trio.Lock()
        self._listeners: dict[Address, int] = {}
        self._states: dict[Address, FrontendState] = {}
        #: frontends that could not be opened, the one tried last at the end
        self._failed: dict[Address, Problem] = {}
        self._pool_problems: dict[str, Problem] = {}
        self._journal: list[str] = []
        self._accepting = True

    async def execute(self, steps: Sequence[Step], generation: int) -> None:
        """Carry out ``steps``; at the end the engine has published ``generation``."""
        async with self._lock:
            pace = Pace()
            # Readers of the generation must find the whole state behind it, so the last call to the engine publishes.
            whole = len(steps) == 1 and isinstance(steps[0], UpsertPools) and len(steps[0].pools) <= CHUNK
            removes: tuple[str, ...] = ()
            for step in steps:
                match step:
                    case UpsertPools(pools=pools):
                        await self._upsert(pools, generation if whole else generation - 1)
                    case RemovePools(names=names):
                        removes += names
                    case _:
                        self._frontend_step(step)
                await pace.breathe()
            self._open_late(steps)
            if not whole or self._pool_problems:
                await self._engine.apply((), removes, generation)
            for name in removes:
                self._pool_problems.pop(name, None)
            self._write_journal()

    async def retry_failed(self) -> bool:
        """Try to open the frontends that failed. True when one of them serves now."""
        before = len(self._failed)
        waiting = list(self._failed)[:RETRY_LIMIT]
        for start in range(0, len(waiting), RETRY_CHUNK):
            async with self._lock:
                for address in waiting[start : start + RETRY_CHUNK]:
                    if address in self._failed:
                        self._open(self._states[address].frontend)
                self._write_journal()
        return len(self._failed) < before

    async def stop_accepting(self) -> None:
        """From now on no frontend is opened: shutdown has begun."""
        async with self._lock:
            self._accepting = False
            self._failed.clear()

    def frontends(self) -> Mapping[Address, FrontendState]:
        """What became of every frontend; a copy, so any thread may read it."""
        return self._states.copy()

    def state(self, address: Address) -> FrontendState | None:
        """What became of one frontend; None when nobody asked for it."""
        return self._states.get(address)

    def pool_problem(self, pool: str) -> Problem | None:
        """Why the engine refused ``pool`` as it is wanted; None when it has it."""
        return self._pool_problems.get(pool)

    def failing(self) -> bool:
        """There are frontends to try again."""
        return bool(self._failed)

    def problems(self) -> tuple[Problem, ...]:
        """Frontends that cannot be opened and pools that the engine refused."""
        return (*self._failed.copy().values(), *self._pool_problems.copy().values())

    async def _upsert(self, pools: tuple[PoolSpec, ...], generation: int) -> None:
        for start in range(0, len(pools), CHUNK):
            chunk = pools[start : start + CHUNK]
            try:
                await self._engine.apply(chunk, (), generation)
            except REFUSALS:
                # One of them is bad and nothing was changed: find it, and apply the others.
                for pool in chunk:
                    await self._upsert_one(pool, generation)
            else:
                for name in self._pool_problems.keys() & {pool.name for pool in chunk}:
                    del self._pool_problems[name]
            await trio.lowlevel.checkpoint()

    async def _upsert_one(self, pool: PoolSpec, generation: int) -> None:
        self._pool_problems.pop(pool.name, None)
        try:
            await self._engine.apply((pool,), (), generation)
        except REFUSALS as error:
            reason = str(error).removeprefix(f"pool {pool.name}: ")
            self._pool_problems[pool.name] = Problem(f"Pool {pool.name}", f"is left as it was: {reason}")

    def _frontend_step(self, step: RejectFrontend | OpenFrontend | RetargetFrontend | CloseFrontend) -> None:
        match step:
            case OpenFrontend(frontend=frontend):
                self._open(frontend)
            case RetargetFrontend(frontend=frontend):
                self._retarget(frontend)
            case RejectFrontend(frontend=frontend):
                self._close(frontend.address)
                self._states[frontend.address] = FrontendState(frontend, REJECTING, "no usable endpoint")
                self._journal.append(f"{_subject(frontend)} refuses clients: no usable endpoint")
            case CloseFrontend(address=address):
                self._close(address)
                if state := self._states.pop(address, None):
                    self._journal.append(f"{_subject(state.frontend)} closed")

    def _open_late(self, steps: Sequence[Step]) -> None:
        """Try again what failed because an address in its way was closed only after it was tried."""
        if self._failed and any(isinstance(step, CloseFrontend) for step in steps):
            for step in steps:
                if isinstance(step, OpenFrontend) and step.frontend.address in self._failed:
                    self._open(step.frontend)

    def _open(self, frontend: Frontend) -> None:
        address = frontend.address
        if not self._accepting:
            return
        try:
            fd = self._capture.open(address)
            self._listeners[address] = self._engine.add_listener(fd, frontend.pool)
        except FrontendError as error:
            self._fail(frontend, str(error))
        except OSError as error:
            self._fail(frontend, f"cannot listen: {error.strerror or error}")
        else:
            self._failed.pop(address, None)
            self._states[address] = FrontendState(frontend, SERVING)
            self._journal.append(f"{_subject(frontend)} serves")

    def _fail(self, frontend: Frontend, message: str) -> None:
        problem = Problem(_subject(frontend), message)
        known = self._failed.pop(frontend.address, None)
        # The old object is kept when nothing is new, so that readers see at a glance that nothing changed.
        self._failed[frontend.address] = known if known and known == problem else problem
        self._states[frontend.address] = FrontendState(frontend, FAILED, message)

    def _retarget(self, frontend: Frontend) -> None:
        listener = self._listeners.get(frontend.address)
        if listener is None:
            self._open(frontend)
            return
        try:
            self._engine.retarget_listener(listener, frontend.pool)
        except KeyError:
            del self._listeners[frontend.address]
            self._open(frontend)
            return
        self._states[frontend.address] = FrontendState(frontend, SERVING)

    def _close(self, address: Address) -> None:
        self._failed.pop(address, None)
        listener = self._listeners.pop(address, None)
        if listener is None:
            return
        try:
            self._engine.remove_listener(listener)
        except KeyError:
            log.debug("listener of %s was closed already", address)

    def _write_journal(self) -> None:
        """One line for each frontend, but thousands of them get a summary."""
        _log_some(self._journal)
        self._journal.clear()


def _log_some(lines: Iterable[str]) -> None:
    listed = list(lines)
    for line in listed[:LOG_LINES]:
        log.info("%s", line)
    if len(listed) > LOG_LINES:
        log.info("and %d more frontends changed", len(listed) - LOG_LINES)


def _subject(frontend: Frontend) -> str:
    return f"Frontend {frontend.address} ({frontend.pool})"
