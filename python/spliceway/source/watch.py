"""One kind's stream of facts: forever, list-then-watch, one request. Each of the three is a method here.

A list gives the state and a resource version, watches continue from there; bookmarks move the version while nothing
changes. The API server ends every watch after a while: the next one resumes. Only a version that the API server has
forgotten (410) makes a new list. API silence keeps the last state and lets `SourceStatistics.staleness` grow.
"""

from __future__ import annotations

import random
from http import HTTPStatus
from time import monotonic

import trio

from spliceway.model import (
    Delete,
    Fact,
    Keep,
    ListEnd,
    ListStart,
    Problem,
    SourceStatistics,
    Synced,
    Upsert,
)
from spliceway.settings import SourceSettings
from spliceway.source.api import Access, Client, RefusedError, UnreachableError
from spliceway.source.decode import Decoded
from spliceway.source.events import (
    Bookmarked,
    Changed,
    Event,
    Failed,
    GarbageError,
    Opened,
    Unknown,
    fetch_page,
    read_watch,
)
from spliceway.source.faults import Backoff, ExpiredError, StreamError, ended, expired, stream_error
from spliceway.source.mailbox import Mailbox
from spliceway.source.resource import Resource
from spliceway.source.streamproblems import StreamProblems
from spliceway.source.versions import Versions, newer

#: objects on a page of a list
PAGE = 500
#: facts in a batch
BATCH = 500
#: the origin of all facts on objects
ORIGIN = "api"
#: events that wait between thread and task before the thread stops reading
_MAILBOX = 1000
#: failures in a row after which the resource version itself is distrusted
_DISTRUST = 5
#: seconds: a watch that ends sooner and said nothing has failed
_SHORT = 0.5


