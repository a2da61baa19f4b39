"""Metrics under kube-proxy's names, where the meaning is the same, so that its dashboards and alerts go on working.

One turn of the pipeline brings both IP families; kube-proxy has a proxier for each. Where its metric has the label
``ip_family``, both values tell the same.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from spliceway.observe import names
from spliceway.observe.readings import AdminReadings
from spliceway.observe.state import version
from spliceway.observe.stats import Snapshot
from spliceway.observe.syncs import HistogramReading

_FAMILIES = ("IPv4", "IPv6")

_Value = TypeVar("_Value")
Samples = Iterable[tuple[tuple[str, ...], float]]


def gauge(metric: names.Metric, samples: Samples) -> Metric:
    """A gauge family with these samples."""
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def counter(metric: names.Metric, samples: Samples) -> Metric:
    """A counter family with these samples."""
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def histogram(metric: names.Metric, readings: Iterable[tuple[tuple[str, ...], HistogramReading]]) -> Metric:
    """A histogram family with these readings."""
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, reading in readings:
        bounds = [*(str(bound) for bound in reading.bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(reading.counts), strict=True)), reading.total)
    return family


def kubeproxy_metrics(snapshot: Snapshot, readings: AdminReadings, sessions_moved: int) -> Iterator[Metric]:
    """Every family that kube-proxy has as well (section 4, column U). ``sessions_moved`` counts UDP sessions (C-08)."""
    syncs = snapshot.syncs
    for metric, reading in (
        (names.KUBE_SYNC, syncs.all),
        (names.KUBE_SYNC_FULL, syncs.full),
        (names.KUBE_SYNC_PARTIAL, syncs.partial),
        (names.KUBE_PROGRAMMING, syncs.programming),
    ):
        yield histogram(metric, _each_family(reading))
    yield gauge(names.KUBE_SYNC_LAST, _each_family(syncs.last_synced))
    yield gauge(names.KUBE_SYNC_QUEUED, _each_family(syncs.last_queued))
    yield gauge(names.KUBE_SLICES_PENDING, [((), syncs.slice_changes_pending)])
    yield counter(names.KUBE_SLICES, [((), syncs.slice_changes)])
    yield gauge(names.KUBE_SERVICES_PENDING, [((), syncs.service_changes_pending)])
    yield counter(names.KUBE_SERVICES, [((), syncs.service_changes)])
    internal = sum(plan.no_local_internal for _, plan in snapshot.plans)
    external = sum(plan.no_local_external for _, plan in snapshot.plans)
    yield gauge(names.KUBE_NO_LOCAL, [(("internal",), internal), (("external",), external)])
    yield counter(names.KUBE_HEALTHZ, [((str(code),), count) for code, count in readings.healthz])
    yield counter(names.KUBE_LIVEZ, [((str(code),), count) for code, count in readings.livez])
    yield counter(names.KUBE_CONNTRACK_DELETED, [((), sessions_moved)])
    if readings.agent.capture:
        yield counter(names.KUBE_NFT_FAILURES, [((), readings.agent.capture.failures)])
    yield gauge(names.KUBE_BUILD, [(_build_labels(), 1)])


def _each_family(value: _Value) -> list[tuple[tuple[str, ...], _Value]]:
    return [((family,), value) for family in _FAMILIES]


def _build_labels() -> tuple[str, ...]:
    """As far as a program that is not Kubernetes has such things; in the order of ``names.KUBE_BUILD.labels``."""
    major, minor = version().split(".")[:2]
    machine = f"{platform.system().lower()}/{platform.machine()}"
    return (major, minor, f"v{version()}", machine)
