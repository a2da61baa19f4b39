"""Joins the stages in one nursery: facts and verdicts in, generations of desired state out.

One task folds, plans, compares and applies in turns. A turn takes all that waits, so bursts coalesce, and touches only
the Services that changed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import trio

from spliceway.apply.bound import Sockets
from spliceway.apply.captured import Rules
from spliceway.engine import TrioEngine
from spliceway.errors import EngineClosedError
from spliceway.events import EventFan
from spliceway.health.passive import evidence_from_event
from spliceway.inbox import Inbox
from spliceway.model import (
    HealthCheck,
    Node,
    PoolSpec,
    Protocol,
    ServicePlan,
)
from spliceway.pace import Pace
from spliceway.plan.service import EmbeddedPool
from spliceway.planning import Outcome
from spliceway.settings import Listen, Settings
from spliceway.stages import Stages

if TYPE_CHECKING:
    from spliceway._engine import Event
    from spliceway.source import Source

log = logging.getLogger(__name__)

#: events that are handed out between two checkpoints; fewer than a subscriber's channel holds
EVENTS_AT_A_TIME = 100
#: seconds between two looks at the connections that are left
DRAIN_INTERVAL = 0.1
NO_CHECK = HealthCheck(kind="off")


class Pipeline(Stages):
    """The stages of one agent, running.

    Args:
        settings: what the user set.
        engine: started by the caller, who also closes it.
        source: where Services come from; None when only embedded pools are served.
        gateway: serve nothing of a Service but what is listened to.
        sockets: what opens ordinary sockets for frontends.
        rules: the node's packet rules, which serve frontends instead of ordinary sockets.
    """

    def __init__(
        self,
        settings: Settings,
        engine: TrioEngine,
        source: Source | None = None,
        *,
        gateway: bool = False,
        sockets: Sockets | None = None,
        rules: Rules | None = None,
    ) -> None:
        super().__init__(settings, engine, source, gateway=gateway, sockets=sockets, rules=rules)
        self._rebind_interval = settings.rebind_interval
        self._health = settings.health
        self._checks: dict[str, HealthCheck] = {}
        self._inbox = Inbox(self._planning, self.syncs)
        self._events = EventFan()
        self._changed = trio.Event()
        self._node: Node | None = None

    # --- running ----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all stages until cancelled.

        Raises:
            SourceError: the source cannot go on (inside an exception group).
            FrontendError: frontends cannot be served on this machine at all.
        """
        try:
            await self._applier.start()
            async with trio.open_nursery() as nursery:
                if self._rules:
                    nursery.start_soon(self._rules.watch)
                nursery.start_soon(self._take_turns)
                nursery.start_soon(self._monitor.run, self._inbox.channel)
                nursery.start_soon(self._receive_events)
                nursery.start_soon(self._retry_failed)
                if self._source:
                    nursery.start_soon(self._source.run, self._inbox.channel)
                task_status.started()
        finally:
            self._inbox.close()
            self._events.close()
            self._changed.set()

    async def wait_ready(self) -> None:
        """Wait until every source is synced and the first complete state was applied."""
        while not self._ready:
            await self.wait_change()

    async def wait_generation(self, generation: int) -> None:
        """Wait until the engine has ``generation`` or a later one."""
        while self._generation < generation:
            await self.wait_change()

    async def wait_change(self) -> None:
        """Wait until a generation was applied, or a problem came or went.

        Raises:
            EngineClosedError: the pipeline has stopped.
        """
        await self._changed.wait()
        self._inbox.require_open()

    async def drain(self, deadline: float) -> None:
        """Let flows end, and reset those that are left after ``deadline`` seconds.

        Frontends with sockets of their own are closed first. Captured ones are served to the last moment: the node's
        clients have no other proxy, and one idle connection would keep all of them waiting.
        """
        self._draining = True
        if self._rules:
            await self._outlast_flows(deadline)
            deadline = 0.0
        await self._applier.stop_accepting()
        await self._drain_engine(deadline, None)

    # --- what embedding programs ask for ----------------------------------------------------------------------------

    async def embed(self, name: str, pool: EmbeddedPool | None, check: HealthCheck | None = None) -> None:
        """Serve ``pool`` under ``name``, or (None) forget it. Returns when the engine has it.

        ``check`` stays in force until the pool is forgotten; None leaves it as it is.
        """

        def change() -> None:
            if check is not None:
                self._checks[name] = check
            if pool is None:
                self._checks.pop(name, None)
            self._planning.embed(name, pool)

        await self._inbox.request(change)

    async def listen(self, listen: Listen, *, wanted: bool = True) -> None:
        """Put a Service behind an address (or take it away), and return when the engine has it.

        While the Service is not known the address stays closed. Running flows go on when it is taken away.
        """
        await self._inbox.request(lambda: self._planning.listen(listen, wanted=wanted))

    async def drain_pool(self, pool: str, deadline: float) -> None:
        """Let the flows of ``pool`` end, and reset those that are left after ``deadline`` seconds."""
        await self._drain_engine(deadline, pool)

    def subscribe(self, pool: str) -> trio.MemoryReceiveChannel[Event]:
        """The engine's events about ``pool`` (all of them when ""), until the channel is closed."""
        return self._events.subscribe(pool)

    def events_dropped(self) -> int:
        """Events that some subscriber lost because it did not keep up."""
        return self._events.dropped

    # --- turns ------------------------------------------------------------------------------------------------------

    async def _take_turns(self) -> None:
        requests = await self._inbox.fold_waiting()
        while True:
            await self._turn()
            for request in requests:
                request.done.set()
            requests = await self._inbox.wait()

    async def _turn(self) -> None:
        """Plan what is dirty and bring the engine there."""
        began = trio.current_time()
        synced = self._planning.store.synced
        outcome = await self._planning.replan()
        if self._rules and self._planning.store.node != self._node:
            self._node = self._planning.store.node
            await self._rules.update_node(self._node)
        await self._watch(outcome)
        first = synced and not self._ready
        if outcome.steps or first:
            await self._applier.execute(outcome.steps, self._generation + 1)
            self._generation += 1
            self._ready = synced
            if log.isEnabledFor(logging.DEBUG):
                log.debug("generation %d: %s", self._generation, "; ".join(map(str, outcome.steps[:10])))
        if synced:
            self.syncs.synced(trio.current_time() - began, first, _triggers(outcome))
        self._tell_change()

    async def _watch(self, outcome: Outcome) -> None:
        """Tell health which backends there are."""
        pace = Pace()
        for key, plan in outcome.new.items():
            before = outcome.old[key]
            gone = {pool.name for pool in before.pools} if before else set[str]()
            for pool in plan.pools if plan else ():
                gone.discard(pool.name)
                backends = tuple(backend.address for backend in pool.backends)
                self._monitor.update_pool(pool.name, backends, self._check_of(pool, plan))
            for name in gone:
                self._monitor.remove_pool(name)
            await pace.breathe()

    def _check_of(self, pool: PoolSpec, plan: ServicePlan | None) -> HealthCheck | None:
        check = self._checks.get(pool.name) or (plan.check if plan else None)
        if pool.protocol is Protocol.UDP and (check or self._health).port is None:
            return NO_CHECK  # a probe connects, and only the user knows a port that takes connections
        return check

    # --- the tasks beside it ----------------------------------------------------------------------------------------

    async def _receive_events(self) -> None:
        while True:
            try:
                events = await self._engine.receive_events()
            except trio.ClosedResourceError:
                raise EngineClosedError("the engine was closed while the pipeline still ran") from None
            for number, event in enumerate(events, 1):
                if number % EVENTS_AT_A_TIME == 0:
                    await trio.lowlevel.checkpoint()  # so that subscribers keep up with a burst
                if evidence := evidence_from_event(event):
                    self._monitor.observe(evidence)
                if event.kind in ("paused", "resumed", "worker-died", "not-permitted"):
                    log.warning("engine: %s: %s", event.kind, event.reason)
                self._events.publish(event)

    async def _retry_failed(self) -> None:
        while True:
            await trio.sleep(self._rebind_interval)
            if self._applier.failing() and await self._applier.retry_failed():
                self._tell_change()

    async def _outlast_flows(self, deadline: float) -> None:
        """Wait until no connection is left, at most ``deadline`` seconds."""
        with trio.move_on_after(deadline):
            while True:
                if not await trio.to_thread.run_sync(self._connections):
                    return
                await trio.sleep(DRAIN_INTERVAL)

    def _connections(self) -> int:
        counters = self._engine.counters(all_pools=False)
        return counters.flows - counters.sessions

    async def _drain_engine(self, deadline: float, pool: str | None) -> None:
        with self.subscribe(pool or "") as events:
            self._engine.drain(deadline, pool)
            # The engine cuts at the deadline; one second more only guards against a lost event.
            with trio.move_on_after(deadline + 1):
                async for event in events:
                    if event.kind == "drained" and event.pool == (pool or ""):
                        return

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _triggers(outcome: Outcome) -> Iterator[float]:
    """When the changes behind new endpoints happened, as the API tells (W-13)."""
    for key, plan in outcome.new.items():
        before = outcome.old[key]
        if plan is not None and plan.triggered and (before is None or before.triggered != plan.triggered):
            yield plan.triggered
