"""What waits for the pipeline's next turn: facts, verdicts, and requests of an embedding program."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import trio

from spliceway.errors import EngineClosedError
from spliceway.model import Fact, Verdict
from spliceway.observe.syncs import SyncTimes
from spliceway.pace import Pace
from spliceway.planning import Planning

#: batches that may wait; a source whose batches are not taken waits itself
CAPACITY = 32
#: batches that one turn takes at most, so that an endless stream cannot hold up the plan
COALESCE = 64


class Request(NamedTuple):
    """A change that an embedding program asked for. ``done`` is set when the engine has it."""

    change: Callable[[], None]
    done: trio.Event


Batch = tuple[Fact | Verdict | Request, ...]


class Inbox:
    """Collects batches and folds them into ``planning``, in the order in which they came; ``syncs`` is told of them."""

    def __init__(self, planning: Planning, syncs: SyncTimes) -> None:
        self._planning = planning
        self._syncs = syncs
        self._send, self._receive = trio.open_memory_channel[Batch](CAPACITY)
        #: requests whose programs wait
        self._requests: set[Request] = set()
        self._closed = False

    @property
    def channel(self) -> trio.MemorySendChannel[Batch]:
        """Where sources and health send their batches."""
        return self._send

    async def request(self, change: Callable[[], None]) -> None:
        """Have ``change`` made at the next turn, and wait until the engine has it.

        Raises:
            EngineClosedError: the pipeline has stopped.
        """
        request = Request(change, trio.Event())
        self._requests.add(request)
        try:
            with suppress(trio.BrokenResourceError):
                await self._send.send((request,))
                await request.done.wait()
        finally:
            self._requests.discard(request)
        self.require_open()

    async def wait(self) -> list[Request]:
        """Wait for a batch and fold it and all that waits behind it; return the requests among them."""
        return await self.fold_waiting(await self._receive.receive())

    async def fold_waiting(self, batch: Batch = ()) -> list[Request]:
        """Fold ``batch`` and what waits behind it; return the requests among them."""
        pace = Pace()
        requests = self._fold(batch)
        for _ in range(COALESCE):
            await pace.breathe()
            try:
                batch = self._receive.receive_nowait()
            except trio.WouldBlock:
                break
            requests += self._fold(batch)
        return requests

    def require_open(self) -> None:
        """Raise `EngineClosedError` when the pipeline has stopped."""
        if self._closed:
            raise EngineClosedError("the load balancer has stopped")

    def close(self) -> None:
        """Let nobody wait for a pipeline that does not run any more."""
        self._closed = True
        self._receive.close()
        for request in self._requests:
            request.done.set()

    def _fold(self, batch: Batch) -> list[Request]:
        requests = [message for message in batch if isinstance(message, Request)]
        for request in requests:
            request.change()
        self._planning.fold_verdicts(message for message in batch if isinstance(message, Verdict))
        facts = [message for message in batch if not isinstance(message, Request | Verdict)]
        if batch:
            self._syncs.queued(facts)
        self._planning.fold(facts)
        return requests
