"""What the cells are about: endpoints in every state, and Services of every policy in front of them.

Plain values: `oracle` says from them what must happen, and `objects` makes Kubernetes objects of them.
"""

from __future__ import annotations

from typing import NamedTuple

#: zones of the rig's nodes
ZONES = {"node1": "zone-a", "node2": "zone-b"}
#: where endpoints may be, with their node; Pods are named NODE-NUMBER, a node's own name is a host-network endpoint
PLACES = {"node1-1": "node1", "node1-2": "node1", "node2-1": "node2", "node1": "node1", "node2": "node2"}


class Endpoint(NamedTuple):
    """One endpoint of a slice."""

    place: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    @property
    def node(self) -> str:
        """The node that it is on."""
        return PLACES[self.place]


def terminating(place: str) -> Endpoint:
    """It is being deleted, and still serves."""
    return Endpoint(place, ready=False, terminating=True)


def unready(place: str) -> Endpoint:
    """Its readiness probe fails."""
    return Endpoint(place, ready=False, serving=False)


#: endpoint states by name; "local" is seen from node1, where most flows are captured
STATES: dict[str, tuple[Endpoint, ...]] = {
    "both": (Endpoint("node1-1"), Endpoint("node2-1")),
    "spread": (Endpoint("node1-1"), Endpoint("node1-2"), Endpoint("node2-1")),
    "local": (Endpoint("node1-1"),),
    "remote": (Endpoint("node2-1"),),
    "none": (),
    "unready": (unready("node1-1"), unready("node2-1")),
    # T-04: not ready and yet serving is never used unless it is terminating, nor is terminating without serving
    "unready-serving": (Endpoint("node1-1", ready=False), Endpoint("node2-1", ready=False)),
    "ended": (Endpoint("node1-1", ready=False, serving=False, terminating=True),),
    "unready-local": (unready("node1-1"), Endpoint("node2-1")),
    "ending-local": (terminating("node1-1"),),
    "ending-remote": (terminating("node2-1"),),
    "ending-both": (terminating("node1-1"), terminating("node2-1")),
    # T-05: the two fallbacks are independent
    "ending-local-ready-remote": (terminating("node1-1"), Endpoint("node2-1")),
    "ready-local-ending-local": (Endpoint("node1-1"), terminating("node1-2")),
    # T-03: with publishNotReadyAddresses one that terminates is still ready
    "published": (Endpoint("node1-1", terminating=True), Endpoint("node2-1", ready=True, serving=False)),
    "zones": (Endpoint("node1-1", zones=("zone-a",)), Endpoint("node2-1", zones=("zone-b",))),
    "zones-elsewhere": (Endpoint("node1-1", zones=("zone-c",)), Endpoint("node2-1", zones=("zone-c",))),
    "zones-partly": (Endpoint("node1-1", zones=("zone-a",)), Endpoint("node2-1")),
    "zones-shared": (Endpoint("node1-1", zones=("zone-a", "zone-b")), Endpoint("node2-1", zones=("zone-b",))),
    "nodes": (
        Endpoint("node1-1", zones=("zone-a",), nodes=("node1",)),
        Endpoint("node2-1", zones=("zone-a",), nodes=("node2",)),
    ),
    "nodes-elsewhere": (
        Endpoint("node1-1", zones=("zone-a",), nodes=("node9",)),
        Endpoint("node2-1", zones=("zone-b",), nodes=("node9",)),
    ),
    "host": (Endpoint("node1"), Endpoint("node2")),
    "host-local": (Endpoint("node1"),),
    "host-remote": (Endpoint("node2"),),
}


class Config(NamedTuple):
    """One Service: its policies, its endpoints' state, and what it may be reached by."""

    state: str
    internal_local: bool = False
    external_local: bool = False
    #: LoadBalancer; ClusterIP with external IPs only; or ClusterIP with nothing else
    reach: str = "all"
    #: who may come through the load balancer's IP: "" all; "some" see `objects.allowed`; "others" none of the rig;
    #: "other-family" only a CIDR of IPv4, none of the rig
    ranges: str = ""

    @property
    def name(self) -> str:
        """Name of the Service."""
        policy = f"{'l' if self.internal_local else 'c'}{'l' if self.external_local else 'c'}"
        parts = [policy, self.state, self.reach if self.reach != "all" else "", self.ranges]
        return "-".join(part for part in parts if part)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All its endpoints."""
        return STATES[self.state]

    @property
    def externally_accessible(self) -> bool:
        """It has a NodePort, an external IP or a load balancer's IP (S-11)."""
        return self.reach != "internal"


#: clients by name: where they are (a node's process, a Pod, outside), and the node they are on
CLIENTS = {
    "pod1": "node1",
    "pod2": "node2",
    "endpoint1": "node1",
    "node1": "node1",
    "node2": "node2",
    "external": "",
}
#: the rig's place of each client; "endpoint1" is an endpoint itself, so it may get itself (hairpin)
CLIENT_PLACES = {
    "pod1": "node1-3",
    "pod2": "node2-3",
    "endpoint1": "node1-1",
    "node1": "node1",
    "node2": "node2",
    "external": "external",
}
PODS = ("pod1", "pod2", "endpoint1")

CLUSTER_IP = "cluster-ip"
NODE_PORT = "node-port"  # of node1, at its own address
NODE_PORT_OTHER = "node-port-other"  # of node1, at its second address
NODE_PORT_2 = "node-port-2"  # of node2
LOCALHOST = "localhost"  # NodePort at 127.0.0.1 or ::1
EXTERNAL_IP = "external-ip"
LB_VIP = "lb-vip"
LB_PROXY = "lb-proxy"  # of a load balancer with ipMode Proxy, which answers by itself
FRONTENDS = (CLUSTER_IP, NODE_PORT, NODE_PORT_OTHER, NODE_PORT_2, LOCALHOST, EXTERNAL_IP, LB_VIP, LB_PROXY)
NODE_PORTS = (NODE_PORT, NODE_PORT_OTHER, NODE_PORT_2, LOCALHOST)


class Cell(NamedTuple):
    """One question: who dials what, of which Service."""

    client: str
    frontend: str
    config: Config
    protocol: str
    family: int

    def __str__(self) -> str:
        return f"{self.client} {self.frontend} {self.config.name} {self.protocol} v{self.family}"
