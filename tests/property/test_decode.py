"""Decoding of arbitrary input: it never raises, and what it makes keeps the model's promises."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from spliceway.model import EndpointSlice, Kind, Node, Service
from spliceway.source.address import canonical_address, canonical_network, dialable, family, is_plain_ipv4
from spliceway.source.decode import Decoded, decode_json, decode_value

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
#: values that JSON can say, with the keys that mean something
keys = st.sampled_from(
    [
        "kind",
        "apiVersion",
        "metadata",
        "name",
        "namespace",
        "labels",
        "annotations",
        "spec",
        "ports",
        "port",
        "protocol",
        "addressType",
        "endpoints",
        "addresses",
        "conditions",
        "ready",
        "clusterIP",
        "clusterIPs",
        "type",
        "nodeName",
        "kubernetes.io/service-name",
        "spliceway.io/balance",
        "resourceVersion",
    ]
)
words = st.sampled_from(
    [
        "Service",
        "EndpointSlice",
        "v1",
        "discovery.k8s.io/v1",
        "default",
        "shop",
        "http",
        "TCP",
        "udp",
        "IPv4",
        "FQDN",
        "10.0.0.1",
        "010.0.0.1",
        "fd00::1",
        "0.0.0.0",
        "None",
        "ClusterIP",
        "ExternalName",
        "ClientIP",
        "Local",
        "10.0.0.0/08",
        "::ffff:10.0.0.0/104",
        "fd00::/8",
        " 0.0.0.0/0",
        "VIP",
        "Proxy",
        "InternalIP",
        "2026-03-01T09:30:00.5Z",
        "ToBeDeletedByClusterAutoscaler",
    ]
)
values = st.recursive(
    scalars | words | st.integers(-1, 70000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | st.text(max_size=5), inner, max_size=6),
    max_leaves=30,
)


@st.composite
def mostly(draw: st.DrawFn, sound: st.SearchStrategy[Any]) -> Any:
    """Something sound, more often than not: an object in which everything is bad would tell nothing."""
    return draw(words | values if draw(st.integers(0, 15)) == 15 else sound)


def some(sound: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return mostly(st.lists(mostly(sound), max_size=4))


def record(fields: dict[str, st.SearchStrategy[Any]], **needed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A mapping with the ``needed`` fields, which are sound, and any of the others."""
    return st.fixed_dictionaries(needed, optional={name: mostly(value) for name, value in fields.items()})


addresses = st.sampled_from(["10.0.0.1", "010.0.0.2", "fd00::1", "::ffff:10.0.0.3", "0.0.0.0", ""])
networks = st.sampled_from(["10.0.0.0/08", "::ffff:10.0.0.0/104", "fd00::/8", " 0.0.0.0/0 ", "10.0.0.0/99"])
numbers = st.integers(-1, 4) | st.integers(65530, 65540)
protocols = st.sampled_from(["TCP", "UDP"])
labels = record({"kubernetes.io/service-name": words, "topology.kubernetes.io/zone": words})
instants = st.sampled_from(["2026-03-01T09:30:00.5Z", "0001-01-01T00:00:00Z", "2026-02-30T00:00:00Z"])
notes = record({"endpoints.kubernetes.io/last-change-trigger-time": instants, "spliceway.io/balance": words})
metadata = st.fixed_dictionaries(
    {
        "name": mostly(st.just("shop")),
        "namespace": mostly(st.just("default")),
        "labels": st.fixed_dictionaries({"kubernetes.io/service-name": st.just("shop")}) | mostly(labels),
    },
    optional={
        "annotations": mostly(notes),
        "deletionTimestamp": mostly(instants),
        "resourceVersion": words,
    },
)
timeout = record({"clientIP": record({"timeoutSeconds": st.integers(-1, 90_000)})})
policies = st.sampled_from(["Local", "Cluster", "local", None])
port = record({"name": st.sampled_from("abc"), "protocol": protocols, "nodePort": numbers}, port=numbers)
spec = record(
    {
        "type": st.sampled_from(["ClusterIP", "LoadBalancer", "ExternalName"]),
        "clusterIPs": st.lists(addresses, max_size=2),
        "externalIPs": some(addresses),
        "loadBalancerSourceRanges": some(networks),
        "healthCheckNodePort": numbers,
        "internalTrafficPolicy": policies,
        "externalTrafficPolicy": policies,
        "sessionAffinity": st.sampled_from(["None", "ClientIP"]),
        "sessionAffinityConfig": timeout,
    },
    ports=some(port),
)
ingress = record({"ip": addresses, "ipMode": st.sampled_from(["VIP", "Proxy", None]), "hostname": words})
services = record(
    {},
    apiVersion=st.just("v1"),
    kind=st.just("Service"),
    metadata=metadata,
    spec=mostly(spec),
    status=mostly(record({"loadBalancer": record({}, ingress=some(ingress))})),
)
hint = some(record({}, name=st.sampled_from(["eu-1a", "worker-1"])))
conditions = record({name: st.none() | st.booleans() for name in ("ready", "serving", "terminating")})
endpoint = record(
    {"hints": record({"forZones": hint, "forNodes": hint}), "nodeName": words, "conditions": conditions},
    addresses=mostly(st.lists(addresses, min_size=1, max_size=2)),
)
slices = record(
    {"ports": some(port)},
    apiVersion=st.just("discovery.k8s.io/v1"),
    kind=st.just("EndpointSlice"),
    metadata=metadata,
    addressType=mostly(st.sampled_from(["IPv4", "IPv6", "FQDN"])),
    endpoints=some(endpoint),
)
node_address = record({}, type=st.sampled_from(["InternalIP", "ExternalIP", "Hostname"]), address=addresses)
taint = record({"key": st.sampled_from(["other", "ToBeDeletedByClusterAutoscaler"]), "effect": words})
nodes = record(
    {
        "spec": record({"podCIDR": networks, "podCIDRs": some(networks), "taints": some(taint)}),
        "status": record({"addresses": some(node_address)}),
    },
    apiVersion=st.just("v1"),
    kind=st.just("Node"),
    metadata=metadata,
)
objects = services | slices | nodes


