"""The state that a source's facts add up to, in the plainest way: what a test compares with the truth."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from spliceway.model import (
    Delete,
    Fact,
    Gone,
    Keep,
    Kind,
    KubernetesObject,
    ListEnd,
    ListStart,
    ObjectKey,
    Problem,
    Problems,
    Synced,
    Upsert,
    kind_of,
)
from spliceway.source import Source

Name = tuple[str, Kind, ObjectKey]


class Fold:
    """Facts folded one after another."""

    def __init__(self) -> None:
        self.objects: dict[Name, KubernetesObject] = {}
        self.problems: dict[str, tuple[Problem, ...]] = {}
        self.synced: set[str] = set()
        self.upserts = 0
        self.lists = 0
        self.gone = 0
        self._listing: dict[tuple[str, Kind | None], set[Name]] = {}
        self._changed = trio.Event()

    def take(self, facts: tuple[Fact, ...]) -> None:
        assert 0 < len(facts) <= 501, "a large batch blocks the pipeline"
        for fact in facts:
            self._take(fact)
        self._changed.set()
        self._changed = trio.Event()

    def _take(self, fact: Fact) -> None:
        match fact:
            case Upsert():
                self._upsert(fact.origin, fact.object)
            case Delete(origin, kind, key):
                self.objects.pop((origin, kind, key), None)
            case Keep(origin, kind, key):
                self._see((origin, kind, key))
            case ListStart(origin, kind):
                self._listing[origin, kind] = set()
            case ListEnd(origin, kind):
                self._end_list(origin, kind)
            case Gone(origin):
                self.objects = {name: made for name, made in self.objects.items() if name[0] != origin}
                self.problems.pop(origin, None)
                self.gone += 1
            case Synced(source):
                assert source not in self.synced, "said twice"
                self.synced.add(source)
            case Problems(origin, problems):
                self.problems[origin] = problems

    def _upsert(self, origin: str, made: KubernetesObject) -> None:
        name = (origin, kind_of(made), made.key)
        self.objects[name] = made
        self.upserts += 1
        self._see(name)

    def _see(self, name: Name) -> None:
        for (origin, listed), seen in self._listing.items():
            if origin == name[0] and listed in (None, name[1]):
                seen.add(name)

    def _end_list(self, origin: str, kind: Kind | None) -> None:
        seen = self._listing.pop((origin, kind))
        self.lists += 1
        for name in list(self.objects):
            if name[0] == origin and kind in (None, name[1]) and name not in seen:
                del self.objects[name]

    def names(self) -> set[str]:
        return {key.name for _, _, key in self.objects}

    def said(self) -> list[str]:
        return [str(problem) for problems in self.problems.values() for problem in problems]

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait until the condition holds; it is looked at after every batch."""
        with trio.move_on_after(seconds):
            while not condition():
                await self._changed.wait()
        assert condition(), f"not within {seconds} s: {sorted(self.names())} {self.said()}"


@asynccontextmanager
async def folded(source: Source, *, wait: bool = True) -> AsyncIterator[Fold]:
    """Run a source and fold what it sends; wait for its first complete state."""
    fold = Fold()
    send, receive = trio.open_memory_channel[tuple[Fact, ...]](0)

    async def take() -> None:
        async for facts in receive:
            fold.take(facts)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        nursery.start_soon(source.run, send)
        if wait:
            await fold.until(lambda: fold.synced == set(source.synced_names))
        yield fold
        nursery.cancel_scope.cancel()
