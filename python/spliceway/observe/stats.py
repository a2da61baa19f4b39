"""A snapshot of a running pipeline, and what it says about each service port. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from spliceway.model import (
    Address,
    EndpointStates,
    FrontendState,
    ObjectKey,
    Problem,
    ServicePlan,
    SourceStatistics,
    Verdict,
)
from spliceway.observe.observed import Observed
from spliceway.observe.syncs import SyncReading

if TYPE_CHECKING:
    from spliceway._engine import EngineCounters, PoolCounters


class PoolLabels(NamedTuple):
    """A pool's name in parts. A pool of an embedding program has its whole name as ``service``.

    The pool of a dual-stack Service's second family says so in ``port`` (``http@ipv6``).
    """

    namespace: str
    service: str
    port: str


def pool_labels(pool: str) -> PoolLabels:
    """Split ``namespace/service:port``."""
    namespace, slash, rest = pool.partition("/")
    if not slash:
        return PoolLabels("", pool, "")
    service, colon, port = rest.partition(":")
    if not colon:
        service, at, family = rest.partition("@")
        port = at + family
    return PoolLabels(namespace, service, port)


class Snapshot(NamedTuple):
    """What a pipeline looked like at one moment; readable from any thread."""

    ready: bool
    draining: bool
    generation: int
    plans: list[tuple[ObjectKey, ServicePlan]]
    frontends: list[FrontendState]
    problems: tuple[Problem, ...]
    sources: tuple[SourceStatistics, ...]
    unhealthy: tuple[Verdict, ...]
    syncs: SyncReading

    @classmethod
    def take(cls, observed: Observed, problems: tuple[Problem, ...] = ()) -> Snapshot:
        """Copy what can change, on the pipeline's own thread; takes under a millisecond with 10,000 Services.

        ``problems`` are those of parts beside the pipeline.
        """
        return cls(
            observed.ready(),
            observed.draining(),
            observed.generation(),
            list(observed.plans().items()),
            list(observed.frontends().values()),
            (*observed.problems(), *problems),
            observed.sources(),
            observed.unhealthy(),
            observed.syncs.read(),
        )

    def endpoints(self) -> dict[str, EndpointStates]:
        """Endpoints by state, of every planned pool."""
        return {pool: states for _, plan in self.plans for pool, states in plan.endpoints}

    def unhealthy_by_pool(self) -> dict[str, int]:
        """How many backends of each pool are set aside; pools without any are left out."""
        found: dict[str, int] = {}
        for verdict in self.unhealthy:
            found[verdict.target.pool] = found.get(verdict.target.pool, 0) + 1
        return found


class BackendRow(msgspec.Struct, frozen=True):
    """One backend that has had traffic. Bytes count payload; ``bytes_in`` come from clients."""

    address: str
    weight: int
    healthy: bool
    draining: bool
    flows: int
    active: int
    bytes_in: int
    bytes_out: int
    connect_failures: int


class FrontendRow(msgspec.Struct, frozen=True):
    """What clients dial (``10.0.0.1:80``, ``10.0.0.1:53/udp``): ``serving``, ``rejecting``, ``dropping`` or ``failed``.

    ``message`` says why.
    """

    address: str
    state: str
    message: str = ""


class ServicePortRow(msgspec.Struct, frozen=True):
    """One pool: its frontends, its endpoints by state, and its running totals since the agent started."""

    pool: str
    frontends: tuple[FrontendRow, ...] = ()
    ready: int = 0
    terminating: int = 0
    unready: int = 0
    unhealthy: int = 0
    flows: int = 0
    active: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    tries: int = 0
    retries: int = 0
    saved: int = 0
    replayed: int = 0
    failed: int = 0
    no_backend: int = 0
    backends: tuple[BackendRow, ...] = ()

    @property
    def errors(self) -> int:
        """Clients that got no backend."""
        return self.failed + self.no_backend

    @property
    def state(self) -> str:
        """The worst state of its frontends, or ``no frontend``."""
        states = {frontend.state for frontend in self.frontends}
        return next(
            (state for state in ("failed", "dropping", "rejecting", "serving") if state in states), "no frontend"
        )


def service_rows(snapshot: Snapshot, counters: EngineCounters) -> list[ServicePortRow]:
    """One row for each planned pool, and for each pool that only has flows left, ordered by name."""
    frontends: dict[str, list[FrontendRow]] = {}
    for each in snapshot.frontends:
        row = FrontendRow(str(each.frontend.key), each.state, each.message)
        frontends.setdefault(each.frontend.pool, []).append(row)
    endpoints = snapshot.endpoints()
    unhealthy = snapshot.unhealthy_by_pool()
    totals = {pool.name: pool for pool in counters.pools}
    return [
        _row(name, frontends.get(name, ()), endpoints.get(name), unhealthy.get(name, 0), totals.get(name))
        for name in sorted({*endpoints, *frontends, *totals})
    ]


def _row(
    name: str,
    frontends: Iterable[FrontendRow],
    endpoints: EndpointStates | None,
    unhealthy: int,
    totals: PoolCounters | None,
) -> ServicePortRow:
    states = endpoints or EndpointStates()
    row = ServicePortRow(name, tuple(frontends), states.ready, states.terminating, states.unready, unhealthy)
    if totals is None:
        return row
    return msgspec.structs.replace(
        row,
        backends=tuple(_backend_rows(totals)),
        **{field: getattr(totals, field) for field in _TOTALS},
    )


#: fields that `ServicePortRow` and `PoolCounters` share
_TOTALS = (
    "flows",
    "active",
    "bytes_in",
    "bytes_out",
    "tries",
    "retries",
    "saved",
    "replayed",
    "failed",
    "no_backend",
)


def _backend_rows(totals: PoolCounters) -> Iterable[BackendRow]:
    for each in totals.backends:
        yield BackendRow(
            str(Address(each.host, each.port)),
            each.weight,
            each.healthy,
            each.draining,
            each.flows,
            each.active,
            each.bytes_in,
            each.bytes_out,
            each.connect_failures,
        )


class Rates(NamedTuple):
    """Per second, between two rows of one pool."""

    flows: float
    bytes_in: float
    bytes_out: float


def rates(before: ServicePortRow, after: ServicePortRow, seconds: float) -> Rates:
    """What happened to a pool per second; zero when its totals began anew in between."""
    if seconds <= 0 or after.flows < before.flows:
        return Rates(0.0, 0.0, 0.0)
    return Rates(
        (after.flows - before.flows) / seconds,
        (after.bytes_in - before.bytes_in) / seconds,
        (after.bytes_out - before.bytes_out) / seconds,
    )
