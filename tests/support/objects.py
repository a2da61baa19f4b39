"""Short ways to write the objects that the pipeline is fed with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spliceway.model import (
    EndpointSlice,
    KubernetesObject,
    Node,
    ObjectKey,
    Protocol,
    Service,
    ServicePortSpec,
    SliceEndpoint,
    SlicePort,
    Upsert,
)

Ports = dict[str, int | tuple[int, str]]


def service(name: str, *ips: str, ports: Ports | None = None, **more: Any) -> Service:
    """Service ``default/name``; ports as ``{"http": 80}`` or ``{"dns": (53, "UDP")}``."""
    specs = tuple(ServicePortSpec(port, *_split(number)) for port, number in (ports or {"": 80}).items())
    return Service(ObjectKey("default", name), more.pop("type", "ClusterIP"), ips, specs, **more)


def endpoints(
    name: str, *addresses: str | SliceEndpoint, of: str = "", ports: Ports | None = None, family: str = "IPv4"
) -> EndpointSlice:
    """Slice ``default/name`` of Service ``of`` (by default: the name up to the first dot)."""
    each = tuple(SliceEndpoint(one) if isinstance(one, str) else one for one in addresses)
    specs = tuple(SlicePort(port, *_split(number)) for port, number in (ports or {"": 8080}).items())
    return EndpointSlice(ObjectKey("default", name), of or name.split(".")[0], family, specs, each)


def ready(address: str) -> SliceEndpoint:
    return SliceEndpoint(address)


def terminating(address: str, *, serving: bool = True) -> SliceEndpoint:
    return SliceEndpoint(address, ready=False, serving=serving, terminating=True)


def unready(address: str) -> SliceEndpoint:
    """Not ready but serving, and not terminating (T-04)."""
    return SliceEndpoint(address, ready=False)


def node(name: str, *addresses: str, **more: Any) -> Node:
    """Node ``name`` with these node IPs."""
    return Node(ObjectKey("", name), addresses=addresses, **more)


def upserts(objects: Iterable[KubernetesObject], origin: str = "api") -> tuple[Upsert, ...]:
    return tuple(Upsert(origin, each) for each in objects)


def key(name: str) -> ObjectKey:
    return ObjectKey("default", name)


def _split(port: int | tuple[int, str]) -> tuple[Protocol, int]:
    return (Protocol.TCP, port) if isinstance(port, int) else (Protocol(port[1]), port[0])
