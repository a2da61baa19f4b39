"""What both ways to serve frontends have in common: the face that `Applier` uses, states and names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from spliceway.engine import RouteRecord
from spliceway.journal import Journal
from spliceway.model import Frontend, FrontendKey, FrontendState, Problem

SERVING = "serving"
REJECTING = "rejecting"
DROPPING = "dropping"
FAILED = "failed"

log = logging.getLogger("spliceway.apply")


class Frontends(Protocol):
    """One way to serve frontends: `spliceway.apply.bound` or `spliceway.apply.captured`.

    `Applier` calls `withdraw`, then publishes pools and `routes` in the engine, then calls `offer`.
    """

    async def start(self) -> None:
        """Make ready to serve; called once, before anything else."""
        ...

    def routes(self, offered: Sequence[Frontend]) -> list[RouteRecord]:
        """What the engine must know of frontends before they are offered."""
        ...

    async def withdraw(self, rejected: Sequence[Frontend]) -> None:
        """Refuse (or drop) clients of these frontends from now on: their pools become empty next."""
        ...

    async def offer(self, offered: Sequence[Frontend], closed: Sequence[FrontendKey]) -> None:
        """Serve these frontends, whose pools exist now, and serve the closed ones no more."""
        ...

    async def retry_failed(self) -> bool:
        """Try again what failed. True when something that failed is right now."""
        ...

    async def stop_accepting(self) -> None:
        """Serve no new client any more: shutdown has begun. Running flows go on."""
        ...

    def failing(self) -> bool:
        """There is something to try again."""
        ...

    def problems(self) -> tuple[Problem, ...]:
        """What cannot be served, and why."""
        ...

    def states(self) -> Mapping[FrontendKey, FrontendState]:
        """What became of every frontend; a copy, so any thread may read it."""
        ...

    def state(self, key: FrontendKey) -> FrontendState | None:
        """What became of one frontend; None when nobody asked for it."""
        ...


def frontend_journal() -> Journal:
    """Tells the log what became of frontends."""
    return Journal(log, "frontends")


def subject(frontend: Frontend) -> str:
    """How problems and the log name a frontend."""
    return f"Frontend {frontend.key} ({frontend.pool})"
