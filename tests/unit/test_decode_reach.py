"""Decoding of how a Service is reached: addresses, node ports, policies, affinity (rules S-05 to S-13)."""

from __future__ import annotations

from typing import Any

import pytest

from spliceway.model import Service
from spliceway.source.address import canonical_network
from support.decoding import Json, both_ways, faults, made_service, service


def ingress(*entries: Any) -> Json:
    return {"loadBalancer": {"ingress": list(entries)}}


def test_every_field_at_once() -> None:
    """Lost: a LoadBalancer Service would be served on its ClusterIP only."""
    spec = {
        "type": "LoadBalancer",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        "externalIPs": ["203.0.113.5", "2001:DB8::0005"],
        "loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/8"],
        "internalTrafficPolicy": "Local",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32000,
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90}},
    }
    decoded = both_ways(service(spec, ingress({"ip": "198.51.100.1", "ipMode": "VIP"}, {"ip": "2001:db8::1"})))
    assert decoded.faults == ()
    made = decoded.object
    assert isinstance(made, Service)
    assert [port.node_port for port in made.ports] == [30080, 0]
    assert made.external_ips == ("203.0.113.5", "2001:db8::5")
    assert made.ingress_ips == ("198.51.100.1", "2001:db8::1")
    assert made.source_ranges == ("10.0.0.0/8", "fd00::/8")
    assert (made.internal_local, made.external_local) == (True, True)
    assert made.health_check_node_port == 32000
    assert made.affinity_timeout == 90


@pytest.mark.parametrize(
    "nothing",
    [{}, {"externalIPs": None, "loadBalancerSourceRanges": None}, {"externalIPs": [], "externalTrafficPolicy": ""}],
)
@pytest.mark.parametrize("status", [None, {}, {"loadBalancer": None}, {"loadBalancer": {"ingress": None}}])
def test_nothing_said_is_nothing_wrong(nothing: Json, status: Json | None) -> None:
    """Lost: every plain Service of a cluster, which has ``status: {loadBalancer: {}}``, would have a complaint."""
    decoded = both_ways(service({**nothing, "healthCheckNodePort": 0, "sessionAffinityConfig": None}, status))
    assert decoded.faults == ()
    made = decoded.object
    assert isinstance(made, Service)
    assert (made.external_ips, made.ingress_ips, made.source_ranges) == ((), (), ())
    assert (made.internal_local, made.external_local, made.health_check_node_port) == (False, False, 0)
    assert made.affinity_timeout == 10800


def test_s05_bad_external_ip_costs_only_itself() -> None:
    """Lost: one mistyped external IP would take the others down; or an empty one be called a mistake."""
    decoded = both_ways(service({"externalIPs": ["203.0.113.005", "", "shop.example", "0.0.0.0", 7, "203.0.113.5"]}))
    assert isinstance(decoded.object, Service)
    assert decoded.object.external_ips == ("203.0.113.5",)
    assert list(faults(decoded)) == ["spec.externalIPs[4]", "spec.externalIPs[2]", "spec.externalIPs[3]"]
    assert "'shop.example' is not an IP address; it is left out" in faults(decoded)["spec.externalIPs[2]"]


@pytest.mark.parametrize(
    ("entry", "served"),
    [
        ({"ip": "198.51.100.1"}, True),
        ({"ip": "198.51.100.001", "ipMode": None}, True),
        ({"ip": "::ffff:198.51.100.1", "ipMode": "VIP"}, True),
        ({"ip": "198.51.100.1", "ipMode": "Proxy"}, False),
        ({"hostname": "lb.example.com"}, False),
        ({"hostname": "lb.example.com", "ip": ""}, False),
    ],
)
def test_s06_ingress_addresses(entry: Json, served: bool) -> None:
    """Lost: Pods would get round a load balancer that must see their traffic (ipMode Proxy), or not reach one."""
    decoded = both_ways(service(status=ingress(entry)))
    assert isinstance(decoded.object, Service)
    assert decoded.object.ingress_ips == (("198.51.100.1",) if served else ())
    assert decoded.faults == ()


@pytest.mark.parametrize(
    ("status", "path"),
    [
        ("up", "status"),
        ({"loadBalancer": []}, "status.loadBalancer"),
        ({"loadBalancer": {"ingress": "x"}}, "status.loadBalancer.ingress"),
        (ingress({"ip": 5}), "status.loadBalancer.ingress[0].ip"),
        (ingress({"ip": "nowhere"}), "status.loadBalancer.ingress[0].ip"),
        (ingress({"ip": "198.51.100.1", "ipMode": "vip"}), "status.loadBalancer.ingress[0].ipMode"),
        (ingress("198.51.100.1"), "status.loadBalancer.ingress[0]"),
    ],
)
def test_s06_bad_status_is_named_and_the_service_stays(status: Any, path: str) -> None:
    """Lost: the ClusterIP of a Service, because some controller wrote nonsense into its status."""
    decoded = both_ways(service(status=status))
    assert isinstance(decoded.object, Service)
    assert decoded.object.cluster_ips == ("10.96.0.10",)
    assert decoded.object.ingress_ips == ()
    assert list(faults(decoded)) == [path]
    assert "left out" in faults(decoded)[path]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("203.0.113.000/025", "203.0.113.0/25"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("010.000.0.1/32", "10.0.0.1/32"),
        ("FD00::1/8", "fd00::/8"),
        ("::/0", "::/0"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("::ffff:0:0/90", "::ffc0:0:0/90"),
    ],
)
def test_s12_sloppy_networks(text: str, canonical: str) -> None:
    """Lost: clients that kube-proxy lets in would be shut out for the way their range is written."""
    assert canonical_network(text) == canonical
    assert canonical_network(canonical) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "10.0.0.0",
        "10.0.0.0/",
        "/8",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/8/8",
        "fe80::%1/64",
        "fd00::/129",
        "::ffff:10.0.0.0/129",
        "10.0.0.0/٨",
        "10.0.0.0/" + "9" * 5000,
    ],
)
def test_s12_what_is_no_network(text: str) -> None:
    """Lost: a range that lets in others than those who were meant."""
    with pytest.raises(ValueError, match=r"."):
        canonical_network(text)


