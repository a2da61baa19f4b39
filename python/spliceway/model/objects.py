"""Kubernetes objects, reduced to the fields that are used."""

from __future__ import annotations

import msgspec

from spliceway.model.names import Kind, ObjectKey, Protocol


class ServicePortSpec(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``spec.ports`` of a Service. ``node_port`` 0: none."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0


class Service(msgspec.Struct, frozen=True, gc=False):
    """A Service, reduced to what the plan needs. Addresses are canonical."""

    key: ObjectKey
    type: str
    cluster_ips: tuple[str, ...]
    ports: tuple[ServicePortSpec, ...]
    session_affinity: str = "None"
    #: seconds that a client stays with its backend after its last new flow (S-08)
    affinity_timeout: int = 10800
    #: ``spec.externalIPs`` (S-05), and ``status.loadBalancer.ingress[].ip`` with ipMode unset or VIP (S-06)
    external_ips: tuple[str, ...] = ()
    ingress_ips: tuple[str, ...] = ()
    #: ``spec.loadBalancerSourceRanges`` as canonical CIDRs of both families (S-07); empty: everyone may come
    source_ranges: tuple[str, ...] = ()
    #: ``internalTrafficPolicy: Local`` and ``externalTrafficPolicy: Local``, as written (S-10 is the plan's)
    internal_local: bool = False
    external_local: bool = False
    #: 0: none
    health_check_node_port: int = 0
    #: value of label ``service.kubernetes.io/service-proxy-name`` (S-01), None when absent
    proxy_name: str | None = None
    #: annotations under ``spliceway.io/``, the prefix removed
    tuning: tuple[tuple[str, str], ...] = ()
    resource_version: str = ""
    #: ``metadata.creationTimestamp`` as written; empty when unknown. The oldest claimant of an address wins (S-14)
    created: str = ""


class SlicePort(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``ports`` of an EndpointSlice that has a name and a port (E-03)."""

    name: str
    protocol: Protocol
    port: int


class SliceEndpoint(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``endpoints`` of an EndpointSlice; conditions have their defaults applied (E-06)."""

    address: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str | None = None
    #: ``hints.forZones`` and ``hints.forNodes`` (E-08)
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()


class EndpointSlice(msgspec.Struct, frozen=True, gc=False):
    """An EndpointSlice of addressType IPv4 or IPv6. ``service`` is label ``kubernetes.io/service-name`` (E-01)."""

    key: ObjectKey
    service: str
    address_type: str
    ports: tuple[SlicePort, ...]
    endpoints: tuple[SliceEndpoint, ...]
    resource_version: str = ""
    #: annotations under ``spliceway.io/``, the prefix removed
    tuning: tuple[tuple[str, str], ...] = ()
    #: annotation ``endpoints.kubernetes.io/last-change-trigger-time`` in seconds since the epoch; 0: none (W-13)
    triggered: float = 0.0


class Node(msgspec.Struct, frozen=True, gc=False):
    """The Node that the agent runs on, reduced to what the agent needs (section 3.5). Its namespace is ""."""

    key: ObjectKey
    #: label ``topology.kubernetes.io/zone``; empty when absent (T-10)
    zone: str = ""
    #: the node IPs: the first InternalIP (else ExternalIP), and the first of the other family (W-23)
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    #: False: being deleted, or tainted ``ToBeDeletedByClusterAutoscaler`` (H-09)
    eligible: bool = True
    resource_version: str = ""


KubernetesObject = Service | EndpointSlice | Node

_KINDS: dict[type, Kind] = {Service: Kind.SERVICE, EndpointSlice: Kind.ENDPOINT_SLICE, Node: Kind.NODE}


def kind_of(obj: KubernetesObject) -> Kind:
    """Return the kind of a decoded object."""
    return _KINDS[type(obj)]
