"""Decoding of Nodes (T-10, H-09, W-23), and of what a slice says of nodes, zones and times (E-07, E-08, W-13)."""

from __future__ import annotations

from typing import Any

import pytest

from spliceway.model import EndpointSlice, Kind, Node, ObjectKey, SliceEndpoint
from support.decoding import Json, both_ways, endpoint_slice, faults, made_node, made_slice, node


def internal(address: str) -> Json:
    return {"type": "InternalIP", "address": address}


def external(address: str) -> Json:
    return {"type": "ExternalIP", "address": address}


def test_every_field_at_once() -> None:
    """Lost: zone hints, the node's own addresses, or the Pods' range: what only the Node tells."""
    decoded = both_ways(
        node(
            {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.001.0/024", "FD00:1::/64"], "taints": [{"key": "other"}]},
            [{"type": "Hostname", "address": "worker-1"}, internal("192.0.2.7"), internal("2001:DB8::7")],
            resourceVersion="9",
            labels={"topology.kubernetes.io/zone": "eu-1a", "topology.kubernetes.io/region": "eu"},
        )
    )
    assert decoded.faults == ()
    assert (decoded.subject, decoded.kind, decoded.key) == ("Node worker-1", Kind.NODE, ObjectKey("", "worker-1"))
    assert decoded.object == Node(
        key=ObjectKey("", "worker-1"),
        zone="eu-1a",
        addresses=("192.0.2.7", "2001:db8::7"),
        pod_cidrs=("10.244.1.0/24", "fd00:1::/64"),
        eligible=True,
        resource_version="9",
    )


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (None, ()),
        ([], ()),
        ([internal("192.0.2.7")], ("192.0.2.7",)),
        ([external("198.51.100.7"), internal("192.0.2.7"), internal("192.0.2.8")], ("192.0.2.7",)),
        ([external("198.51.100.7")], ("198.51.100.7",)),
        ([internal("2001:db8::7"), internal("192.0.2.7")], ("2001:db8::7", "192.0.2.7")),
        ([external("2001:db8::7"), internal("192.0.2.7")], ("192.0.2.7", "2001:db8::7")),
        ([{"type": "InternalDNS", "address": "worker-1.local"}, internal("192.0.2.007")], ("192.0.2.7",)),
    ],
)
def test_w23_node_ips(given: Any, chosen: tuple[str, ...]) -> None:
    """Lost: the agent would take another address for its own than kube-proxy, or exit because their order changed."""
    decoded = both_ways(node(addresses=given))
    assert isinstance(decoded.object, Node)
    assert decoded.object.addresses == chosen
    assert decoded.faults == ()


def test_pod_cidr_of_an_old_node() -> None:
    """Lost: --detect-local-mode=NodeCIDR would wait for five minutes and give up."""
    assert made_node(node({"podCIDR": "10.244.1.0/24"})).pod_cidrs == ("10.244.1.0/24",)
    assert made_node(node({})).pod_cidrs == ()


@pytest.mark.parametrize(
    ("spec", "metadata", "eligible"),
    [
        ({}, {}, True),
        ({"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}, {}, True),
        ({"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule"}]}, {}, False),
        ({}, {"deletionTimestamp": "2026-01-01T00:00:00Z"}, False),
        ({"taints": None}, {"deletionTimestamp": None}, True),
    ],
)
def test_h09_eligible(spec: Json, metadata: Json, eligible: bool) -> None:
    """Lost: load balancers would go on sending clients to a node that is about to vanish, or avoid a sound one."""
    assert made_node(node(spec, **metadata)).eligible is eligible


def test_bad_part_of_a_node_costs_only_itself() -> None:
    """Lost: one odd field of the Node, and the agent would not start."""
    decoded = both_ways(
        node(
            {"podCIDRs": ["10.244.1.0/24", "pods", 3], "taints": ["x", {"key": "ToBeDeletedByClusterAutoscaler"}]},
            [internal("nowhere"), {"type": "InternalIP"}, internal("0.0.0.0"), internal("192.0.2.7")],
        )
    )
    assert isinstance(decoded.object, Node)
    assert decoded.object.addresses == ("192.0.2.7",)
    assert decoded.object.pod_cidrs == ("10.244.1.0/24",)
    assert not decoded.object.eligible
    assert set(faults(decoded)) == {
        *("spec.podCIDRs[1]", "spec.podCIDRs[2]", "spec.taints[0]"),
        *("status.addresses[0].address", "status.addresses[1].address", "status.addresses[2].address"),
    }


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"metadata": None}, "metadata"),
        ({"metadata": {}}, "metadata.name"),
        ({"metadata": {"name": "Worker_1"}}, "metadata.name"),
        ({"metadata": {"name": "worker-1", "labels": 5}}, "metadata.labels"),
    ],
)
def test_unusable_node_names_the_field(change: Json, path: str) -> None:
    """Lost: the reason why the agent does not know its Node."""
    decoded = both_ways({**node(), **change})
    assert decoded.object is None
    assert list(faults(decoded)) == [path]


