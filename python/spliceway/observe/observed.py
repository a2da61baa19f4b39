"""What the admin side may read of a running pipeline. `spliceway.pipeline.Pipeline` provides it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from spliceway.model import (
    Address,
    FrontendState,
    ObjectKey,
    Problem,
    ServicePlan,
    SourceStatistics,
    Verdict,
)

if TYPE_CHECKING:
    from spliceway._engine import EngineCounters, Explanation


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

    def plans(self) -> Mapping[ObjectKey, ServicePlan]:
        """The present plan of every Service."""
        ...

    def frontends(self) -> Mapping[Address, FrontendState]:
        """Every frontend that somebody asked for, and what became of it."""
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

    def explain(self, frontend: Address, client: Address) -> Explanation:
        """What a flow from ``client`` to ``frontend`` would do. Raises `KeyError` when nothing serves ``frontend``."""
        ...
