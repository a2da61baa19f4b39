"""A source whose facts a test sends, and a pipeline around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import trio

from spliceway.engine import TrioEngine
from spliceway.model import EndpointSlice, Fact, Service, SourceStatistics, Synced
from spliceway.pipeline import Pipeline
from spliceway.settings import Settings
from support.fakeengine import FakeEngine
from support.objects import upserts


class ScriptedSource:
    """Sends what `send` is given."""

    def __init__(self) -> None:
        self.name = "script"
        self.synced_names: tuple[str, ...] = ("script",)
        self._send, self._receive = trio.open_memory_channel[tuple[Fact, ...]](0)

    async def run(self, facts: trio.MemorySendChannel[tuple[Fact, ...]]) -> None:
        async for batch in self._receive:
            await facts.send(batch)

    def statistics(self) -> tuple[SourceStatistics, ...]:
        return (SourceStatistics("script", synced=True, staleness=0.0),)

    async def send(self, *facts: Fact) -> None:
        await self._send.send(facts)

    async def say(self, *objects: Service | EndpointSlice) -> None:
        """The whole state, once."""
        await self.send(*upserts(objects), Synced("script"))


class Running:
    """A running pipeline and what is around it."""

    def __init__(self, pipeline: Pipeline, fake: FakeEngine, source: ScriptedSource) -> None:
        self.pipeline, self.fake, self.source = pipeline, fake, source

    async def change(self, *facts: Fact) -> None:
        """Send facts and wait until the engine has what they mean."""
        generation = self.pipeline.generation()
        await self.source.send(*facts)
        with trio.fail_after(10):
            await self.pipeline.wait_generation(generation + 1)

    async def until(self, condition: Any) -> None:
        """Wait until ``condition()`` holds after some change."""
        with trio.fail_after(10):
            while not condition():
                await self.pipeline.wait_change()


@asynccontextmanager
async def pipeline(
    settings: Settings | None = None, objects: Iterable[Service | EndpointSlice] | None = None, **more: Any
) -> AsyncIterator[Running]:
    """A pipeline over a fake engine; with ``objects``, when they are served."""
    fake, source = FakeEngine(), ScriptedSource()
    engine = TrioEngine(fake)
    engine.start()
    made = Pipeline(settings or Settings(), engine, source, **more)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        if objects is not None:
            await source.say(*objects)
            with trio.fail_after(30):
                await made.wait_ready()
        yield Running(made, fake, source)
        nursery.cancel_scope.cancel()
    await engine.close()