def test_e07_node_name_is_trimmed() -> None:
    """Lost: endpoints of this node would be taken for another's, and Local policies drop clients."""
    endpoints = [{"addresses": ["10.0.0.1"], "nodeName": " worker-1\n"}, {"addresses": ["10.0.0.2"], "nodeName": " "}]
    made = made_slice(endpoint_slice(endpoints=endpoints))
    assert [endpoint.node for endpoint in made.endpoints] == ["worker-1", None]


def test_e08_hints() -> None:
    """Lost: traffic would leave its zone or node; the API's limit of eight is not for us to enforce."""
    zones = [f"zone-{number}" for number in range(9)]
    endpoints = [
        {"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": zone} for zone in zones]}},
        {"addresses": ["10.0.0.2"], "hints": {"forNodes": [{"name": "worker-1"}], "forZones": None}},
        {"addresses": ["10.0.0.3"], "hints": None},
        {"addresses": ["10.0.0.4"], "hints": {}},
    ]
    decoded = both_ways(endpoint_slice(endpoints=endpoints))
    assert decoded.faults == ()
    assert isinstance(decoded.object, EndpointSlice)
    assert decoded.object.endpoints == (
        SliceEndpoint("10.0.0.1", zone_hints=tuple(zones)),
        SliceEndpoint("10.0.0.2", node_hints=("worker-1",)),
        SliceEndpoint("10.0.0.3"),
        SliceEndpoint("10.0.0.4"),
    )


@pytest.mark.parametrize("hints", ["eu-1a", {"forZones": "eu-1a"}, {"forNodes": [{}]}, {"forZones": [{"name": 1}]}])
def test_e08_bad_hints_do_not_cost_the_endpoint(hints: Any) -> None:
    """Lost: a backend, for a hint that only says from where it is near."""
    decoded = both_ways(endpoint_slice(endpoints=[{"addresses": ["10.0.0.1"], "hints": hints}]))
    assert isinstance(decoded.object, EndpointSlice)
    assert decoded.object.endpoints == (SliceEndpoint("10.0.0.1"),)
    (path,) = faults(decoded)
    assert path.startswith("endpoints[0].hints")
    assert "left out" in faults(decoded)[path]


def test_equal_hints_are_one_tuple() -> None:
    """Lost: megabytes, for the same zone on each of 100,000 endpoints."""
    endpoints = [{"addresses": [f"10.0.0.{n}"], "hints": {"forZones": [{"name": "eu-1a"}]}} for n in (1, 2)]
    first, second = made_slice(endpoint_slice(endpoints=endpoints)).endpoints
    assert first.zone_hints is second.zone_hints


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-03-01T09:30:00Z", 1772357400.0),
        ("2026-03-01T09:30:00.123456789Z", 1772357400.123456),
        ("2026-03-01T10:30:00.5+01:00", 1772357400.5),
        ("2026-03-01", 0.0),
        ("2026-02-30T09:30:00Z", 0.0),
        ("2026-03-01T09:30:00", 0.0),
        ("1000-01-01T00:00:00Z", 0.0),
        ("yesterday", 0.0),
        (5, 0.0),
    ],
)
def test_w13_trigger_time(text: Any, seconds: float) -> None:
    """Lost: the measure of how late an endpoint's change was programmed; or the slice, for a bad time."""
    annotations = {"endpoints.kubernetes.io/last-change-trigger-time": text, "other": "x"}
    decoded = both_ways(endpoint_slice({"annotations": annotations}))
    assert isinstance(decoded.object, EndpointSlice)
    assert decoded.object.triggered == pytest.approx(seconds, abs=1e-6)
    assert decoded.faults == ()


def test_slice_annotations_of_ours() -> None:
    """Lost: weights of endpoints; and one that is not text must not cost the slice."""
    annotations = {"spliceway.io/weight": "5", "spliceway.io/bad": 5, "else": 1}
    decoded = both_ways(endpoint_slice({"annotations": annotations}))
    assert isinstance(decoded.object, EndpointSlice)
    assert decoded.object.tuning == (("weight", "5"),)
    assert list(faults(decoded)) == ["metadata.annotations.spliceway.io/bad"]
