"""A snapshot in Prometheus' exposition format. Pure; the names are in `spliceway.observe.names`."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from spliceway.model import Address
from spliceway.observe import names
from spliceway.observe.kubemetrics import counter, gauge, histogram, kubeproxy_metrics
from spliceway.observe.readings import AdminReadings, AgentReadings
from spliceway.observe.state import limit_hits, version
from spliceway.observe.stats import PoolLabels, Snapshot, pool_labels
from spliceway.observe.syncs import HistogramReading

if TYPE_CHECKING:
    from spliceway._engine import BackendCounters, EngineCounters, PoolCounters


def exposition(
    snapshot: Snapshot,
    counters: EngineCounters,
    bounds: tuple[float, ...],
    readings: AdminReadings = AdminReadings(),  # noqa: B008
    *,
    accept: str = "",
) -> tuple[str, bytes]:
    """Content type and body of a scrape, in the format that the ``accept`` header asks for.

    ``bounds`` are the upper bounds of the connect-time histogram in seconds.
    Takes about 10 ms for each 1,000 Services: call it in a thread.
    """
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(snapshot, counters, bounds, readings))
    ProcessCollector(registry=registry)
    try:
        encoder, content_type = choose_encoder(accept)
    except (ValueError, TypeError):  # a version that is no version: what every scraper reads
        encoder, content_type = choose_encoder("")
    return content_type, encoder(registry)


class SnapshotCollector(Collector):
    """The one collector.

    Service ports without a flow only have their endpoint gauges: most of 10,000 Services are idle on any one node, and
    thirty series for each of them would tell nothing.
    """

    def __init__(
        self, snapshot: Snapshot, counters: EngineCounters, bounds: tuple[float, ...], readings: AdminReadings
    ) -> None:
        self._snapshot = snapshot
        self._counters = counters
        self._bounds = bounds
        self._readings = readings

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry is made for one scrape, and names cannot clash in it."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family of `spliceway.observe.names`."""
        yield from self._control_plane()
        yield from self._sources()
        yield from self._engine()
        yield from self._endpoints()
        pools = [(pool_labels(pool.name), pool) for pool in self._counters.pools if pool.flows]
        yield from _pools(pools)
        yield self._connect_times(pools)
        yield from _backends(pools)
        yield from _beside(self._readings.agent)
        yield from kubeproxy_metrics(self._snapshot, self._readings, self._counters.sessions_moved)

    def _control_plane(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield gauge(names.BUILD_INFO, [((version(), platform.python_version()), 1)])
        yield gauge(names.READY, [((), snapshot.ready and not snapshot.draining)])
        yield gauge(names.GENERATION, [((), snapshot.generation)])
        states: dict[str, int] = {"serving": 0, "rejecting": 0, "dropping": 0, "failed": 0}
        for frontend in snapshot.frontends:
            states[frontend.state] = states.get(frontend.state, 0) + 1
        yield gauge(names.FRONTENDS, [((state,), count) for state, count in states.items()])
        warnings = sum(problem.warning for problem in snapshot.problems)
        by_severity = [(("error",), len(snapshot.problems) - warnings), (("warning",), warnings)]
        yield gauge(names.PROBLEMS, by_severity)
        yield gauge(names.UNSERVED, [(("SCTP",), sum(plan.unserved_ports for _, plan in snapshot.plans))])
        yield counter(names.ADMIN_DROPPED, [((), self._readings.dropped)])

    def _sources(self) -> Iterator[Metric]:
        sources = self._snapshot.sources
        yield gauge(names.SOURCE_SYNCED, [((each.name,), each.synced) for each in sources])
        yield gauge(names.SOURCE_STALENESS, [((each.name,), each.staleness) for each in sources])
        yield counter(names.SOURCE_ERRORS, [((each.name,), each.errors) for each in sources])
        yield counter(names.SOURCE_RESTARTS, [((each.name,), each.restarts) for each in sources])

    def _engine(self) -> Iterator[Metric]:
        counters = self._counters
        yield gauge(names.WORKERS, [((), counters.workers)])
        yield gauge(names.LISTENERS, [((), counters.listeners)])
        yield gauge(names.ENGINE_FLOWS, [((), counters.flows)])
        yield gauge(names.PAUSED, [((), counters.paused)])
        yield counter(names.LIMIT_HITS, [((limit,), hits) for limit, hits in limit_hits(counters).items()])
        yield counter(names.ACCEPT_ERRORS, [((), counters.accept_errors)])
        yield counter(names.PANICS, [((), counters.worker_panics)])
        yield gauge(names.SESSIONS, [((), counters.sessions)])
        yield counter(names.SESSIONS_MOVED, [((), counters.sessions_moved)])
        yield counter(names.DATAGRAMS_DROPPED, [((), counters.datagrams_dropped)])
        yield counter(names.TRAINS_REFUSED, [((), counters.trains_refused)])
        yield gauge(names.AFFINITIES, [((), counters.affinities)])
        yield gauge(names.BYPASSES, [((), counters.bypasses)])
        yield counter(names.UNROUTED, [((), counters.unrouted)])

    def _endpoints(self) -> Iterator[Metric]:
        endpoints = GaugeMetricFamily(names.ENDPOINTS.name, names.ENDPOINTS.help, labels=names.ENDPOINTS.labels)
        for pool, states in self._snapshot.endpoints().items():
            labels = pool_labels(pool)
            endpoints.add_metric((*labels, "ready"), states.ready)
            endpoints.add_metric((*labels, "terminating"), states.terminating)
            endpoints.add_metric((*labels, "unready"), states.unready)
        yield endpoints
        unhealthy = self._snapshot.unhealthy_by_pool()
        yield gauge(names.UNHEALTHY, [(pool_labels(pool), count) for pool, count in unhealthy.items()])

    def _connect_times(self, pools: list[tuple[PoolLabels, PoolCounters]]) -> Metric:
        times = (
            (labels, HistogramReading(self._bounds, pool.connect_buckets, pool.connect_seconds))
            for labels, pool in pools
        )
        return histogram(names.CONNECT, times)


def _beside(readings: AgentReadings) -> Iterator[Metric]:
    """What runs beside the pipeline."""
    yield gauge(names.HEALTH_PORTS, [(("open",), readings.health_ports), (("failed",), len(readings.problems))])
    yield counter(names.EVENTS_WRITTEN, [((), readings.events_written)])
    yield counter(names.EVENTS_DROPPED, [((), readings.events_dropped)])
    capture = readings.capture
    if capture is None:
        return
    yield gauge(names.CAPTURE_ELEMENTS, [((), capture.elements)])
    yield counter(names.CAPTURE_CHANGES, [((), capture.changes)])
    yield counter(names.CAPTURE_FAILURES, [((), capture.failures)])
    yield counter(names.CAPTURE_RESTORED, [((), capture.restored)])
    yield gauge(names.CAPTURE_SECONDS, [((), capture.last_seconds)])


#: counter families with one value for each pool
_POOL_COUNTERS: tuple[tuple[names.Metric, Callable[[PoolCounters], int]], ...] = (
    (names.FLOWS, lambda pool: pool.flows),
    (names.TRIES, lambda pool: pool.tries),
    (names.RETRIES, lambda pool: pool.retries),
    (names.SAVED, lambda pool: pool.saved),
    (names.REPLAYED, lambda pool: pool.replayed),
    (names.FAILED, lambda pool: pool.failed),
    (names.REFUSED, lambda pool: pool.no_backend),
    (names.BUDGET, lambda pool: pool.budget_exhausted),
    (names.SOURCE_NOT_KEPT, lambda pool: pool.source_not_kept),
)

#: ends of flows by reason
_ENDS: tuple[tuple[str, Callable[[PoolCounters], int]], ...] = (
    ("closed", lambda pool: pool.ended_closed),
    ("client-reset", lambda pool: pool.ended_client_reset),
    ("backend-reset", lambda pool: pool.ended_backend_reset),
    ("drained", lambda pool: pool.ended_drained),
)


def _pools(pools: list[tuple[PoolLabels, PoolCounters]]) -> Iterator[Metric]:
    for metric, value in _POOL_COUNTERS:
        yield counter(metric, [(labels, value(pool)) for labels, pool in pools])
    yield gauge(names.ACTIVE, [(labels, pool.active) for labels, pool in pools])
    ends = [((*labels, reason), value(pool)) for labels, pool in pools for reason, value in _ENDS]
    yield counter(names.ENDS, ends)
    directions = [
        ((*labels, direction), value)
        for labels, pool in pools
        for direction, value in (("in", pool.bytes_in), ("out", pool.bytes_out))
    ]
    yield counter(names.BYTES, directions)


def _backends(pools: list[tuple[PoolLabels, PoolCounters]]) -> Iterator[Metric]:
    rows: list[tuple[tuple[str, ...], BackendCounters]] = []
    for labels, pool in pools:
        rows.extend(((*labels, str(Address(each.host, each.port))), each) for each in pool.backends)
    yield counter(names.BACKEND_FLOWS, [(labels, each.flows) for labels, each in rows])
    yield counter(names.BACKEND_FAILURES, [(labels, each.connect_failures) for labels, each in rows])
    yield gauge(names.BACKEND_ACTIVE, [(labels, each.active) for labels, each in rows])
    directions = [
        ((*labels, direction), value)
        for labels, each in rows
        for direction, value in (("in", each.bytes_in), ("out", each.bytes_out))
    ]
    yield counter(names.BACKEND_BYTES, directions)
