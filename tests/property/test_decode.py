"""Decoding of arbitrary input: it never raises, and what it makes keeps the model's promises."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from spliceway.model import EndpointSlice, Kind, Service
from spliceway.source.address import canonical_address, family
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
    ]
)
values = st.recursive(
    scalars | words | st.integers(-1, 70000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | st.text(max_size=5), inner, max_size=6),
    max_leaves=30,
)
metadata = st.fixed_dictionaries(
    {"name": words | values, "namespace": words | values},
    optional={
        "labels": st.dictionaries(keys, words | values, max_size=3),
        "annotations": values,
        "resourceVersion": words,
    },
)
services = st.fixed_dictionaries(
    {"apiVersion": st.just("v1"), "kind": st.just("Service"), "metadata": metadata, "spec": values},
) | st.fixed_dictionaries(
    {
        "apiVersion": st.just("v1"),
        "kind": st.just("Service"),
        "metadata": metadata,
        "spec": st.fixed_dictionaries(
            {"ports": st.lists(st.dictionaries(keys, words | st.integers(-1, 70000), max_size=3) | values, max_size=5)},
            optional={"clusterIPs": st.lists(words, max_size=3) | values, "type": words | values},
        ),
    }
)
slices = st.fixed_dictionaries(
    {
        "apiVersion": st.just("discovery.k8s.io/v1"),
        "kind": st.just("EndpointSlice"),
        "metadata": metadata,
        "addressType": words | values,
        "ports": st.lists(st.dictionaries(keys, words | st.integers(-1, 70000), max_size=3) | values, max_size=4),
        "endpoints": st.lists(
            st.fixed_dictionaries({"addresses": st.lists(words, max_size=2) | values}) | values, max_size=4
        ),
    }
)


def keeps_promises(decoded: Decoded) -> None:
    made = decoded.object
    if made is None:
        assert decoded.faults, "an object that is not used must be explained"
        return
    assert decoded.key == made.key
    assert made.key.name
    assert made.key.namespace
    if isinstance(made, Service):
        assert all(str(ipaddress.ip_address(address)) == address for address in made.cluster_ips)
        assert len({port.name for port in made.ports}) == len(made.ports)
    elif isinstance(made, EndpointSlice):
        assert made.service
        assert all(family(endpoint.address) == made.address_type for endpoint in made.endpoints)
        assert all(str(ipaddress.ip_address(one.address)) == one.address for one in made.endpoints)
    assert all(1 <= port.port <= 65535 for port in made.ports)


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([None, *Kind]))
def test_arbitrary_bytes(data: bytes, kind: Kind | None) -> None:
    """Lost: whoever can write to the stream or a manifest could stop the agent."""
    keeps_promises(decode_json(data, kind))


@settings(deadline=None)
@given(values | services | slices, st.sampled_from([None, *Kind]), st.booleans())
def test_arbitrary_values(value: Any, kind: Kind | None, manifest: bool) -> None:
    """Lost: a manifest of a shape that nobody thought of would end in a traceback."""
    keeps_promises(decode_value(value, kind, manifest=manifest))


@settings(deadline=None)
@given(services | slices, st.booleans())
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
