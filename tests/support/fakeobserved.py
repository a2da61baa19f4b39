"""A pipeline's readable side, filled by hand."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import trio

from spliceway.model import (
    Address,
    Backend,
    ClientClass,
    EndpointStates,
    Frontend,
    FrontendKey,
    FrontendState,
    Node,
    ObjectKey,
    PoolSpec,
    Problem,
    Protocol,
    ServicePlan,
    SourceStatistics,
    Target,
    Verdict,
)
from spliceway.observe.observed import FlowOutcome
from spliceway.observe.syncs import SyncTimes

BOUNDS = (0.001, 0.01, 0.1)
SHOP = ObjectKey("default", "shop")
POOL = "default/shop:http"
VIP = Address("127.64.0.10", 8080)
KEY = FrontendKey(VIP, Protocol.TCP)


def backend_counters(host: str, **fields: Any) -> Any:
    values = dict.fromkeys(("active", "flows", "bytes_in", "bytes_out", "connect_failures", "consecutive_failures"), 0)
    values |= {"host": host, "port": 9001, "weight": 1, "healthy": True, "draining": False}  # type: ignore[dict-item]
    return SimpleNamespace(**(values | fields))


def pool_counters(name: str = POOL, **fields: Any) -> Any:
    numbers = (
        "flows active bytes_in bytes_out tries retries saved failed replayed budget_exhausted no_backend "
        "source_not_kept ended_closed ended_client_reset ended_backend_reset ended_drained"
    )
    values: dict[str, Any] = dict.fromkeys(numbers.split(), 0)
    values |= {"name": name, "connect_seconds": 0.0, "connect_buckets": (0, 0, 0, 0), "backends": ()}
    return SimpleNamespace(**(values | fields))


def engine_counters(**fields: Any) -> Any:
    numbers = (
        "generation listeners flows flow_limit_hits fd_limit_hits pipe_limit_hits events_dropped worker_panics "
        "accept_errors sessions session_limit_hits sessions_moved datagrams_dropped trains_refused affinities "
        "affinity_limit_hits bypasses bypass_limit_hits unrouted"
    )
    values: dict[str, Any] = dict.fromkeys(numbers.split(), 0)
    values |= {"workers": 2, "paused": False, "pools": ()}
    return SimpleNamespace(**(values | fields))


class FakeObserved:
    """Implements `spliceway.observe.observed.Observed`; every answer is an attribute to set."""

    def __init__(self) -> None:
        self.is_ready = True
        self.is_draining = False
        backends = (Backend("127.0.0.11", 9001), Backend("127.0.0.12", 9001, 1, False))
        self.plan_map: dict[ObjectKey, ServicePlan] = {
            SHOP: ServicePlan(
                SHOP,
                (PoolSpec(POOL, backends),),
                (Frontend(VIP, POOL),),
                (),
                ((POOL, EndpointStates(2, 0, 1)),),
            )
        }
        self.frontend_map: dict[FrontendKey, FrontendState] = {KEY: FrontendState(Frontend(VIP, POOL), "serving")}
        self.problem_list: tuple[Problem, ...] = ()
        self.source_list: tuple[SourceStatistics, ...] = (SourceStatistics("services", True, 0.5),)
        self.verdicts: tuple[Verdict, ...] = (
            Verdict(Target(POOL, Address("127.0.0.12", 9001)), False, "connection refused"),
        )
        self.engine: Any = engine_counters(generation=7, listeners=1)
        self.explained: list[tuple[FrontendKey, Address]] = []
        self.syncs = SyncTimes()
        self.present_node: Node | None = None
        self.changed = trio.Event()

    def ready(self) -> bool:
        return self.is_ready

    def draining(self) -> bool:
        return self.is_draining

    def generation(self) -> int:
        return 7

    def plans(self) -> Mapping[ObjectKey, ServicePlan]:
        return self.plan_map

    def plan(self, key: ObjectKey) -> ServicePlan | None:
        return self.plan_map.get(key)

    def node(self) -> Node | None:
        return self.present_node

    def change(self) -> None:
        """Wake whoever waits for a change."""
        self.changed.set()
        self.changed = trio.Event()

    async def wait_change(self) -> None:
        await self.changed.wait()

    def frontends(self) -> Mapping[FrontendKey, FrontendState]:
        return self.frontend_map

    def problems(self) -> tuple[Problem, ...]:
        return self.problem_list

    def sources(self) -> tuple[SourceStatistics, ...]:
        return self.source_list

    def unhealthy(self) -> tuple[Verdict, ...]:
        return self.verdicts

    def counters(self, *, all_pools: bool = True) -> Any:
        return self.engine

    def connect_bounds(self) -> tuple[float, ...]:
        return BOUNDS

    def explain(self, key: FrontendKey, client: Address) -> FlowOutcome | None:
        self.explained.append((key, client))
        state = self.frontend_map.get(key)
        if state is None:
            return None
        if state.state == "dropping":
            return FlowOutcome(ClientClass.EXT, POOL, state.state, state.message, None)
        first = SimpleNamespace(
            host="127.0.0.11",
            port=9001,
            weight=1,
            healthy=True,
            active=3,
            consecutive_failures=0,
            rank=1,
            reason="hash",
        )
        explanation: Any = SimpleNamespace(pool=POOL, balance="maglev", generation=7, candidates=(first,))
        return FlowOutcome(None, POOL, state.state, state.message, explanation)
