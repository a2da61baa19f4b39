"""Compares what is applied with what is wanted and lists the steps between. Pure.

The law, tested as a property: ``apply_steps(diff(a, b), a) == b``. It holds for whole states and for any part of them
that is closed under ownership (all old and new plans of the Services that changed), which is how the pipeline uses it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from spliceway.model import Frontend, FrontendKey, PoolSpec, ServicePlan


class Desired(msgspec.Struct, frozen=True):
    """Pools by name and frontends by what clients dial."""

    pools: dict[str, PoolSpec] = {}
    frontends: dict[FrontendKey, Frontend] = {}

    @classmethod
    def of(cls, plans: Iterable[ServicePlan | None]) -> Desired:
        """What ``plans`` ask for together. Their keys do not collide: `spliceway.plan.claims` saw to that."""
        pools: dict[str, PoolSpec] = {}
        frontends: dict[FrontendKey, Frontend] = {}
        for plan in plans:
            if plan is not None:
                pools.update((pool.name, pool) for pool in plan.pools)
                frontends.update((frontend.key, frontend) for frontend in plan.frontends)
        return cls(pools, frontends)


class RejectFrontend(msgspec.Struct, frozen=True, tag=True):
    """Serve nobody: refuse clients at once, or drop their packets, as the verdict says."""

    frontend: Frontend

    def __str__(self) -> str:
        return f"{self.frontend.verdict} {self.frontend.key} ({self.frontend.pool})"


class UpsertPools(msgspec.Struct, frozen=True, tag=True):
    """Create or replace pools."""

    pools: tuple[PoolSpec, ...]

    def __str__(self) -> str:
        return f"upsert {_some(pool.name for pool in self.pools)}"


class OpenFrontend(msgspec.Struct, frozen=True, tag=True):
    """Start to accept clients of a frontend."""

    frontend: Frontend

    def __str__(self) -> str:
        return f"open {self.frontend.key} -> {self.frontend.pool}"


class RetargetFrontend(msgspec.Struct, frozen=True, tag=True):
    """Serve new clients of an open frontend otherwise: from another pool, other classes of them, or as others."""

    frontend: Frontend

    def __str__(self) -> str:
        return f"retarget {self.frontend.key} -> {self.frontend.pool}"


class CloseFrontend(msgspec.Struct, frozen=True, tag=True):
    """Nobody asks for the frontend any more."""

    key: FrontendKey

    def __str__(self) -> str:
        return f"close {self.key}"


class RemovePools(msgspec.Struct, frozen=True, tag=True):
    """Remove pools; their flows run on (C-01)."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"remove {_some(self.names)}"


Step = RejectFrontend | UpsertPools | OpenFrontend | RetargetFrontend | CloseFrontend | RemovePools


def diff(applied: Desired, desired: Desired) -> tuple[Step, ...]:
    """The steps from ``applied`` to ``desired``, make before break.

    A frontend that comes to serve nobody is closed before its pool is emptied, so that no client is accepted in vain.
    Then pools exist before frontends lead to them, and frontends are gone before the pools behind them.
    """
    rejects: list[Step] = []
    opens: list[Step] = []
    for key, frontend in desired.frontends.items():
        old = applied.frontends.get(key)
        if old == frontend:
            continue
        if not frontend.served:
            rejects.append(RejectFrontend(frontend))
        elif old is None or not old.served:
            opens.append(OpenFrontend(frontend))
        else:
            opens.append(RetargetFrontend(frontend))
    upserts = tuple(pool for name, pool in desired.pools.items() if applied.pools.get(name) != pool)
    closes = [CloseFrontend(key) for key in applied.frontends if key not in desired.frontends]
    removes = tuple(name for name in applied.pools if name not in desired.pools)
    return (
        *rejects,
        *((UpsertPools(upserts),) if upserts else ()),
        *opens,
        *closes,
        *((RemovePools(removes),) if removes else ()),
    )


def apply_steps(steps: Iterable[Step], applied: Desired) -> Desired:
    """What ``applied`` is after ``steps``: their meaning, without an engine."""
    pools = dict(applied.pools)
    frontends = dict(applied.frontends)
    for step in steps:
        match step:
            case UpsertPools(pools=upserts):
                pools.update((pool.name, pool) for pool in upserts)
            case RejectFrontend(frontend) | OpenFrontend(frontend) | RetargetFrontend(frontend):
                frontends[frontend.key] = frontend
            case CloseFrontend(key=key):
                del frontends[key]
            case RemovePools(names=names):
                for name in names:
                    del pools[name]
    return Desired(pools, frontends)


def _some(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    shown = ", ".join(listed[:3])
    return f"{shown} and {len(listed) - 3} more" if len(listed) > 3 else shown
