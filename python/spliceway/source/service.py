"""A Service of the wire becomes a Service of the model (S-03 to S-10, S-12, S-13). Pure."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any, NamedTuple

from spliceway.model import ObjectKey, Protocol, Service, ServicePortSpec
from spliceway.source import wire
from spliceway.source.fields import optional_port, port_is_sound, protocol_of, shown
from spliceway.source.salvage import (
    Fault,
    convert_parts,
    convert_texts,
    convert_whole,
    lift,
    mapping_of,
    optional_mapping_of,
)
from spliceway.source.salvage import Path as FieldPath
from spliceway.source.serviceaddresses import cluster_ips, external_ips, ingress_ips, source_ranges

_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_AFFINITIES = ("None", "ClientIP")
_LEFT_OUT = "; this port is left out"
#: S-08
_AFFINITY_TIMEOUT = 10800
_LONGEST_AFFINITY = 86400
#: fields of ``spec`` without which a Service is still served
_OPTIONAL = (
    "sessionAffinityConfig",
    "internalTrafficPolicy",
    "externalTrafficPolicy",
    "healthCheckNodePort",
)


class Parts(NamedTuple):
    """The parts of a Service of which each may be bad on its own, with their indices."""

    ports: list[tuple[int, wire.ServicePort]]
    external_ips: list[tuple[int, str]]
    source_ranges: list[tuple[int, str]]
    ingress: list[tuple[int, wire.Ingress]]
    annotations: dict[str, str]


def parts_of(found: wire.Service) -> Parts:
    """The parts of a Service that decoded as a whole."""
    spec = found.spec
    balancer = found.status.load_balancer if found.status else None
    return Parts(
        list(enumerate(spec.ports or ())),
        list(enumerate(spec.external_ips)) if spec.external_ips else [],
        list(enumerate(spec.load_balancer_source_ranges)) if spec.load_balancer_source_ranges else [],
        list(enumerate(balancer.ingress)) if balancer and balancer.ingress else [],
        found.metadata.annotations or {},
    )


def salvage(value: dict[Any, Any], faults: list[Fault]) -> tuple[wire.Service, Parts]:
    """Convert a Service that does not decode as a whole: itself, and what is good of its parts.

    Raises `spliceway.source.salvage.UnusableError` when a field is bad that it cannot do without.
    """
    metadata, annotations = lift(mapping_of(value, "metadata"), "annotations")
    spec, ports = lift(mapping_of(value, "spec"), "ports")
    spec, externals = lift(spec, "externalIPs")
    spec, ranges = lift(spec, "loadBalancerSourceRanges")
    found = wire.Service(
        convert_whole(metadata, wire.Metadata, ("metadata",), faults),
        convert_whole(spec, wire.ServiceSpec, ("spec",), faults, _OPTIONAL),
    )
    texts = convert_texts(annotations, wire.TUNING_PREFIX, ("metadata", "annotations"), faults)
    good_ports = convert_parts(ports, wire.ServicePort, ("spec", "ports"), faults, ("nodePort",))
    balancer = optional_mapping_of(optional_mapping_of(value, ("status",), faults), ("status", "loadBalancer"), faults)
    return found, Parts(
        good_ports,
        convert_parts(externals, str, ("spec", "externalIPs"), faults),
        convert_parts(ranges, str, ("spec", "loadBalancerSourceRanges"), faults),
        convert_parts(balancer.get("ingress"), wire.Ingress, ("status", "loadBalancer", "ingress"), faults),
        texts,
    )


def make(key: ObjectKey, found: wire.Service, parts: Parts, faults: list[Fault]) -> Service | None:
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
            faults.append(Fault(path, f"{text[:64]!r} is none of {', '.join(allowed)}"))
            return None
    headless = spec.cluster_ip == "None" or spec.cluster_ips == ["None"]
    made_ports = _ports(parts.ports, faults)
    if not (parts.ports or headless or service_type == "ExternalName" or _named(("spec", "ports"), faults)):
        faults.append(Fault(("spec", "ports"), "is missing: a Service needs at least one port"))
    return Service(
        key=key,
        type=sys.intern(service_type),
        cluster_ips=() if headless else cluster_ips(spec, faults),
        ports=made_ports,
        session_affinity=sys.intern(affinity),
        affinity_timeout=_affinity_timeout(spec, faults) if affinity == "ClientIP" else _AFFINITY_TIMEOUT,
        external_ips=external_ips(parts.external_ips, faults),
        ingress_ips=ingress_ips(parts.ingress, faults),
        source_ranges=source_ranges(parts.source_ranges, faults),
        internal_local=_is_local(spec.internal_traffic_policy, "internalTrafficPolicy", faults),
        external_local=_is_local(spec.external_traffic_policy, "externalTrafficPolicy", faults),
        health_check_node_port=optional_port(spec.health_check_node_port, ("spec", "healthCheckNodePort"), faults),
        proxy_name=meta.labels.proxy_name if meta.labels else None,
        tuning=tuning_of(parts.annotations),
        resource_version=meta.resource_version or "",
        created=meta.creation_timestamp or "",
    )


def tuning_of(annotations: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the annotations under ``spliceway.io/`` without that prefix, in order."""
    prefix = wire.TUNING_PREFIX
    tuning = [(name[len(prefix) :], text) for name, text in annotations.items() if name.startswith(prefix)]
    return _shared_tuning(tuple(sorted(tuning))) if tuning else ()


