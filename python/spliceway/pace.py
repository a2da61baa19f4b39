"""Cuts long work on the Trio thread into pieces."""

from __future__ import annotations

import time

import trio


class Pace:
    """Lets other tasks run whenever this one has held the thread for ``limit`` seconds."""

    def __init__(self, limit: float = 0.005) -> None:
        self._limit = limit
        self._until = time.perf_counter() + limit

    async def breathe(self) -> None:
        """A checkpoint when the time is used up; costs next to nothing otherwise."""
        if time.perf_counter() >= self._until:
            await trio.lowlevel.checkpoint()
            self._until = time.perf_counter() + self._limit