def test_s07_source_ranges_are_trimmed_and_the_bad_ones_named() -> None:
    """Lost: clients would be shut out for a space, or a typing mistake would stay unseen."""
    decoded = both_ways(service({"loadBalancerSourceRanges": [" 10.0.0.0/8\n", "10.0.0.0/99", None, "10.0.0.0/08"]}))
    assert isinstance(decoded.object, Service)
    assert decoded.object.source_ranges == ("10.0.0.0/8",)
    assert set(faults(decoded)) == {"spec.loadBalancerSourceRanges[1]", "spec.loadBalancerSourceRanges[2]"}


def test_s07_a_list_without_any_usable_range_is_said_loudly() -> None:
    """Lost: a Service that was meant for the office would be open to the world, and nobody would hear of it."""
    decoded = both_ways(service({"loadBalancerSourceRanges": ["office"]}))
    assert made_service(service({"loadBalancerSourceRanges": ["office"]})).source_ranges == ()
    assert "clients from everywhere may come" in faults(decoded)["spec.loadBalancerSourceRanges"]
    assert not any(fault.warning for fault in decoded.faults)


@pytest.mark.parametrize(
    ("config", "timeout", "path"),
    [
        (None, 10800, ""),
        ({}, 10800, ""),
        ({"clientIP": None}, 10800, ""),
        ({"clientIP": {"timeoutSeconds": None}}, 10800, ""),
        ({"clientIP": {"timeoutSeconds": 1}}, 1, ""),
        ({"clientIP": {"timeoutSeconds": 86400}}, 86400, ""),
        ({"clientIP": {"timeoutSeconds": 0}}, 10800, "spec.sessionAffinityConfig.clientIP.timeoutSeconds"),
        ({"clientIP": {"timeoutSeconds": 86401}}, 10800, "spec.sessionAffinityConfig.clientIP.timeoutSeconds"),
        ({"clientIP": {"timeoutSeconds": "1h"}}, 10800, "spec.sessionAffinityConfig.clientIP.timeoutSeconds"),
        ({"clientIP": 5}, 10800, "spec.sessionAffinityConfig.clientIP"),
        ("1h", 10800, "spec.sessionAffinityConfig"),
    ],
)
def test_s08_affinity_timeout(config: Any, timeout: int, path: str) -> None:
    """Lost: clients would stay with a backend for another time than was asked for, or the agent would die of a null."""
    decoded = both_ways(service({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}))
    assert isinstance(decoded.object, Service)
    assert decoded.object.affinity_timeout == timeout
    assert list(faults(decoded)) == ([path] if path else [])


@pytest.mark.parametrize("bad", [-1, 65536, 10**30, "30080", 1.5])
def test_s09_bad_node_port_numbers_cost_only_themselves(bad: Any) -> None:
    """Lost: the ClusterIP's port together with a mistyped nodePort or healthCheckNodePort."""
    ports = [{"name": "http", "port": 80, "nodePort": bad}]
    decoded = both_ways(service({"ports": ports, "healthCheckNodePort": bad}))
    assert isinstance(decoded.object, Service)
    assert [(port.port, port.node_port) for port in decoded.object.ports] == [(80, 0)]
    assert decoded.object.health_check_node_port == 0
    assert set(faults(decoded)) == {"spec.ports[0].nodePort", "spec.healthCheckNodePort"}
    assert all("left out" in message for message in faults(decoded).values())


def test_s13_node_ports_that_clash() -> None:
    """Lost: which of two ports answers on a node port would be a matter of luck."""
    ports = [
        {"name": "a", "port": 1, "nodePort": 30000},
        {"name": "b", "port": 2, "nodePort": 30000},
        {"name": "c", "port": 3, "nodePort": 30000, "protocol": "UDP"},
        {"name": "d", "port": 4, "nodePort": None},
    ]
    decoded = both_ways(service({"ports": ports}))
    assert isinstance(decoded.object, Service)
    assert [port.node_port for port in decoded.object.ports] == [30000, 0, 30000, 0]
    assert list(faults(decoded)) == ["spec.ports[1].nodePort"]


@pytest.mark.parametrize("field", ["internalTrafficPolicy", "externalTrafficPolicy"])
@pytest.mark.parametrize(
    ("policy", "local", "wrong"),
    [(None, False, False), ("Cluster", False, False), ("Local", True, False), ("local", False, True), (1, False, True)],
)
def test_s10_traffic_policies(field: str, policy: Any, local: bool, wrong: bool) -> None:
    """Lost: a policy of a later Kubernetes, or a mistyped one, would take the Service down."""
    decoded = both_ways(service({field: policy}))
    assert isinstance(decoded.object, Service)
    assert (decoded.object.internal_local, decoded.object.external_local) == (
        (local, False) if field.startswith("internal") else (False, local)
    )
    assert list(faults(decoded)) == ([f"spec.{field}"] if wrong else [])