class KindStream:
    """All objects of one kind, for as long as it is run."""

    def __init__(
        self, resource: Resource, access: Access, settings: SourceSettings, limiter: trio.CapacityLimiter
    ) -> None:
        self._resource = resource
        self._access = access
        self._settings = settings
        self._limiter = limiter
        self._backoff = Backoff(settings.backoff, settings.backoff_limit)
        self._versions = Versions()
        #: where the next watch begins; None: a list is needed
        self._resume: str | None = None
        self._distrust = 0
        #: in a row
        self._failures = 0
        self._problems = StreamProblems(f"{ORIGIN}:{resource.name}")
        self._synced = False
        self._heard = monotonic()
        self._restarts = 0
        self._errors = 0
        self._last_error = ""
        self._renew = False

    def statistics(self) -> SourceStatistics:
        """Return the stream's state; ``restarts`` counts watches that had to be started anew after a failure."""
        return SourceStatistics(
            self._resource.name,
            self._synced,
            monotonic() - self._heard,
            restarts=self._restarts,
            errors=self._errors,
            last_error=self._last_error,
        )

    async def forever(self, facts: trio.MemorySendChannel[tuple[Fact, ...]]) -> None:
        """Send facts until cancelled, whatever the API server does."""
        while True:
            try:
                await self._connected(facts)
                continue
            except StreamError as error:
                wait = max(self._backoff.next(overloaded=error.overloaded), error.retry_after)
                self._note(error)
            await self._tell_problems(facts)
            await trio.sleep(wait)
            self._restarts += 1

    async def _connected(self, facts: trio.MemorySendChannel[tuple[Fact, ...]]) -> None:
        """List and watch with one client. A client that was told that it is nobody reads its credentials anew."""
        try:
            client = await trio.to_thread.run_sync(
                lambda: self._access.connect(renew=self._renew), limiter=self._limiter, abandon_on_cancel=True
            )
        except UnreachableError as error:
            raise StreamError(str(error), HTTPStatus.UNAUTHORIZED) from error
        self._renew = False
        try:
            await self.list_then_watch(facts, client)
        except (RefusedError, UnreachableError, GarbageError) as error:
            raise stream_error(error, self._resource, self._access.host) from error
        finally:
            client.abort()
            client.close()

    async def list_then_watch(self, facts: trio.MemorySendChannel[tuple[Fact, ...]], client: Client) -> None:
        """List unless a watch can be resumed, then watch until the API server has forgotten where we were."""
        if self._resume is None:
            self._resume = await self._list(facts, client)
            listed_only = True
        else:
            listed_only = False
        try:
            while True:
                await self.watch_once(facts, client)
                listed_only = False
        except ExpiredError as error:
            self._resume = None
            if listed_only:
                raise StreamError("the API server forgets its lists at once") from error

    async def _list(self, facts: trio.MemorySendChannel[tuple[Fact, ...]], client: Client) -> str:
        """Send everything that exists and return the resource version to watch from."""
        resource = self._resource
        self._versions.forget()
        self._problems.forget_objects()
        await facts.send((ListStart(ORIGIN, resource.kind),))
        query = {**resource.selectors, "limit": str(PAGE)}
        while True:
            page = await trio.to_thread.run_sync(
                fetch_page, client, resource.path, query, resource.kind, limiter=self._limiter, abandon_on_cancel=True
            )
            self._heard = monotonic()
            batch = [fact for decoded in page.objects for fact in self._facts_of(decoded, deleted=False)]
            await self._send(facts, batch)
            if not page.continue_token:
                break
            query["continue"] = page.continue_token
        await facts.send((ListEnd(ORIGIN, resource.kind),))
        self._problems.fault = None
        await self._tell_problems(facts)
        if not self._synced:
            self._synced = True
            await facts.send((Synced(resource.name),))
        return page.resource_version

    async def watch_once(self, facts: trio.MemorySendChannel[tuple[Fact, ...]], client: Client) -> None:
        """One watch request, from the last resource version until the API server ends it.

        Raises `ExpiredError`, `StreamError`, `RefusedError`, `UnreachableError`, `GarbageError`.
        """
        seconds = max(1, round(self._settings.watch_timeout * random.uniform(0.8, 1.2)))
        query = {
            **self._resource.selectors,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._resume or "",
            "timeoutSeconds": str(seconds),
        }
        silence = seconds + self._settings.request_timeout
        mailbox: Mailbox[Event] = Mailbox(_MAILBOX)
        begun, events = monotonic(), 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, client, query, silence, mailbox)
            failure: Exception | None = None
            try:
                while batch := await mailbox.take():
                    await self._handle(facts, batch)
                    events += sum(not isinstance(event, Opened) for event in batch)
            except (ExpiredError, StreamError, RefusedError, UnreachableError, GarbageError) as error:
                failure = error
            finally:
                mailbox.close()
            if failure is not None:
                client.abort()
        if failure is not None:
            raise expired(failure)
        if not events and monotonic() - begun < min(_SHORT, self._settings.watch_timeout / 2):
            raise StreamError("the API server ends every watch at once")
        self._progress()

    async def _read(self, client: Client, query: dict[str, str], silence: float, mailbox: Mailbox[Event]) -> None:
        """Run the reading thread. A cancel ends it: its socket is shut down, and its mailbox is closed."""
        try:
            await trio.to_thread.run_sync(
                read_watch,
                client,
                self._resource.path,
                query,
                silence,
                self._resource.kind,
                mailbox,
                limiter=self._limiter,
                abandon_on_cancel=True,
            )
        finally:
            mailbox.close()

    async def _handle(self, facts: trio.MemorySendChannel[tuple[Fact, ...]], events: list[Event]) -> None:
        """Send what a batch of events says, then move on in the stream. Raises `ExpiredError` and `StreamError`."""
        self._heard = monotonic()
        batch: list[Fact] = []
        resume = self._resume
        failed: Failed | None = None
        for event in events:
            if isinstance(event, Changed):
                batch += self._facts_of(event.decoded, deleted=event.deleted)
                resume = newer(resume, event.decoded.resource_version)
            elif isinstance(event, Bookmarked):
                resume = newer(resume, event.resource_version)
            elif isinstance(event, Opened):
                self._problems.fault = None
            elif isinstance(event, Unknown):
                self._errors += 1
                self._last_error = f"event of unknown type {event.type!r} skipped"
            else:
                failed = event
                break
        await self._send(facts, batch)
        if resume != self._resume:
            self._resume = resume
            self._progress()
        await self._tell_problems(facts)
        if failed is not None:
            raise ended(failed)

    def _facts_of(self, decoded: Decoded, *, deleted: bool) -> list[Fact]:
        """What an object in a list or an event says. A bad object keeps its last state; a problem names it."""
        key, kind = decoded.key, self._resource.kind
        problems = () if deleted or decoded.ignored else decoded.problems(self._problems.origin)
        self._problems.note(key, problems)
        if problems:
            self._errors += 1
            self._last_error = str(problems[0])
        if key is None or not self._versions.accept(key, decoded.resource_version, deleted=deleted):
            return []
        if deleted or decoded.ignored:
            return [Delete(ORIGIN, kind, key)]
        return [Upsert(ORIGIN, decoded.object) if decoded.object is not None else Keep(ORIGIN, kind, key)]

    async def _send(self, facts: trio.MemorySendChannel[tuple[Fact, ...]], batch: list[Fact]) -> None:
        for start in range(0, len(batch), BATCH):
            await facts.send(tuple(batch[start : start + BATCH]))

    async def _tell_problems(self, facts: trio.MemorySendChannel[tuple[Fact, ...]]) -> None:
        """Send the present problems when they are others than before."""
        if news := self._problems.news():
            await facts.send((news,))

    def _progress(self) -> None:
        self._backoff.reset()
        self._failures = 0
        self._distrust = 0

    def _note(self, error: StreamError) -> None:
        """Remember a failure. Credentials are read again after a 401, the list after several answers that fail."""
        self._errors += 1
        self._last_error = error.message
        denied = error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
        self._renew = error.status == HTTPStatus.UNAUTHORIZED
        self._failures += 1
        if error.status == HTTPStatus.FORBIDDEN and self._synced and self._failures == 1:
            return  # an API server that was just started refuses everybody for a moment
        kept = "; the last state is kept" if self._synced else ""
        self._problems.fault = Problem("", f"{error.message}{kept}", self._problems.origin, warning=not denied)
        if error.status and not (denied or error.overloaded):
            self._distrust += 1
            if self._distrust >= _DISTRUST:
                self._resume = None
