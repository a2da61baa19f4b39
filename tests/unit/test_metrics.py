"""The exposition: what a dashboard or an alert reads is what the counters say."""

from __future__ import annotations

import re
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from spliceway.model import EndpointStates, ObjectKey, Problem, ServicePlan, SourceStatistics
from spliceway.observe import names
from spliceway.observe.metrics import exposition
from spliceway.observe.stats import PoolLabels, Snapshot, pool_labels, rates, service_rows
from support.fakeobserved import BOUNDS, POOL, FakeObserved, backend_counters, engine_counters, pool_counters

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
SHOP = {"namespace": "default", "service": "shop", "port": "http"}


def scrape(observed: FakeObserved, dropped: int = 0) -> Samples:
    snapshot = Snapshot.take(observed)
    _, body = exposition(snapshot, observed.counters(), BOUNDS, dropped=dropped)
    samples: Samples = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, f"{key} is exposed twice"
            samples[key] = sample.value
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def busy() -> FakeObserved:
    observed = FakeObserved()
    pool = pool_counters(
        flows=100,
        active=4,
        bytes_in=1000,
        bytes_out=50_000,
        tries=110,
        retries=10,
        saved=9,
        failed=1,
        replayed=2,
        budget_exhausted=3,
        no_backend=5,
        ended_closed=90,
        ended_client_reset=2,
        ended_backend_reset=3,
        ended_drained=1,
        connect_seconds=0.25,
        connect_buckets=(60, 30, 8, 1),
        backends=(backend_counters("127.0.0.11", flows=99, bytes_in=900, bytes_out=40_000, connect_failures=10),),
    )
    observed.engine = engine_counters(pools=(pool,), fd_limit_hits=6, paused=True, worker_panics=1, listeners=3)
    observed.problem_list = (Problem("a", "b"), Problem("a", "c", warning=True), Problem("a", "d", warning=True))
    observed.source_list = (SourceStatistics("services", True, 12.5, restarts=4, errors=2),)
    return observed


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("spliceway_flows_total", SHOP, 100),
        ("spliceway_active_flows", SHOP, 4),
        ("spliceway_bytes_total", SHOP | {"direction": "in"}, 1000),
        ("spliceway_bytes_total", SHOP | {"direction": "out"}, 50_000),
        ("spliceway_tries_total", SHOP, 110),
        ("spliceway_retries_total", SHOP, 10),
        ("spliceway_saved_flows_total", SHOP, 9),
        ("spliceway_failed_flows_total", SHOP, 1),
        ("spliceway_replayed_flows_total", SHOP, 2),
        ("spliceway_refused_flows_total", SHOP, 5),
        ("spliceway_retry_budget_exhausted_total", SHOP, 3),
        ("spliceway_flow_ends_total", SHOP | {"reason": "closed"}, 90),
        ("spliceway_flow_ends_total", SHOP | {"reason": "client-reset"}, 2),
        ("spliceway_flow_ends_total", SHOP | {"reason": "backend-reset"}, 3),
        ("spliceway_flow_ends_total", SHOP | {"reason": "drained"}, 1),
        ("spliceway_connect_seconds_bucket", SHOP | {"le": "0.001"}, 60),
        ("spliceway_connect_seconds_bucket", SHOP | {"le": "0.01"}, 90),
        ("spliceway_connect_seconds_bucket", SHOP | {"le": "+Inf"}, 99),
        ("spliceway_connect_seconds_count", SHOP, 99),
        ("spliceway_connect_seconds_sum", SHOP, 0.25),
        ("spliceway_endpoints", SHOP | {"state": "ready"}, 2),
        ("spliceway_endpoints", SHOP | {"state": "unready"}, 1),
        ("spliceway_unhealthy_backends", SHOP, 1),
        ("spliceway_backend_flows_total", SHOP | {"backend": "127.0.0.11:9001"}, 99),
        ("spliceway_backend_connect_failures_total", SHOP | {"backend": "127.0.0.11:9001"}, 10),
        ("spliceway_backend_bytes_total", SHOP | {"backend": "127.0.0.11:9001", "direction": "out"}, 40_000),
        ("spliceway_limit_hits_total", {"limit": "fds"}, 6),
        ("spliceway_accept_paused", {}, 1),
        ("spliceway_worker_panics_total", {}, 1),
        ("spliceway_listeners", {}, 3),
        ("spliceway_generation", {}, 7),
        ("spliceway_ready", {}, 1),
        ("spliceway_frontends", {"state": "serving"}, 1),
        ("spliceway_frontends", {"state": "failed"}, 0),
        ("spliceway_problems", {"severity": "error"}, 1),
        ("spliceway_problems", {"severity": "warning"}, 2),
        ("spliceway_source_synced", {"source": "services"}, 1),
        ("spliceway_source_staleness_seconds", {"source": "services"}, 12.5),
        ("spliceway_source_errors_total", {"source": "services"}, 2),
        ("spliceway_source_restarts_total", {"source": "services"}, 4),
        ("spliceway_admin_dropped_connections_total", {}, 8),
    ],
)
def test_every_counter_is_exposed(name: str, labels: dict[str, str], expected: float) -> None:
    """An alert on this series would never fire."""
    assert value(scrape(busy(), dropped=8), name, **labels) == expected


