"""A Service of the wire becomes a Service of the model (S-03, S-12, S-13). Pure."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from spliceway.model import ObjectKey, Protocol, Service, ServicePortSpec
from spliceway.source import wire
from spliceway.source.address import canonical_address, dialable
from spliceway.source.salvage import Fault, convert_parts, convert_texts, fault_of, lift
from spliceway.source.salvage import Path as FieldPath

_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_AFFINITIES = ("None", "ClientIP")
_PROTOCOLS = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}
_LAST_PORT = 65535
_Whole = TypeVar("_Whole", wire.Service, wire.EndpointSlice)
_LEFT_OUT = "; this port is left out"


class UnusableError(Exception):
    """Nothing of an object can be used, because of ``fault``."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def salvage(
    value: dict[Any, Any], faults: list[Fault]
) -> tuple[wire.Service, list[tuple[int, wire.ServicePort]], dict[str, str]]:
    """Convert a Service that does not decode as a whole: itself, its good ports, its tuning annotations.

    Raises `UnusableError` when a field is bad that is not one of many.
    """
    metadata, annotations = lift(mapping_of(value, "metadata"), "annotations")
    spec, ports = lift(mapping_of(value, "spec"), "ports")
    found = convert_whole({"metadata": metadata, "spec": spec}, wire.Service)
    texts = convert_texts(annotations, wire.TUNING_PREFIX, ("metadata", "annotations"), faults)
    return found, convert_parts(ports, wire.ServicePort, ("spec", "ports"), faults), texts


def make(
    key: ObjectKey,
    found: wire.Service,
    ports: list[tuple[int, wire.ServicePort]],
    annotations: dict[str, str],
    faults: list[Fault],
) -> Service | None:
    """Return the Service; add faults for what of it cannot be used. None: its type or affinity is unknown.

    A headless Service (``clusterIP: None``) has no ``cluster_ips``, as one without address; the plan skips both (S-03).
    """
    spec, meta = found.spec, found.metadata
    service_type = spec.type or "ClusterIP"
    affinity = spec.session_affinity or "None"
    for path, text, allowed in (
        (("spec", "type"), service_type, _TYPES),
        (("spec", "sessionAffinity"), affinity, _AFFINITIES),
    ):
        if text not in allowed:
            faults.append(Fault(path, f"{text!r} is none of {', '.join(allowed)}"))
            return None
    headless = spec.cluster_ip == "None" or spec.cluster_ips == ["None"]
    made_ports = _ports(ports, faults)
    if not ports and not faults and not headless and service_type != "ExternalName":
        faults.append(Fault(("spec", "ports"), "is missing: a Service needs at least one port"))
    prefix = len(wire.TUNING_PREFIX)
    tuning = tuple(sorted((k[prefix:], v) for k, v in annotations.items() if k.startswith(wire.TUNING_PREFIX)))
    return Service(
        key=key,
        type=sys.intern(service_type),
        cluster_ips=() if headless else _cluster_ips(spec, faults),
        ports=made_ports,
        session_affinity=sys.intern(affinity),
        proxy_name=meta.labels.proxy_name if meta.labels else None,
        tuning=tuning,
        resource_version=meta.resource_version or "",
        created=meta.creation_timestamp or "",
    )


def _cluster_ips(spec: wire.ServiceSpec, faults: list[Fault]) -> tuple[str, ...]:
    """``clusterIPs``, or ``clusterIP`` of an old object (S-04), canonical."""
    if spec.cluster_ips:
        given: list[tuple[FieldPath, str]] = [(("spec", "clusterIPs", i), ip) for i, ip in enumerate(spec.cluster_ips)]
    else:
        given = [(("spec", "clusterIP"), spec.cluster_ip)] if spec.cluster_ip else []
    addresses: list[str] = []
    for path, text in given:
        if not text:
            continue
        try:
            address = canonical_address(text)
        except ValueError:
            faults.append(Fault(path, f"{text[:64]!r} is not an IP address; it is left out"))
            continue
        if not dialable(address):
            faults.append(Fault(path, f"{address} is not an address that clients can dial; it is left out"))
        elif address not in addresses:
            addresses.append(address)
    return tuple(addresses)


