"""Objects as the API and manifests write them, and what decoding makes of them."""

from __future__ import annotations

import json
from typing import Any

from spliceway.model import EndpointSlice, Node, Service
from spliceway.source.decode import Decoded, decode_json, decode_value
from spliceway.source.salvage import path_text

Json = dict[str, Any]


def service(spec: Json | None = None, status: Json | None = None, **metadata: Any) -> Json:
    """Service ``default/shop`` with port 80."""
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "shop", "namespace": "default", **metadata},
        "spec": {"clusterIP": "10.96.0.10", "ports": ports, **(spec or {})},
        **({"status": status} if status is not None else {}),
    }


def endpoint_slice(metadata: Json | None = None, **fields: Any) -> Json:
    """A slice of that Service with one endpoint."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "shop-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "shop"},
            **(metadata or {}),
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}],
        **fields,
    }


def node(spec: Json | None = None, addresses: Any = None, **metadata: Any) -> Json:
    """Node ``worker-1``."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "worker-1", **metadata},
        "spec": spec or {},
        "status": {"addresses": addresses},
    }


def both_ways(value: Json, *, manifest: bool = False) -> Decoded:
    """Decode an object from JSON and from plain values: a manifest must not mean one thing in YAML, another in JSON."""
    from_json = decode_json(json.dumps(value).encode(), manifest=manifest)
    assert decode_value(value, manifest=manifest) == from_json
    return from_json


def made_service(value: Json) -> Service:
    """The Service, which is used although something of it may be bad."""
    made = both_ways(value).object
    assert isinstance(made, Service)
    return made


def made_slice(value: Json, *, manifest: bool = False) -> EndpointSlice:
    """The slice, which is used although something of it may be bad."""
    made = both_ways(value, manifest=manifest).object
    assert isinstance(made, EndpointSlice)
    return made


def made_node(value: Json) -> Node:
    """The Node, which is used although something of it may be bad."""
    made = both_ways(value).object
    assert isinstance(made, Node)
    return made


def faults(decoded: Decoded) -> dict[str, str]:
    """What is wrong, by field."""
    return {path_text(fault.path): fault.message for fault in decoded.faults}
