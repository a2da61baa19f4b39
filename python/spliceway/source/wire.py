"""The Kubernetes JSON that is read, reduced to the fields that are used: what `msgspec` decodes and nothing more.

Unknown fields are skipped without being allocated. Every optional field may also be ``null``, as the API server writes
it. Defaults and rules are applied by `spliceway.source.decode`, not here.
"""

from __future__ import annotations

import msgspec

from spliceway.model import Kind

#: the ``apiVersion`` under which each kind is read
API_VERSIONS = {Kind.SERVICE: "v1", Kind.ENDPOINT_SLICE: "discovery.k8s.io/v1", Kind.NODE: "v1"}

#: annotations with this prefix tune a Service or the endpoints of a slice (``spliceway.io/balance``)
TUNING_PREFIX = "spliceway.io/"


class Labels(msgspec.Struct, gc=False):
    """The labels that have a meaning here (S-01, E-01, T-10)."""

    proxy_name: str | None = msgspec.field(default=None, name="service.kubernetes.io/service-proxy-name")
    service_name: str | None = msgspec.field(default=None, name="kubernetes.io/service-name")
    zone: str | None = msgspec.field(default=None, name="topology.kubernetes.io/zone")


class Metadata(msgspec.Struct, gc=False, rename="camel"):
    """``metadata`` of all kinds."""

    name: str | None = None
    namespace: str | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: Labels | None = None
    annotations: dict[str, str] | None = None


class ServicePort(msgspec.Struct, gc=False, rename="camel"):
    """One entry of ``spec.ports`` of a Service."""

    port: int
    name: str | None = None
    protocol: str | None = None
    node_port: int | None = None


class ClientIpConfig(msgspec.Struct, gc=False, rename="camel"):
    """``spec.sessionAffinityConfig.clientIP`` of a Service."""

    timeout_seconds: int | None = None


class AffinityConfig(msgspec.Struct, gc=False):
    """``spec.sessionAffinityConfig`` of a Service."""

    client_ip: ClientIpConfig | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(msgspec.Struct, gc=False, rename="camel"):
    """``spec`` of a Service."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ports: list[ServicePort] | None = None
    session_affinity: str | None = None
    session_affinity_config: AffinityConfig | None = None
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    load_balancer_source_ranges: list[str] | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    health_check_node_port: int | None = None


class Ingress(msgspec.Struct, gc=False, rename="camel"):
    """One entry of ``status.loadBalancer.ingress`` of a Service; one with only a host name has no ``ip``."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancer(msgspec.Struct, gc=False):
    """``status.loadBalancer`` of a Service."""

    ingress: list[Ingress] | None = None


class ServiceStatus(msgspec.Struct, gc=False, rename="camel"):
    """``status`` of a Service."""

    load_balancer: LoadBalancer | None = None


class Service(msgspec.Struct, gc=False, tag_field="kind", tag="Service", rename="camel"):
    """A v1 Service."""

    metadata: Metadata
    spec: ServiceSpec
    api_version: str = ""
    status: ServiceStatus | None = None


class SlicePort(msgspec.Struct, gc=False):
    """One entry of ``ports`` of an EndpointSlice."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class Conditions(msgspec.Struct, gc=False):
    """``conditions`` of an endpoint; None stands for the default (E-06)."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(msgspec.Struct, gc=False):
    """One entry of ``hints.forZones`` or ``hints.forNodes`` of an endpoint."""

    name: str


class Hints(msgspec.Struct, gc=False, rename="camel"):
    """``hints`` of an endpoint (E-08)."""

    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class Endpoint(msgspec.Struct, gc=False, rename="camel"):
    """One entry of ``endpoints`` of an EndpointSlice."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    hints: Hints | None = None


class EndpointSlice(msgspec.Struct, gc=False, tag_field="kind", tag="EndpointSlice", rename="camel"):
    """A discovery.k8s.io/v1 EndpointSlice."""

    metadata: Metadata
    address_type: str
    api_version: str = ""
    ports: list[SlicePort] | None = None
    endpoints: list[Endpoint] | None = None


class Taint(msgspec.Struct, gc=False):
    """One entry of ``spec.taints`` of a Node."""

    key: str = ""


class NodeSpec(msgspec.Struct, gc=False):
    """``spec`` of a Node."""

    pod_cidr: str | None = msgspec.field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")
    taints: list[Taint] | None = None


class NodeAddress(msgspec.Struct, gc=False):
    """One entry of ``status.addresses`` of a Node."""

    type: str
    address: str


class NodeStatus(msgspec.Struct, gc=False):
    """``status`` of a Node."""

    addresses: list[NodeAddress] | None = None


class Node(msgspec.Struct, gc=False, tag_field="kind", tag="Node", rename="camel"):
    """A v1 Node."""

    metadata: Metadata
    api_version: str = ""
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class ListMetadata(msgspec.Struct, rename="camel"):
    """``metadata`` of one page of a list."""

    resource_version: str = ""
    continue_token: str = msgspec.field(default="", name="continue")


class ListPage(msgspec.Struct):
    """One page of a list request. The items stay raw, so that one bad object spoils only itself."""

    metadata: ListMetadata
    items: list[msgspec.Raw] | None = None


class WatchLine(msgspec.Struct):
    """One line of a watch stream."""

    type: str
    object: msgspec.Raw


class BookmarkMetadata(msgspec.Struct, rename="camel"):
    """``metadata`` of a bookmark."""

    resource_version: str


class Bookmark(msgspec.Struct):
    """The object of a BOOKMARK event: only a resource version."""

    metadata: BookmarkMetadata


class Status(msgspec.Struct):
    """What the API server answers instead of an object when it refuses."""

    code: int | None = None
    reason: str | None = None
    message: str | None = None
