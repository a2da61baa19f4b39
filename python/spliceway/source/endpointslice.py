"""An EndpointSlice of the wire becomes an EndpointSlice of the model (E-01 to E-06). Pure."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

from spliceway.model import EndpointSlice, ObjectKey, SliceEndpoint, SlicePort
from spliceway.source import wire
from spliceway.source.address import canonical_address, dialable, family
from spliceway.source.salvage import Fault, convert_parts, lift
from spliceway.source.salvage import Path as FieldPath
from spliceway.source.service import convert_whole, mapping_of, port_is_sound, protocol_of

_LEFT_OUT = "; this endpoint is left out"
_SERVICE_LABEL = "kubernetes.io/service-name"
_DEFAULT_CONDITIONS = wire.Conditions()


def salvage(
    value: dict[Any, Any], faults: list[Fault]
) -> tuple[wire.EndpointSlice, list[tuple[int, wire.SlicePort]], list[tuple[int, wire.Endpoint]]]:
    """Convert an EndpointSlice that does not decode as a whole: itself, its good ports and its good endpoints.

    Raises `spliceway.source.service.UnusableError` when a field is bad that is not one of many.
    """
    metadata, _ = lift(mapping_of(value, "metadata"), "annotations")
    rest, ports = lift(value, "ports")
    rest, endpoints = lift(rest, "endpoints")
    found = convert_whole({**rest, "metadata": metadata}, wire.EndpointSlice)
    return (
        found,
        convert_parts(ports, wire.SlicePort, ("ports",), faults),
        convert_parts(endpoints, wire.Endpoint, ("endpoints",), faults),
    )


def reason_to_ignore(found: wire.EndpointSlice) -> Fault | None:
    """Return why a sound slice is not used: it belongs to no Service (E-01), or it holds names (E-02)."""
    labels = found.metadata.labels
    if labels is None or not labels.service_name:
        return Fault(("metadata", "labels"), f"{_SERVICE_LABEL} is missing: it belongs to no Service; left alone", True)
    if found.address_type == "FQDN":
        return Fault(("addressType",), "FQDN is not served, as by kube-proxy; left alone", True)
    return None


def make(
    key: ObjectKey,
    found: wire.EndpointSlice,
    ports: list[tuple[int, wire.SlicePort]],
    endpoints: list[tuple[int, wire.Endpoint]],
    faults: list[Fault],
    *,
    default_name: str | None,
) -> EndpointSlice | None:
    """Return the slice; add faults for what of it cannot be used. None: its address type is unknown.

    ``default_name`` is the name of a port that has none; None: such a port is skipped (E-03).
    """
    if found.address_type not in ("IPv4", "IPv6"):
        shown = found.address_type[:64]
        faults.append(Fault(("addressType",), f"{shown!r} is none of IPv4, IPv6, FQDN"))
        return None
    labels = found.metadata.labels
    return EndpointSlice(
        key=key,
        service=sys.intern((labels.service_name if labels else None) or ""),
        address_type=sys.intern(found.address_type),
        ports=_ports(ports, default_name, faults),
        endpoints=_endpoints(endpoints, found.address_type, faults),
        resource_version=found.metadata.resource_version or "",
    )


def _ports(
    ports: list[tuple[int, wire.SlicePort]], default_name: str | None, faults: list[Fault]
) -> tuple[SlicePort, ...]:
    """The ports with a name and a number (E-03)."""
    made: list[SlicePort] = []
    for index, port in ports:
        path: FieldPath = ("ports", index)
        name = default_name if port.name is None else port.name
        if name is None:
            continue
        if port.port is None:
            message = "is missing, and 'all ports' is not served; this port is left out"
            faults.append(Fault((*path, "port"), message, warning=True))
            continue
        protocol = protocol_of(port.protocol, path, faults)
        if protocol is not None and port_is_sound(port.port, name, path, faults):
            made.append(SlicePort(sys.intern(name), protocol, port.port))
    return _shared(tuple(made))


@lru_cache(maxsize=4096)
def _shared(ports: tuple[SlicePort, ...]) -> tuple[SlicePort, ...]:
    """Equal tuples of ports become one: thousands of slices have the same."""
    return ports


def _endpoints(
    endpoints: list[tuple[int, wire.Endpoint]], address_type: str, faults: list[Fault]
) -> tuple[SliceEndpoint, ...]:
    """The endpoints with a usable first address (E-05), conditions by default ready, serving, running (E-06)."""
    made: list[SliceEndpoint] = []
    for index, endpoint in endpoints:
        if not endpoint.addresses:
            continue
        text = endpoint.addresses[0]
        try:
            address = canonical_address(text)
        except ValueError:
            address = ""
        if not address or family(address) != address_type or not dialable(address):
            wrong = (
                "an address of another family" if address and dialable(address) else "not the address of an endpoint"
            )
            message = f"{text[:64]!r} is {wrong} (addressType {address_type}){_LEFT_OUT}"
            faults.append(Fault(("endpoints", index, "addresses", 0), message))
            continue
        conditions = endpoint.conditions or _DEFAULT_CONDITIONS
        node = endpoint.node_name
        made.append(
            SliceEndpoint(
                address,
                conditions.ready is not False,
                conditions.serving is not False,
                conditions.terminating is True,
                sys.intern(node) if node else None,
            )
        )
    return tuple(made)
