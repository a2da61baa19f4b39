"""What the admin side may read of a running pipeline. `spliceway.pipeline.Pipeline` provides it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from spliceway.model import (
    Address,
    ClientClass,
    FrontendKey,
    FrontendState,
    Node,
    ObjectKey,
    Problem,
    ServicePlan,
    SourceStatistics,
    Verdict,
)
from spliceway.observe.syncs import SyncTimes

if TYPE_CHECKING:
    from spliceway._engine import EngineCounters, Explanation


class FlowOutcome(NamedTuple):
    """What would become of a client's flow to a frontend."""

    #: None with ordinary sockets, which know no classes
    client_class: ClientClass | None
    #: the one that a client of this class may use
    pool: str
    #: as that of a frontend, but for this client: ``serving``, ``rejecting``, ``dropping`` or ``failed``
    state: str
    #: why it is not ``serving``
    reason: str
    #: how its backend is picked; None: no backend gets to see it
    explanation: Explanation | None


class Observed(Protocol):
    """Read-only view of a running pipeline. Every method returns at once and changes nothing."""

    def ready(self) -> bool:
        """Every source is synced and the first complete desired state was applied."""
        ...

    def draining(self) -> bool:
        """Shutdown has begun."""
        ...

    def generation(self) -> int:
        """The number of the desired state that the engine has."""
        ...

    @property
    def syncs(self) -> SyncTimes:
        """When changes arrived and when they were in force."""
        ...

    def plans(self) -> Mapping[ObjectKey, ServicePlan]:
        """The present plan of every Service."""
        ...

    def frontends(self) -> Mapping[FrontendKey, FrontendState]:
        """Every frontend that somebody asked for, and what became of it."""
        ...

    def plan(self, key: ObjectKey) -> ServicePlan | None:
        """The present plan of one Service; None when it asks for nothing."""
        ...

    def problems(self) -> tuple[Problem, ...]:
        """All present problems: of sources, plans, claims and sockets."""
        ...

    def sources(self) -> tuple[SourceStatistics, ...]:
        """One entry for each stream of facts."""
        ...

    def unhealthy(self) -> tuple[Verdict, ...]:
        """The backends that health has set aside, with the reason."""
        ...

    def counters(self, *, all_pools: bool = True) -> EngineCounters:
        """The engine's counters. Takes milliseconds with thousands of pools: call it in a thread."""
        ...

    def connect_bounds(self) -> tuple[float, ...]:
        """Upper bounds in seconds of the counters' ``connect_buckets``, without +Inf."""
        ...

    def node(self) -> Node | None:
        """The Node that the agent runs on, as the API last told of it."""
        ...

    def explain(self, key: FrontendKey, client: Address) -> FlowOutcome | None:
        """What would become of a flow from ``client`` to ``key``; None when nothing is served there.

        Asks the kernel: call it in a thread. Raises `KeyError` when the engine has no pool for it at this moment.
        """
        ...