def test_every_name_is_exposed() -> None:
    """A name in the docs would exist nowhere."""
    _, body = exposition(Snapshot.take(busy()), busy().counters(), BOUNDS)
    exposed = set(re.findall(r"^# HELP (\S+)", body.decode(), re.MULTILINE))
    declared = {each for each in vars(names).values() if isinstance(each, names.Metric)}
    assert {each.name for each in declared} <= {name.removesuffix("_total") for name in exposed}
    assert all(each.help.endswith(".") for each in declared)


def test_pools_without_traffic_cost_only_their_endpoint_gauges() -> None:
    """10,000 idle Services would drown Prometheus in series."""
    observed = FakeObserved()
    observed.verdicts = ()
    observed.engine = engine_counters(pools=(pool_counters(),))
    names_of_pool = {name for name, labels in scrape(observed) if ("service", "shop") in labels}
    assert names_of_pool == {"spliceway_endpoints"}


def test_scrape_of_10_000_services_is_quick() -> None:
    """A scrape would hold the interpreter for seconds while endpoints change."""
    observed = FakeObserved()
    for number in range(10_000):
        key = ObjectKey("default", f"s{number}")
        observed.plan_map[key] = ServicePlan(key, endpoints=((f"{key}:http", EndpointStates(10, 0, 0)),))
    started = time.perf_counter()
    _, body = exposition(Snapshot.take(observed), observed.counters(), BOUNDS)
    assert time.perf_counter() - started < 3.0
    assert body.count(b"\n") > 30_000


def test_open_metrics_when_asked_for() -> None:
    """A scraper that asks for OpenMetrics would get the older format."""
    snapshot = Snapshot.take(busy())
    content_type, body = exposition(
        snapshot, busy().counters(), BOUNDS, accept="application/openmetrics-text; version=1.0.0"
    )
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("pool", "labels"),
    [
        ("default/shop:http", ("default", "shop", "http")),
        ("default/shop", ("default", "shop", "")),
        ("default/shop:http@ipv6", ("default", "shop", "http@ipv6")),
        ("default/shop@ipv6", ("default", "shop", "@ipv6")),
        ("127.0.0.1:8080", ("", "127.0.0.1:8080", "")),
    ],
)
def test_pool_names_become_labels(pool: str, labels: tuple[str, str, str]) -> None:
    """Two pools would share one series, or a Service's series could not be found by its name."""
    assert pool_labels(pool) == PoolLabels(*labels)


def test_rows_show_planned_pools_and_pools_that_only_drain() -> None:
    """A deleted Service's running flows would be invisible, or an idle Service would."""
    observed = busy()
    observed.engine.pools = (*observed.engine.pools, pool_counters("default/old:http", flows=3, active=1))
    idle = ObjectKey("default", "idle")
    observed.plan_map[idle] = ServicePlan(idle, endpoints=(("default/idle:http", EndpointStates(1, 0, 0)),))
    rows = {row.pool: row for row in service_rows(Snapshot.take(observed), observed.counters())}
    assert list(rows) == ["default/idle:http", "default/old:http", POOL]
    assert rows["default/old:http"].active == 1
    assert rows["default/old:http"].state == "no frontend"
    assert (rows[POOL].errors, rows[POOL].state, rows[POOL].unhealthy) == (6, "serving", 1)
    assert rows[POOL].backends[0].flows == 99


def test_rates_between_two_readings() -> None:
    """Status would show nonsense after an agent's restart."""
    observed = busy()
    before = next(row for row in service_rows(Snapshot.take(observed), observed.counters()) if row.pool == POOL)
    observed.engine.pools[0].flows += 50
    observed.engine.pools[0].bytes_in += 200
    after = next(row for row in service_rows(Snapshot.take(observed), observed.counters()) if row.pool == POOL)
    assert rates(before, after, 2.0) == (25.0, 100.0, 0.0)
    assert rates(after, before, 2.0) == (0.0, 0.0, 0.0)
    assert rates(before, after, 0.0) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("version", ["abc", "1.x", "", "0.0.1"])
def test_accept_header_with_an_odd_version_gets_metrics(version: str) -> None:
    """A scraper with an odd header would get an error instead of metrics."""
    observed = FakeObserved()
    accept = f"application/openmetrics-text; version={version}"
    content_type, body = exposition(Snapshot.take(observed), observed.counters(), BOUNDS, accept=accept)
    assert content_type.startswith(("text/plain", "application/openmetrics-text"))
    assert b"spliceway_ready" in body