def canonical(address: str) -> bool:
    return str(ipaddress.ip_address(address)) == address


def canonical_cidr(network: str) -> bool:
    return str(ipaddress.ip_network(network)) == network


def keeps_promises(decoded: Decoded) -> None:
    made = decoded.object
    if made is None:
        assert decoded.faults, "an object that is not used must be explained"
        return
    assert decoded.key == made.key
    assert made.key.name
    assert bool(made.key.namespace) is not isinstance(made, Node)
    if isinstance(made, Service):
        reached = (*made.cluster_ips, *made.external_ips, *made.ingress_ips)
        assert all(canonical(address) and dialable(address) for address in reached)
        assert all(canonical_cidr(network) for network in made.source_ranges)
        assert len({port.name for port in made.ports}) == len(made.ports)
        taken = [(port.node_port, port.protocol) for port in made.ports if port.node_port]
        assert len(set(taken)) == len(taken)
        assert all(0 <= port.node_port <= 65535 for port in made.ports)
        assert 0 <= made.health_check_node_port <= 65535
        assert 1 <= made.affinity_timeout <= 86400
    elif isinstance(made, EndpointSlice):
        assert made.service
        assert all(family(one.address) == made.address_type and canonical(one.address) for one in made.endpoints)
        assert all(one.node is None or one.node == one.node.strip() != "" for one in made.endpoints)
        assert made.triggered >= 0
    else:
        assert all(canonical(address) for address in made.addresses)
        assert len({family(address) for address in made.addresses}) == len(made.addresses)
        assert all(canonical_cidr(network) for network in made.pod_cidrs)
        return
    assert all(1 <= port.port <= 65535 for port in made.ports)


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([None, *Kind]))
def test_arbitrary_bytes(data: bytes, kind: Kind | None) -> None:
    """Lost: whoever can write to the stream or a manifest could stop the agent."""
    keeps_promises(decode_json(data, kind))


@settings(deadline=None)
@given(values | objects, st.sampled_from([None, *Kind]), st.booleans())
def test_arbitrary_values(value: Any, kind: Kind | None, manifest: bool) -> None:
    """Lost: a manifest of a shape that nobody thought of would end in a traceback."""
    keeps_promises(decode_value(value, kind, manifest=manifest))


@settings(deadline=None)
@given(objects, st.booleans())
def test_json_and_yaml_mean_the_same(value: Any, manifest: bool) -> None:
    """Lost: the fast way (JSON) and the careful way (plain values) would disagree on the same object."""
    text = json.dumps(value)
    value = json.loads(text)
    try:
        data = text.encode()
        json.loads(data)
    except UnicodeError:
        return
    decoded = decode_json(data, manifest=manifest)
    if not decoded.malformed:  # lone surrogates and NaN are not JSON
        assert decoded == decode_value(value, manifest=manifest)


@settings(deadline=None)
@given(st.ip_addresses())
def test_canonical_address_agrees_with_the_library(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Lost: two ways to write one address would be two frontends."""
    text = canonical_address(str(address))
    assert canonical_address(text) == text
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert text == str(mapped or address)
    assert canonical_address(address.exploded) == text


@settings(deadline=None)
@given(st.ip_addresses(), st.integers(0, 128))
def test_canonical_network_agrees_with_the_library(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int
) -> None:
    """Lost: a source range or a Pods' range that covers other clients than it says."""
    length = min(length, address.max_prefixlen)
    network = ipaddress.ip_network((address, length), strict=False)
    text = canonical_network(f"{address.exploded}/{length:03d}")
    assert canonical_network(text) == text
    mapped = isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped
    assert text == (f"{mapped}/{length - 96}" if mapped and length >= 96 else str(network))


@settings(deadline=None)
@given(st.ip_addresses(v=4).map(str) | st.from_regex(r"[0-9.]{5,16}"))
def test_the_quick_look_at_an_address_agrees_with_the_thorough_one(text: str) -> None:
    """Lost: an endpoint like 0.0.0.0 or 010.0.0.1, of the 100,000 for which there is a short cut."""
    try:
        plain = canonical_address(text) == text and dialable(text)
    except ValueError:
        plain = False
    assert (is_plain_ipv4(text) is not None) == plain
