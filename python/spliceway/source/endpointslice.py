"""An EndpointSlice of the wire becomes an EndpointSlice of the model (E-01 to E-08, W-13). Pure."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from spliceway.model import EndpointSlice, ObjectKey, SliceEndpoint, SlicePort
from spliceway.source import wire
from spliceway.source.address import canonical_address, dialable, family, is_plain_ipv4
from spliceway.source.fields import port_is_sound, protocol_of
from spliceway.source.salvage import Fault, convert_parts, convert_texts, convert_whole, lift, mapping_of
from spliceway.source.salvage import Path as FieldPath
from spliceway.source.service import tuning_of

_LEFT_OUT = "; this endpoint is left out"
_SERVICE_LABEL = "kubernetes.io/service-name"
_TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
#: RFC 3339, which `datetime.fromisoformat` reads among much else
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_DEFAULT_CONDITIONS = wire.Conditions()


class Parts(NamedTuple):
    """The parts of an EndpointSlice of which each may be bad on its own, with their indices."""

    ports: list[tuple[int, wire.SlicePort]]
    endpoints: list[tuple[int, wire.Endpoint]]
    annotations: dict[str, str]


def parts_of(found: wire.EndpointSlice) -> Parts:
    """The parts of an EndpointSlice that decoded as a whole."""
    annotations = found.metadata.annotations or {}
    return Parts(list(enumerate(found.ports or ())), list(enumerate(found.endpoints or ())), annotations)


def salvage(value: dict[Any, Any], faults: list[Fault]) -> tuple[wire.EndpointSlice, Parts]:
    """Convert an EndpointSlice that does not decode as a whole: itself, and what is good of its parts.

    Raises `spliceway.source.salvage.UnusableError` when a field is bad that it cannot do without.
    """
    metadata, annotations = lift(mapping_of(value, "metadata"), "annotations")
    rest, ports = lift(value, "ports")
    rest, endpoints = lift(rest, "endpoints")
    found = convert_whole({**rest, "metadata": metadata}, wire.EndpointSlice, (), faults)
    texts = convert_texts(annotations, wire.TUNING_PREFIX, ("metadata", "annotations"), faults)
    trigger = annotations.get(_TRIGGER) if isinstance(annotations, dict) else None
    if isinstance(trigger, str):
        texts[_TRIGGER] = trigger
    return found, Parts(
        convert_parts(ports, wire.SlicePort, ("ports",), faults),
        convert_parts(endpoints, wire.Endpoint, ("endpoints",), faults, ("hints",)),
        texts,
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
    parts: Parts,
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
        ports=_ports(parts.ports, default_name, faults),
        endpoints=_endpoints(parts.endpoints, found.address_type, faults),
        resource_version=found.metadata.resource_version or "",
        tuning=tuning_of(parts.annotations),
        triggered=_seconds(parts.annotations.get(_TRIGGER)),
    )


def _seconds(text: str | None) -> float:
    """A time of RFC 3339 in seconds since the epoch; 0 for none, and for one that cannot be read (W-13)."""
    if text is None or not _INSTANT.fullmatch(text):
        return 0.0
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp())
    except ValueError:  # no such day or hour
        return 0.0


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
    return _shared_ports(tuple(made))


@lru_cache(maxsize=4096)
def _shared_ports(ports: tuple[SlicePort, ...]) -> tuple[SlicePort, ...]:
    """Equal tuples of ports become one: thousands of slices have the same."""
    return ports


def _endpoints(
    endpoints: list[tuple[int, wire.Endpoint]], address_type: str, faults: list[Fault]
) -> tuple[SliceEndpoint, ...]:
    """The endpoints with a usable first address (E-05), conditions by default ready, serving, running (E-06)."""
    made: list[SliceEndpoint] = []
    ipv4 = address_type == "IPv4"
    for index, endpoint in endpoints:
        if not endpoint.addresses:
            continue
        text = endpoint.addresses[0]
        address = text if ipv4 and is_plain_ipv4(text) else _address(text, index, address_type, faults)
        if address is None:
            continue
        conditions = endpoint.conditions or _DEFAULT_CONDITIONS
        ready, serving = conditions.ready is not False, conditions.serving is not False
        terminating = conditions.terminating is True
        node = endpoint.node_name.strip() if endpoint.node_name else None
        node = sys.intern(node) if node else None
        hints = endpoint.hints
        if hints is None:
            made.append(SliceEndpoint(address, ready, serving, terminating, node))
        else:
            zones, nodes = _names(hints.for_zones), _names(hints.for_nodes)
            made.append(SliceEndpoint(address, ready, serving, terminating, node, zones, nodes))
    return tuple(made)


def _address(text: str, index: int, address_type: str, faults: list[Fault]) -> str | None:
    """The first address of an endpoint, canonical; None and a fault when it is not one of this type."""
    try:
        address = canonical_address(text)
    except ValueError:
        address = ""
    if address and family(address) == address_type and dialable(address):
        return address
    wrong = "an address of another family" if address and dialable(address) else "not the address of an endpoint"
    message = f"{text[:64]!r} is {wrong} (addressType {address_type}){_LEFT_OUT}"
    faults.append(Fault(("endpoints", index, "addresses", 0), message))
    return None


def _names(hints: list[wire.Hint] | None) -> tuple[str, ...]:
    """The names of the zones or nodes that are hinted at (E-08)."""
    return _shared_names(tuple([hint.name for hint in hints])) if hints else ()


@lru_cache(maxsize=8192)
def _shared_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Equal hints become one: there are as many as zones and nodes, on every endpoint."""
    return names
