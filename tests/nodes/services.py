"""Services and EndpointSlices of a test in the real API, changed as users and the slice controller change them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple, Self

from cluster.api import Api, ApiError, Object
from support.nodes import Host, Node, Pod, each
from support.probes import Protocol

#: where every Pod and every node of the rig serves, by TCP and UDP, under its own name
POD_PORT, HOST_PORT = 8080, 9080
PORT = 80
PROXY_NAME = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
_OWNER = "kubernetes.io/service-name"


class Target(NamedTuple):
    """What a client dials."""

    protocol: Protocol
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.protocol} [{self.host}]:{self.port}"


class Endpoint(NamedTuple):
    """One endpoint of a slice; in the state that a ready Pod has, if nothing else is said."""

    place: Host
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    #: hints
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    @property
    def node(self) -> str:
        """Name of its node."""
        return self.place.node.name if isinstance(self.place, Pod) else self.place.name

    def body(self, family: int) -> Object:
        """Its entry in a slice of a family."""
        hints: Object = {}
        if self.zones:
            hints["forZones"] = [{"name": zone} for zone in self.zones]
        if self.nodes:
            hints["forNodes"] = [{"name": node} for node in self.nodes]
        conditions = {"ready": self.ready, "serving": self.serving, "terminating": self.terminating}
        body = {"addresses": [self.place.host(family)], "conditions": conditions, "nodeName": self.node}
        return {**body, "hints": hints} if hints else body


def terminating(place: Host) -> Endpoint:
    """Being deleted, and still serving."""
    return Endpoint(place, ready=False, terminating=True)


def unready(place: Host) -> Endpoint:
    """Its readiness probe fails."""
    return Endpoint(place, ready=False, serving=False)


def tcp(port: int = PORT, name: str = "tcp", **more: Any) -> Object:
    """A port of a Service."""
    return {"name": name, "protocol": "TCP", "port": port, **more}


def udp(port: int = PORT, name: str = "udp", **more: Any) -> Object:
    """A port of a Service."""
    return {"name": name, "protocol": "UDP", "port": port, **more}


class Service:
    """One Service, of both families, and its slices."""

    def __init__(self, api: Api, name: str, families: tuple[int, ...] = (4, 6)) -> None:
        self.api = api
        self.name = name
        self.families = families
        self.body: Object = {}
        self._slices: set[str] = set()

    # --- the Service

    def create(self, *ports: Object, labels: dict[str, str] | None = None, **spec: Any) -> Self:
        """Create it with these ports; with none, TCP and UDP 80. Raises ApiError."""
        families = [f"IPv{family}" for family in self.families]
        if spec.get("type") != "ExternalName":
            policy = "RequireDualStack" if len(families) > 1 else "SingleStack"
            spec = {"ipFamilies": families, "ipFamilyPolicy": policy, **spec}
        spec = {"ports": list(ports or (tcp(), udp())), **spec}
        metadata = {"name": self.name, "labels": labels or {}}
        self.body = self.api.create({"kind": "Service", "metadata": metadata, "spec": spec})
        return self

    def change(self, **spec: Any) -> None:
        """Change fields of the spec; None removes one. Raises ApiError."""
        self.body = self.api.patch("Service", self.name, {"spec": spec})

    def label(self, **labels: str | None) -> None:
        """Set labels, or remove them."""
        self.body = self.api.patch("Service", self.name, {"metadata": {"labels": labels}})

    def load_balance(self, *ips: str, mode: str = "VIP") -> None:
        """Write the IPs of its load balancer, as a cloud's controller does."""
        status = {"status": {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": mode} for ip in ips]}}}
        self.body = self.api.patch("Service", self.name, status, subresource="status")

    def delete(self) -> None:
        """Delete it, and as the controller would, its slices."""
        self.api.delete("Service", self.name)
        for name in list(self._slices):
            self._delete_slice(name)

    # --- its slices

    def endpoints(self, *endpoints: Endpoint | Host, ports: dict[str, int] | None = None, part: str = "main") -> None:
        """Say what a part of its slices holds: one slice of each family. A Host is a ready endpoint there.

        ``ports``: the endpoints' numbers by the name of the port; the usual ones of the place by default.
        """
        members = [each if isinstance(each, Endpoint) else Endpoint(each) for each in endpoints]
        number = HOST_PORT if any(isinstance(each.place, Node) for each in members) else POD_PORT
        protocols = {port["name"]: port["protocol"] for port in self.body["spec"].get("ports", ())}
        numbers = ports if ports is not None else dict.fromkeys(protocols, number)
        for family in self.families:
            self.put_slice(
                f"{self.name}-{part}-v{family}",
                {
                    "addressType": f"IPv{family}",
                    "ports": [{"name": name, "protocol": protocols[name], "port": numbers[name]} for name in numbers],
                    "endpoints": [each.body(family) for each in members],
                },
            )

    def put_slice(self, name: str, body: Object) -> None:
        """Create or replace one slice."""
        metadata = {"name": name, "labels": {_OWNER: self.name}}
        whole = {"kind": "EndpointSlice", "metadata": metadata, **body}
        if name in self._slices:
            self.api.replace(whole)
        else:
            self.api.create(whole)
            self._slices.add(name)

    def remove_endpoints(self, part: str) -> None:
        """Delete a part of its slices."""
        for family in self.families:
            self._delete_slice(f"{self.name}-{part}-v{family}")

    def label_slices(self, **labels: str | None) -> None:
        """Set labels of all its slices, or remove them."""
        for name in self._slices:
            self.api.patch("EndpointSlice", name, {"metadata": {"labels": labels}})

    def _delete_slice(self, name: str) -> None:
        self.api.delete("EndpointSlice", name)
        self._slices.discard(name)

    # --- where clients reach it

    def cluster(self, port: str = "tcp", family: int = 4) -> Target:
        """A port at its ClusterIP."""
        return self.vip(self.body["spec"]["clusterIPs"][self.families.index(family)], port)

    def vip(self, host: str, port: str = "tcp") -> Target:
        """A port at an external IP or a load balancer's IP."""
        entry = self._port(port)
        return Target(entry["protocol"], host, entry["port"])

    def node_port(self, node: Node | str, port: str = "tcp", family: int = 4) -> Target:
        """The NodePort of a port at a node, or at an address."""
        entry = self._port(port)
        host = node if isinstance(node, str) else node.host(family)
        return Target(entry["protocol"], host, entry["nodePort"])

    @property
    def health_node_port(self) -> int:
        """The port at which nodes tell load balancers of their endpoints."""
        return int(self.body["spec"]["healthCheckNodePort"])

    def _port(self, name: str) -> Object:
        found: Object = next(port for port in self.body["spec"]["ports"] if port["name"] == name)
        return found


class Services:
    """Makes Services, and deletes what is left of them at the end of the test."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._made: list[Service] = []

    def create(self, name: str, *ports: Object, families: tuple[int, ...] = (4, 6), **spec: Any) -> Service:
        """Create a Service. Raises ApiError."""
        service = Service(self.api, name, families)
        self._made.append(service)
        return service.create(*ports, **spec)

    def __len__(self) -> int:
        """How many were made."""
        return len(self._made)

    def close(self) -> None:
        """Delete what still exists."""

        def delete(service: Service) -> None:
            with suppress(ApiError):
                service.delete()

        each(self._made, delete, at_once=8)
