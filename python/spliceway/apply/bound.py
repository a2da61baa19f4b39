"""Frontends as ordinary listening sockets, one each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol as Face

import trio

from spliceway.apply.frontends import FAILED, REJECTING, SERVING, frontend_journal, subject
from spliceway.engine import RouteRecord, TrioEngine
from spliceway.errors import FrontendError
from spliceway.model import Address, Frontend, FrontendKey, FrontendState, Problem, Protocol
from spliceway.pace import Pace

#: failed frontends that are tried again in one go (thousands may fail when addresses are not local; they take turns)
RETRY_LIMIT = 250

log = logging.getLogger(__name__)


class Sockets(Face):
    """What opens sockets. `spliceway.capture.bind` is one."""

    def open(self, address: Address, protocol: Protocol) -> int:
        """Return the file descriptor of a socket that clients reach at ``address``, or raise `FrontendError`."""
        ...


class BoundFrontends:
    """Implements `spliceway.apply.frontends.Frontends`. A frontend that cannot be opened is tried again."""

    def __init__(self, engine: TrioEngine, sockets: Sockets) -> None:
        self._engine = engine
        self._sockets = sockets
        self._listeners: dict[FrontendKey, int] = {}
        self._states: dict[FrontendKey, FrontendState] = {}
        #: frontends that could not be opened, the one tried last at the end
        self._failed: dict[FrontendKey, Problem] = {}
        self._journal = frontend_journal()
        self._accepting = True

    async def start(self) -> None:
        """Nothing to prepare."""
        await trio.lowlevel.checkpoint()

    def routes(self, offered: Sequence[Frontend]) -> list[RouteRecord]:
        """None: each socket has its pool."""
        return []

    async def withdraw(self, rejected: Sequence[Frontend]) -> None:
        """Close their sockets: the kernel refuses clients of a closed port."""
        pace = Pace()
        for frontend in rejected:
            self._close(frontend.key)
            self._states[frontend.key] = FrontendState(frontend, REJECTING, "no usable endpoint")
            self._journal.note(f"{subject(frontend)} refuses clients: no usable endpoint")
            await pace.breathe()
        self._journal.write()

    async def offer(self, offered: Sequence[Frontend], closed: Sequence[FrontendKey]) -> None:
        """Open or retarget sockets, then close those that nobody asks for."""
        pace = Pace()
        for frontend in offered:
            self._serve(frontend)
            await pace.breathe()
        for key in closed:
            self._close(key)
            if state := self._states.pop(key, None):
                self._journal.note(f"{subject(state.frontend)} closed")
            await pace.breathe()
        if closed and self._failed:
            for frontend in offered:  # an address in the way may be free only now
                if frontend.key in self._failed:
                    self._open(frontend)
        self._journal.write()

    async def retry_failed(self) -> bool:
        """Try to open the frontends that failed. True when one of them serves now."""
        before = len(self._failed)
        for key in list(self._failed)[:RETRY_LIMIT]:
            self._open(self._states[key].frontend)
        self._journal.write()
        return len(self._failed) < before

    async def stop_accepting(self) -> None:
        """From now on no frontend is opened; the engine's drain closes those that are open."""
        self._accepting = False
        self._failed.clear()

    def failing(self) -> bool:
        """There are frontends to try again."""
        return bool(self._failed)

    def problems(self) -> tuple[Problem, ...]:
        """Frontends that cannot be opened."""
        return tuple(self._failed.copy().values())

    def states(self) -> Mapping[FrontendKey, FrontendState]:
        """What became of every frontend; a copy."""
        return self._states.copy()

    def state(self, key: FrontendKey) -> FrontendState | None:
        """What became of one frontend."""
        return self._states.get(key)

    def _serve(self, frontend: Frontend) -> None:
        listener = self._listeners.get(frontend.key)
        if listener is None:
            self._open(frontend)
            return
        try:
            self._engine.retarget_listener(listener, frontend.pool)
        except KeyError:
            del self._listeners[frontend.key]
            self._open(frontend)
            return
        self._states[frontend.key] = FrontendState(frontend, SERVING)

    def _open(self, frontend: Frontend) -> None:
        key = frontend.key
        if not self._accepting:
            return
        try:
            fd = self._sockets.open(key.address, key.protocol)
            self._listeners[key] = self._engine.add_listener(fd, frontend.pool)
        except FrontendError as error:
            self._fail(frontend, str(error))
        except OSError as error:
            self._fail(frontend, f"cannot listen: {error.strerror or error}")
        else:
            self._failed.pop(key, None)
            self._states[key] = FrontendState(frontend, SERVING)
            self._journal.note(f"{subject(frontend)} serves")

    def _fail(self, frontend: Frontend, message: str) -> None:
        problem = Problem(subject(frontend), message)
        known = self._failed.pop(frontend.key, None)
        # The old object is kept when nothing is new, so that readers see at a glance that nothing changed.
        self._failed[frontend.key] = known if known and known == problem else problem
        self._states[frontend.key] = FrontendState(frontend, FAILED, message)

    def _close(self, key: FrontendKey) -> None:
        self._failed.pop(key, None)
        listener = self._listeners.pop(key, None)
        if listener is None:
            return
        try:
            self._engine.remove_listener(listener)
        except KeyError:
            log.debug("listener of %s was closed already", key)
