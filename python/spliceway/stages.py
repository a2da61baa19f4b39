"""The stages of one agent, and what may be read of them. `spliceway.pipeline` lets them run."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from spliceway.apply import REJECTING, SERVING, Applier, BoundFrontends, CapturedFrontends
from spliceway.apply.bound import Sockets
from spliceway.apply.captured import Rules
from spliceway.apply.outcome import outcome_of
from spliceway.capture.bind import BindCapture
from spliceway.capture.local import LocalAddresses
from spliceway.engine import TrioEngine, connect_bounds
from spliceway.health.monitor import HealthMonitor
from spliceway.model import (
    Address,
    FrontendKey,
    FrontendState,
    Node,
    ObjectKey,
    Problem,
    Protocol,
    ServicePlan,
    SourceStatistics,
    Verdict,
)
from spliceway.observe.observed import FlowOutcome
from spliceway.observe.syncs import SyncTimes
from spliceway.plan.service import PlanOptions
from spliceway.planning import Planning
from spliceway.settings import Settings

if TYPE_CHECKING:
    from spliceway._engine import EngineCounters
    from spliceway.source import Source


class Stages:
    """Makes the stages, and reads them. Implements `spliceway.observe.observed.Observed`; see `Pipeline`."""

    def __init__(
        self,
        settings: Settings,
        engine: TrioEngine,
        source: Source | None,
        *,
        gateway: bool,
        sockets: Sockets | None,
        rules: Rules | None,
    ) -> None:
        options = PlanOptions.of(settings)
        if gateway and options.listens is None:
            options = msgspec.structs.replace(options, listens={})
        self._engine = engine
        self._source = source
        self._rules = rules
        # Own upstream sockets are never captured, so only ordinary sockets can make a loop.
        self._planning = Planning(options, source.synced_names if source else (), LocalAddresses(), loops=rules is None)
        self._applier = Applier(
            engine,
            CapturedFrontends(engine, rules) if rules else BoundFrontends(engine, sockets or BindCapture()),
        )
        self._monitor = HealthMonitor(settings.health, settings.probe_limit)
        #: not the one of planning, because `explain` runs in a thread
        self._local = LocalAddresses()
        self.syncs = SyncTimes()
        self._generation = 0
        self._ready = self._draining = False

    def ready(self) -> bool:
        """Every source is synced and the first complete desired state was applied."""
        return self._ready

    def draining(self) -> bool:
        """Shutdown has begun."""
        return self._draining

    def generation(self) -> int:
        """The number of the desired state that the engine has."""
        return self._generation

    def plans(self) -> Mapping[ObjectKey, ServicePlan]:
        """The present plan of every Service; a copy, so any thread may read it."""
        return self._planning.plans.copy()

    def plan(self, key: ObjectKey) -> ServicePlan | None:
        """The present plan of one Service; None when it asks for nothing."""
        return self._planning.plans.get(key)

    def node(self) -> Node | None:
        """The Node that the agent runs on, as the API last told of it."""
        return self._planning.store.node

    def frontends(self) -> Mapping[FrontendKey, FrontendState]:
        """Every frontend that somebody asked for, and what became of it; a copy."""
        return self._applier.frontends()

    def frontend(self, key: FrontendKey) -> FrontendState | None:
        """What became of one frontend; None when nobody asks for it."""
        return self._applier.state(key)

    def frontend_at(self, address: Address) -> FrontendState | None:
        """What became of the frontend at ``address``, of the first protocol that has one there."""
        found = (self._applier.state(FrontendKey(address, protocol)) for protocol in (Protocol.TCP, Protocol.UDP))
        return next((state for state in found if state is not None), None)

    def pool_problem(self, pool: str) -> Problem | None:
        """Why the engine refused ``pool`` as it is wanted; None when it has it."""
        return self._applier.pool_problem(pool)

    def problems(self) -> tuple[Problem, ...]:
        """All present problems: of sources, plans, claims and sockets."""
        plans = (problem for problems in self._planning.plan_problems.copy().values() for problem in problems)
        return (*self._planning.store.problems(), *plans, *self._applier.problems())

    def sources(self) -> tuple[SourceStatistics, ...]:
        """One entry for each stream of facts."""
        return self._source.statistics() if self._source else ()

    def unhealthy(self) -> tuple[Verdict, ...]:
        """The backends that health has set aside, with the reason."""
        return self._monitor.unhealthy()

    def counters(self, *, all_pools: bool = True) -> EngineCounters:
        """The engine's counters; takes milliseconds with thousands of pools."""
        return self._engine.counters(all_pools=all_pools)

    def connect_bounds(self) -> tuple[float, ...]:
        """Upper bounds in seconds of the counters' ``connect_buckets``, without +Inf."""
        return connect_bounds()

    def explain(self, key: FrontendKey, client: Address) -> FlowOutcome | None:
        """What would become of a flow from ``client`` to ``key``; None when nothing is served there.

        Asks the kernel for addresses and ways: call it in a thread. Raises `KeyError` when the engine has no pool for
        it at this moment.
        """
        state = self._find_frontend(key)
        if state is None:
            return None
        if self._rules is None:
            pool = state.frontend.pool
            explained = None if state.state == REJECTING else self._engine.explain(pool, client)
            return FlowOutcome(None, pool, state.state, state.message, explained)
        client_class = self._rules.classify(client.host)
        pool, outcome, reason = outcome_of(state.frontend, client_class, client.host)
        explained = self._engine.explain(pool, client) if outcome == SERVING else None
        return FlowOutcome(client_class, pool, outcome, reason, explained)

    def _find_frontend(self, key: FrontendKey) -> FrontendState | None:
        """The frontend that a client of this address meets: its own, or a wildcard of its port (D-01)."""
        host, port = key.address
        own = self._applier.state(key)
        if own is not None or not self._serves_wildcards(host):
            return own
        wildcards = ("::",) if ":" in host else ("0.0.0.0",) if self._rules else ("0.0.0.0", "::")
        found = (self._applier.state(FrontendKey(Address(each, port), key.protocol)) for each in wildcards)
        return next((state for state in found if state is not None), None)

    def _serves_wildcards(self, host: str) -> bool:
        """Whether what is served at any address of this machine is served at ``host``."""
        if self._rules:
            return self._rules.serves_node_port(host)
        return ipaddress.ip_address(host).is_loopback or self._local(host)
