"""What must happen in a cell: sections 2.5 to 2.10 of the specification of a service proxy, restated once more.

It shares no code with spliceway and reads nothing but the scenario, so that a fault of the plan cannot hide here.
Settings of the contestants: the detector of Pods is the cluster's CIDR (M-01), masqueradeAll is off, NodePorts are on
all addresses and on loopback.
"""

from __future__ import annotations

from typing import NamedTuple

from .scenario import (
    CLIENTS,
    CLUSTER_IP,
    LB_PROXY,
    LB_VIP,
    LOCALHOST,
    NODE_PORT_2,
    NODE_PORTS,
    PODS,
    ZONES,
    Cell,
    Config,
    Endpoint,
)

SERVED, REFUSED, DROPPED = "served", "refused", "dropped"
#: whom a backend sees
CLIENT, NODE = "client", "node"


class Outcome(NamedTuple):
    """How a client of a cell fares; when it is served, by which backends, and whom each of them sees."""

    verdict: str
    backends: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return " ".join([self.verdict, *(f"{backend}<{source}" for backend, source in self.backends)])


def served(backends: dict[str, str]) -> Outcome:
    """The outcome with these backends and what they see."""
    return Outcome(SERVED, tuple(sorted(backends.items())))


def expected(cell: Cell) -> Outcome:
    """What the specification says about a cell."""
    if cell.frontend == LB_PROXY:  # S-06: the packet goes to the load balancer as it is
        return served({"outside": CLIENT if cell.client not in ZONES else NODE})
    node = capturing_node(cell)
    if cell.frontend == LB_VIP and not passes_ranges(cell):
        return Outcome(DROPPED)  # T-17, T-18; before everything else (T-20)
    endpoints = cell.config.endpoints
    if not has_any(cell.config, node):
        return Outcome(REFUSED)
    source = client_class(cell, node)
    if cell.frontend == CLUSTER_IP:
        chosen = local_set(endpoints, node) if cell.config.internal_local else cluster_set(endpoints, node)
        masquerade = source != "POD"
    elif not cell.config.external_local:
        chosen, masquerade = cluster_set(endpoints, node), True
    elif source == "EXT":
        chosen, masquerade = local_set(endpoints, node), False
    else:  # T-13: the short circuit
        chosen, masquerade = cluster_set(endpoints, node), source == "NODE"
    if not chosen:
        return Outcome(DROPPED)  # T-15: usable endpoints elsewhere only
    return served({endpoint.place: _seen(cell, node, endpoint, masquerade) for endpoint in chosen})


def capturing_node(cell: Cell) -> str:
    """The node whose proxy meets the packet: a NodePort's own, else the client's; outside routes lead to node1."""
    if cell.frontend == NODE_PORT_2:
        return "node2"
    if cell.frontend in NODE_PORTS and cell.frontend != LOCALHOST:
        return "node1"
    return CLIENTS[cell.client] or "node1"


def client_class(cell: Cell, node: str) -> str:
    """POD, NODE or EXT at that node (2.7). A Pod of any node is one (M-02); another node's process is outside."""
    if cell.client in PODS:
        return "POD"
    return "NODE" if cell.client == node else "EXT"


def passes_ranges(cell: Cell) -> bool:
    """Say whether loadBalancerSourceRanges let the client in (2.10); for whom they are, see `objects.ranges_of`."""
    match cell.config.ranges:
        case "some":
            return cell.client in ("pod1", "node1", "external")
        case "others":
            return False
        case "other-family":
            return cell.family == 6  # S-07: without a CIDR of its family a client is not filtered
        case _:
            return True


def has_any(config: Config, node: str) -> bool:
    """Say whether some endpoint could be used by somebody (T-01, T-02)."""
    usable = [endpoint for endpoint in config.endpoints if endpoint.ready or ending(endpoint)]
    if config.internal_local or (config.external_local and config.externally_accessible):
        return bool(usable)
    return bool(cluster_set(config.endpoints, node))


def ending(endpoint: Endpoint) -> bool:
    """It is being deleted and still serves."""
    return endpoint.serving and endpoint.terminating


def cluster_set(endpoints: tuple[Endpoint, ...], node: str) -> list[Endpoint]:
    """Endpoints for clients who may use all of them (T-01)."""
    ready = [endpoint for endpoint in endpoints if endpoint.ready]
    return _near(ready, node) or [endpoint for endpoint in endpoints if ending(endpoint)]


def local_set(endpoints: tuple[Endpoint, ...], node: str) -> list[Endpoint]:
    """Endpoints of the node itself (T-02); hints do not count (T-11)."""
    mine = [endpoint for endpoint in endpoints if endpoint.node == node]
    return [endpoint for endpoint in mine if endpoint.ready] or [endpoint for endpoint in mine if ending(endpoint)]


def _near(ready: list[Endpoint], node: str) -> list[Endpoint]:
    """Those that hints leave to this node (T-08): node hints, else zone hints, count only if each endpoint has some."""
    for hints, mine in (("nodes", node), ("zones", ZONES[node])):
        if all(getattr(endpoint, hints) for endpoint in ready):
            chosen = [endpoint for endpoint in ready if mine in getattr(endpoint, hints)]
            if chosen:
                return chosen
    return ready


def _seen(cell: Cell, node: str, endpoint: Endpoint, masquerade: bool) -> str:
    """Whom the backend sees. One client's address must not be kept where the answer would not pass this node again."""
    client_node = CLIENTS[cell.client]
    hairpin = endpoint.place == "node1-1" and cell.client == "endpoint1"  # M-05
    # M-02, M-09: a Pod of another node, and a backend that is not of this one: its answer would go straight to the Pod.
    astray = cell.client in PODS and client_node != node and endpoint.node != node
    if masquerade or hairpin or astray or cell.client == node:
        return NODE
    return CLIENT