def _ports(ports: list[tuple[int, wire.ServicePort]], faults: list[Fault]) -> tuple[ServicePortSpec, ...]:
    """The ports that are sound; of two that clash, the first (S-13)."""
    made: list[ServicePortSpec] = []
    names: set[str] = set()
    numbers: set[tuple[int, Protocol]] = set()
    for index, port in ports:
        path: FieldPath = ("spec", "ports", index)
        name = port.name or ""
        protocol = protocol_of(port.protocol, path, faults)
        if protocol is None or not port_is_sound(port.port, name, path, faults):
            continue
        if not name and len(ports) > 1:
            faults.append(Fault((*path, "name"), "is missing: each of several ports needs a name" + _LEFT_OUT))
        elif name in names:
            faults.append(Fault((*path, "name"), f"{name!r} is also the name of an earlier port" + _LEFT_OUT))
        elif (port.port, protocol) in numbers:
            message = f"{port.port} with protocol {protocol} is also an earlier port" + _LEFT_OUT
            faults.append(Fault((*path, "port"), message))
        else:
            names.add(name)
            numbers.add((port.port, protocol))
            made.append(ServicePortSpec(sys.intern(name), protocol, port.port))
    return _shared(tuple(made))


@lru_cache(maxsize=4096)
def _shared(ports: tuple[ServicePortSpec, ...]) -> tuple[ServicePortSpec, ...]:
    """Equal tuples of ports become one: thousands of Services have the same."""
    return ports


def mapping_of(value: dict[Any, Any], name: str) -> dict[str, Any]:
    """Return the mapping ``name`` of an object. Raises `UnusableError`."""
    found = value.get(name)
    if not isinstance(found, dict):
        raise UnusableError(Fault((name,), "is missing" if found is None else "expected a mapping"))
    return found


def convert_whole(value: dict[str, Any], whole: type[_Whole]) -> _Whole:
    """Convert what is left of an object without its many parts. Raises `UnusableError`."""
    try:
        return msgspec.convert(value, whole)
    except msgspec.ValidationError as error:
        raise UnusableError(fault_of(error)) from None


def name_fault(path: FieldPath, text: str | None) -> Fault | None:
    """Return what is wrong with the name of an object, None when it is sound."""
    if text is None or text == "":
        return Fault(path, "is missing")
    if _NAME.fullmatch(text):
        return None
    return Fault(path, f"{text[:64]!r} is not a name: write lower-case letters, digits, '-' and '.'")


def protocol_of(text: str | None, path: FieldPath, faults: list[Fault]) -> Protocol | None:
    """Return the protocol of a port, TCP by default; None and a fault when it is unknown."""
    protocol = _PROTOCOLS.get(text or "TCP")
    if protocol is None:
        faults.append(Fault((*path, "protocol"), f"{str(text)[:64]!r} is none of TCP, UDP, SCTP" + _LEFT_OUT))
    return protocol


def port_is_sound(port: int, name: str, path: FieldPath, faults: list[Fault]) -> bool:
    """Check number and name of a port; add a fault for the first that is bad."""
    if not 1 <= port <= _LAST_PORT:
        shown = str(port) if abs(port) < 10**12 else "a huge number"
        faults.append(Fault((*path, "port"), f"{shown} is not a port number (1 to 65535)" + _LEFT_OUT))
        return False
    if name and not (len(name) <= 63 and "." not in name and _NAME.fullmatch(name)):
        message = f"{name[:64]!r} is not a port name: write lower-case letters, digits and '-'" + _LEFT_OUT
        faults.append(Fault((*path, "name"), message))
        return False
    return True
