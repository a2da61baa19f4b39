"""The exposition: what a dashboard or an alert reads is what the counters say."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from spliceway.model import (
    Address,
    Delete,
    EndpointStates,
    Frontend,
    FrontendState,
    Kind,
    ObjectKey,
    Problem,
    Protocol,
    Service,
    ServicePlan,
    SourceStatistics,
    Upsert,
)
from spliceway.observe import names
from spliceway.observe.metrics import exposition
from spliceway.observe.readings import AdminReadings, AgentReadings, CaptureReading
from spliceway.observe.stats import PoolLabels, Snapshot, pool_labels, rates, service_rows
from spliceway.observe.syncs import SyncTimes
from support.fakeobserved import BOUNDS, POOL, FakeObserved, backend_counters, engine_counters, pool_counters

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
SHOP = {"namespace": "default", "service": "shop", "port": "http"}


READINGS = AdminReadings(
    AgentReadings(
        CaptureReading(changes=40, failures=2, restored=3, elements=120, last_seconds=0.004),
        (Problem("Service a/b", "port taken"),),
        health_ports=4,
        events_written=11,
        events_dropped=12,
    ),
    healthz=((200, 5), (503, 6)),
    livez=((200, 7), (503, 0)),
    dropped=8,
)


def scrape(observed: FakeObserved, readings: AdminReadings = READINGS) -> Samples:
    snapshot = Snapshot.take(observed)
    _, body = exposition(snapshot, observed.counters(), BOUNDS, readings)
    samples: Samples = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, f"{key} is exposed twice"
            samples[key] = sample.value
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def synced_times() -> SyncTimes:
    """Two syncs of 3 ms and 30 ms, the second one with a trigger 2 s ago; one change of each kind waits."""
    now = 1_700_000_000.0
    clock = [0.0]
    times = SyncTimes(lambda: clock[0], lambda: now + clock[0])
    key = ObjectKey("default", "shop")
    service = Upsert("api", Service(key, "ClusterIP", ("10.0.0.1",), ()))
    piece = Delete("api", Kind.ENDPOINT_SLICE, key)
    times.queued([service, service, piece])
    clock[0] = 10.0
    times.synced(0.03, full=True)
    clock[0] = 20.0
    times.synced(0.003, full=False, triggers=(now + 18.0, now - 1.0))
    clock[0] = 25.0
    times.queued([service, piece])
    return times


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
        source_not_kept=4,
        ended_closed=90,
        ended_client_reset=2,
        ended_backend_reset=3,
        ended_drained=1,
        connect_seconds=0.25,
        connect_buckets=(60, 30, 8, 1),
        backends=(backend_counters("127.0.0.11", flows=99, bytes_in=900, bytes_out=40_000, connect_failures=10),),
    )
    observed.engine = engine_counters(
        pools=(pool,),
        fd_limit_hits=6,
        paused=True,
        worker_panics=1,
        listeners=3,
        sessions=21,
        session_limit_hits=22,
        sessions_moved=23,
        datagrams_dropped=24,
        trains_refused=30,
        affinities=25,
        affinity_limit_hits=26,
        unrouted=27,
        bypasses=28,
        bypass_limit_hits=29,
    )
    key = ObjectKey("default", "local")
    observed.plan_map[key] = ServicePlan(key, no_local_internal=1, no_local_external=2, unserved_ports=3)
    observed.syncs = synced_times()
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
        ("spliceway_source_not_kept_total", SHOP, 4),
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
        ("spliceway_limit_hits_total", {"limit": "sessions"}, 22),
        ("spliceway_limit_hits_total", {"limit": "affinities"}, 26),
        ("spliceway_udp_sessions", {}, 21),
        ("spliceway_udp_sessions_moved_total", {}, 23),
        ("spliceway_datagrams_dropped_total", {}, 24),
        ("spliceway_trains_refused_total", {}, 30),
        ("spliceway_affinities", {}, 25),
        ("spliceway_unrouted_connections_total", {}, 27),
        ("spliceway_bypasses", {}, 28),
        ("spliceway_limit_hits_total", {"limit": "bypasses"}, 29),
        ("spliceway_unserved_ports", {"protocol": "SCTP"}, 3),
        ("spliceway_capture_elements", {}, 120),
        ("spliceway_capture_changes_total", {}, 40),
        ("spliceway_capture_failures_total", {}, 2),
        ("spliceway_capture_restored_total", {}, 3),
        ("spliceway_capture_last_change_seconds", {}, 0.004),
        ("spliceway_health_check_listeners", {"state": "open"}, 4),
        ("spliceway_health_check_listeners", {"state": "failed"}, 1),
        ("spliceway_events_written_total", {}, 11),
        ("spliceway_events_dropped_total", {}, 12),
        ("kubeproxy_sync_proxy_rules_duration_seconds_count", {"ip_family": "IPv4"}, 2),
        ("kubeproxy_sync_proxy_rules_duration_seconds_sum", {"ip_family": "IPv6"}, 0.033),
        ("kubeproxy_sync_proxy_rules_duration_seconds_bucket", {"ip_family": "IPv4", "le": "0.004"}, 1),
        ("kubeproxy_sync_proxy_rules_duration_seconds_bucket", {"ip_family": "IPv4", "le": "16.384"}, 2),
        ("kubeproxy_sync_full_proxy_rules_duration_seconds_count", {"ip_family": "IPv4"}, 1),
        ("kubeproxy_sync_partial_proxy_rules_duration_seconds_count", {"ip_family": "IPv4"}, 1),
        ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", {"ip_family": "IPv4"}, 1_700_000_020),
        ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", {"ip_family": "IPv6"}, 1_700_000_025),
        ("kubeproxy_network_programming_duration_seconds_count", {"ip_family": "IPv4"}, 1),
        ("kubeproxy_network_programming_duration_seconds_bucket", {"ip_family": "IPv4", "le": "1.0"}, 0),
        ("kubeproxy_network_programming_duration_seconds_bucket", {"ip_family": "IPv4", "le": "2.0"}, 1),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_total", {}, 2),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", {}, 1),
        ("kubeproxy_sync_proxy_rules_service_changes_total", {}, 3),
        ("kubeproxy_sync_proxy_rules_service_changes_pending", {}, 1),
        ("kubeproxy_sync_proxy_rules_no_local_endpoints_total", {"traffic_policy": "internal"}, 1),
        ("kubeproxy_sync_proxy_rules_no_local_endpoints_total", {"traffic_policy": "external"}, 2),
        ("kubeproxy_proxy_healthz_total", {"code": "503"}, 6),
        ("kubeproxy_proxy_livez_total", {"code": "200"}, 7),
        ("kubeproxy_conntrack_reconciler_deleted_entries_total", {}, 23),
        ("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", {}, 2),
    ],
)
def test_every_counter_is_exposed(name: str, labels: dict[str, str], expected: float) -> None:
    """An alert on this series would never fire."""
    assert value(scrape(busy()), name, **labels) == expected


def test_every_name_is_exposed() -> None:
    """A name in the docs would exist nowhere."""
    _, body = exposition(Snapshot.take(busy()), busy().counters(), BOUNDS, READINGS)
    exposed = set(re.findall(r"^# HELP (\S+)", body.decode(), re.MULTILINE))
    declared = {each for each in vars(names).values() if isinstance(each, names.Metric)}
    assert {each.name for each in declared} <= exposed | {name.removesuffix("_total") for name in exposed}
    assert all(each.help.endswith(".") for each in declared)


def test_every_name_is_in_the_docs() -> None:
    """A name on a dashboard could not be looked up."""
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    _, body = exposition(Snapshot.take(busy()), busy().counters(), BOUNDS, READINGS)
    exposed = set(re.findall(r"^# HELP ((?:spliceway|kube)\S+)", body.decode(), re.MULTILINE))
    documented = set(re.findall(r"`((?:spliceway|kube(?:proxy|rnetes))_[a-z_]+)`", page))
    assert documented == exposed


def test_without_packet_rules_there_are_no_series_of_them() -> None:
    """An agent that binds would look as if its packet rules were empty."""
    readings = AdminReadings()
    assert not [name for name, _ in scrape(busy(), readings) if "capture" in name or "nftables" in name]


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
        ("default/shop:http@ipv6@local", ("default", "shop", "http@ipv6@local")),
        ("default/shop@local", ("default", "shop", "@local")),
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


def test_a_name_server_has_two_frontends_at_one_address() -> None:
    """Of DNS, status would show one row twice, and nobody could tell which of the two fails."""
    observed = busy()
    for protocol, state in ((Protocol.TCP, "serving"), (Protocol.UDP, "dropping")):
        frontend = Frontend(Address("10.0.0.10", 53), "kube-system/dns:dns", protocol=protocol)
        observed.frontend_map[frontend.key] = FrontendState(frontend, state)
    (row,) = [row for row in service_rows(Snapshot.take(observed), observed.counters()) if "dns" in row.pool]
    assert [each.address for each in row.frontends] == ["10.0.0.10:53", "10.0.0.10:53/udp"]
    assert row.state == "dropping"


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
