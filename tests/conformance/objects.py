"""The Kubernetes objects of a scenario, and the addresses at which clients reach them."""

from __future__ import annotations

import itertools
from typing import Any

from cluster.api import Api, Object
from support.nodes import OUTSIDE, VIP_CIDRS, Node, Rig, each

from .scenario import (
    CLUSTER_IP,
    EXTERNAL_IP,
    LB_PROXY,
    LB_VIP,
    LOCALHOST,
    NODE_PORT,
    NODE_PORT_2,
    NODE_PORT_OTHER,
    PLACES,
    ZONES,
    Cell,
    Config,
    Endpoint,
)

PORT, TARGET_PORT, HOST_PORT = 80, 8080, 9080
#: Services created at once
CREATORS = 8
#: CIDRs that none of the rig's clients is in
NOBODY = ("203.0.113.0/24", "2001:db8::/64")
_VIP4, _VIP6 = (cidr.partition("/")[0] for cidr in VIP_CIDRS)


class Objects:
    """Nodes, Services and slices in the API, made once for all contestants, and the addresses that clients dial."""

    def __init__(self, rig: Rig) -> None:
        """The rig needs not run: only its plan of addresses is read."""
        self._rig = rig
        self._services: dict[str, Object] = {}
        #: the number of a Service makes its external IPs (…1.N) and load balancer's IPs (…2.N)
        self._numbers: dict[Config, int] = {}

    def create(self, api: Api, configs: list[Config]) -> None:
        """Create everything. Raises ApiError."""
        each(self._rig.nodes, lambda node: api.create(node.manifest()))
        self._numbers = dict(zip(configs, itertools.count(1), strict=False))
        each(configs, lambda config: self._create(api, config), at_once=CREATORS)

    def add(self, api: Api, body: Object, endpoints: tuple[Endpoint, ...]) -> None:
        """Create a Service and its slices, beside those of the configs. Raises ApiError."""
        name = body["metadata"]["name"]
        created = api.create(body)
        self._services[name] = created
        for family in (4, 6):
            api.create(self._slice(name, endpoints, family))

    def service(self, name: str) -> Object:
        """A Service as the API server stored it."""
        return self._services[name]

    def address(self, cell: Cell) -> tuple[str, int]:
        """What the client of a cell dials."""
        service = self._services[cell.config.name]
        index = 0 if cell.family == 4 else 1
        if cell.frontend == CLUSTER_IP:
            return service["spec"]["clusterIPs"][index], PORT
        if cell.frontend == EXTERNAL_IP:
            return self._vips(cell.config, 1)[index], PORT
        if cell.frontend == LB_VIP:
            return self._vips(cell.config, 2)[index], PORT
        if cell.frontend == LB_PROXY:
            return OUTSIDE[index], PORT
        return self._node_address(cell.frontend)[index], self.node_port(cell.config.name, cell.protocol)

    def node_port(self, name: str, protocol: str) -> int:
        """The NodePort of a Service. Raises StopIteration if it has none."""
        ports = self._services[name]["spec"]["ports"]
        return int(next(port["nodePort"] for port in ports if port["protocol"] == protocol))

    def _node_address(self, frontend: str) -> tuple[str, str]:
        first, second = self._rig.nodes[:2]
        return {
            NODE_PORT: first.hosts,
            NODE_PORT_OTHER: first.others,
            NODE_PORT_2: second.hosts,
            LOCALHOST: ("127.0.0.1", "::1"),
        }[frontend]

    def _vips(self, config: Config, kind: int) -> tuple[str, str]:
        number = self._numbers[config]
        return f"{_VIP4.rpartition('.')[0].rpartition('.')[0]}.{kind}.{number}", f"{_VIP6}{kind}:{number}"

    def _create(self, api: Api, config: Config) -> None:
        self.add(api, self._service(config), config.endpoints)
        if config.reach == "all":
            ingress = [{"ip": ip, "ipMode": "VIP"} for ip in self._vips(config, 2)]
            ingress += [{"ip": ip, "ipMode": "Proxy"} for ip in OUTSIDE]
            status = {"status": {"loadBalancer": {"ingress": ingress}}}
            api.patch("Service", config.name, status, subresource="status")

    def _service(self, config: Config) -> Object:
        spec: dict[str, Any] = {
            "type": "LoadBalancer" if config.reach == "all" else "ClusterIP",
            "internalTrafficPolicy": "Local" if config.internal_local else "Cluster",
        }
        if config.externally_accessible:
            spec["externalIPs"] = list(self._vips(config, 1))
            spec["externalTrafficPolicy"] = "Local" if config.external_local else "Cluster"
        if config.ranges:
            spec["loadBalancerSourceRanges"] = self._ranges(config.ranges)
        return service(config.name, **spec)

    def _ranges(self, ranges: str) -> list[str]:
        node = self._rig.node(1)
        allowed = [node.pod(3), node, self._rig.external]
        return {
            "some": [f"{host}/{32 if '.' in host else 128}" for place in allowed for host in place.hosts],
            "others": list(NOBODY),
            "other-family": [NOBODY[0]],
        }[ranges]

    def _slice(self, name: str, endpoints: tuple[Endpoint, ...], family: int) -> Object:
        on_host = any(endpoint.place in ZONES for endpoint in endpoints)
        port = HOST_PORT if on_host else TARGET_PORT
        return {
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-v{family}", "labels": {"kubernetes.io/service-name": name}},
            "addressType": f"IPv{family}",
            "ports": [{"name": protocol.lower(), "protocol": protocol, "port": port} for protocol in ("TCP", "UDP")],
            "endpoints": [self._endpoint(endpoint, family) for endpoint in endpoints],
        }

    def _endpoint(self, endpoint: Endpoint, family: int) -> Object:
        hints: Object = {}
        if endpoint.zones:
            hints["forZones"] = [{"name": zone} for zone in endpoint.zones]
        if endpoint.nodes:
            hints["forNodes"] = [{"name": node} for node in endpoint.nodes]
        place = next(host for host in self._rig.hosts if host.name == endpoint.place)
        return {
            "addresses": [place.host(family)],
            "conditions": {
                "ready": endpoint.ready,
                "serving": endpoint.serving,
                "terminating": endpoint.terminating,
            },
            "nodeName": endpoint.node,
            "zone": ZONES[endpoint.node],
            **({"hints": hints} if hints else {}),
        }


def service(name: str, **spec: Any) -> Object:
    """A dual-stack Service with a TCP and a UDP port."""
    ports = [{"name": protocol.lower(), "protocol": protocol, "port": PORT} for protocol in ("TCP", "UDP")]
    families = {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}
    return {"kind": "Service", "metadata": {"name": name}, "spec": {**families, "ports": ports, **spec}}


def serve_everywhere(rig: Rig) -> None:
    """Start the backends of all places, and the load balancer outside. Raises NamespaceError."""
    hosts = [host for host in rig.hosts if host.name in PLACES]
    each(hosts, lambda host: host.namespace.serve(host.name, host.hosts, _port_of(host)))
    rig.hub.namespace.serve("outside", OUTSIDE, PORT)


def _port_of(host: object) -> int:
    return HOST_PORT if isinstance(host, Node) else TARGET_PORT
