"""From a thread that reads to a Trio task that works: items in order, whatever has gathered in one piece, bounded."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

import trio

_T = TypeVar("_T")


class ClosedError(Exception):
    """Nobody will take what is put any more."""


class Mailbox(Generic[_T]):
    """One thread puts, one task takes. Must be made in a Trio task.

    The thread blocks while ``capacity`` items wait, so a slow task slows the sender on the other end of the socket.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._token = trio.lowlevel.current_trio_token()
        self._wake = trio.Event()
        self._changed = threading.Condition()
        self._items: list[_T] = []
        self._finished = False
        self._error: Exception | None = None
        self._closed = False

    def put(self, items: list[_T]) -> None:
        """Add items. Called by the thread; blocks while the mailbox is full. Raises `ClosedError`."""
        with self._changed:
            while len(self._items) >= self._capacity and not self._closed:
                self._changed.wait()
            if self._closed:
                raise ClosedError
            self._items += items
        self._poke()

    def finish(self, error: Exception | None = None) -> None:
        """Say that nothing follows. Called by the thread; `take` raises ``error`` after the last item."""
        with self._changed:
            self._error = error
            self._finished = True
        self._poke()

    async def take(self) -> list[_T]:
        """Wait for items and return all that wait; an empty list means that nothing follows. Raises what ended it."""
        while True:
            self._wake = trio.Event()
            with self._changed:
                items, self._items = self._items, []
                finished, error = self._finished, self._error
                self._changed.notify()
            if items:
                await trio.lowlevel.checkpoint()
                return items
            if error is not None:
                raise error
            if finished:
                await trio.lowlevel.checkpoint()
                return []
            await self._wake.wait()

    def close(self) -> None:
        """Release the thread: nobody takes any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _poke(self) -> None:
        try:
            self._token.run_sync_soon(self._set)
        except trio.RunFinishedError:
            raise ClosedError from None

    def _set(self) -> None:
        self._wake.set()