def _affinity_timeout(spec: wire.ServiceSpec, faults: list[Fault]) -> int:
    """``spec.sessionAffinityConfig.clientIP.timeoutSeconds``, which kube-proxy expects but a manifest may leave out."""
    config = spec.session_affinity_config.client_ip if spec.session_affinity_config else None
    if config is None or config.timeout_seconds is None:
        return _AFFINITY_TIMEOUT
    seconds = config.timeout_seconds
    if 1 <= seconds <= _LONGEST_AFFINITY:
        return seconds
    path = ("spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds")
    faults.append(Fault(path, f"{shown(seconds)} is not 1 to {_LONGEST_AFFINITY}; {_AFFINITY_TIMEOUT} is used"))
    return _AFFINITY_TIMEOUT


def _is_local(policy: str | None, field: str, faults: list[Fault]) -> bool:
    """Say whether a traffic policy is Local; unset, it is Cluster (S-10)."""
    if policy not in (None, "", "Cluster", "Local"):
        faults.append(Fault(("spec", field), f"{str(policy)[:64]!r} is none of Cluster, Local; Cluster is used"))
    return policy == "Local"


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
            node_port = _node_port(port.node_port, protocol, (*path, "nodePort"), made, faults)
            made.append(ServicePortSpec(sys.intern(name), protocol, port.port, node_port))
    return _shared_ports(tuple(made))


def _node_port(
    given: int | None, protocol: Protocol, path: FieldPath, earlier: list[ServicePortSpec], faults: list[Fault]
) -> int:
    """The nodePort of a port, 0 for none; of two that clash, the first."""
    node_port = optional_port(given, path, faults)
    if node_port and any((node_port, protocol) == (other.node_port, other.protocol) for other in earlier):
        message = f"{node_port} with protocol {protocol} is also the nodePort of an earlier port; it is left out"
        faults.append(Fault(path, message))
        return 0
    return node_port


def _named(path: FieldPath, faults: list[Fault]) -> bool:
    """Say whether something is wrong at or below ``path``."""
    return any(fault.path[: len(path)] == path for fault in faults)


@lru_cache(maxsize=4096)
def _shared_ports(ports: tuple[ServicePortSpec, ...]) -> tuple[ServicePortSpec, ...]:
    """Equal tuples of ports become one: thousands of Services have the same."""
    return ports


@lru_cache(maxsize=1024)
def _shared_tuning(tuning: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Equal annotations become one."""
    return tuning
