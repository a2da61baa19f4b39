"""Which endpoints a client may use, what it meets without any, and whether its address is kept. Pure.

The rules of kube-proxy, sections 2.5 to 2.9 of the specification, for one service port in one family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from spliceway.model import (
    ANY_CLIENT,
    NO_CLIENT,
    ClientClass,
    EndpointStates,
    FrontendVerdict,
    Service,
    SliceEndpoint,
)
from spliceway.plan.endpoints import Location, PortEndpoints, is_fallback


class Place(NamedTuple):
    """Where this agent is.

    ``node`` None: on no node of a cluster, so no endpoint is nearer than another, and policies that ask for local ones
    say nothing. An empty name is nobody's: no endpoint is local (E-07).
    """

    node: str | None = None
    #: empty: unknown, so that hints for zones say nothing (T-10)
    zone: str = ""


class Policies(NamedTuple):
    """The policies of a service port in one family."""

    #: internalTrafficPolicy: Local, which governs ClusterIPs
    internal_local: bool = False
    #: externalTrafficPolicy: Local, which governs NodePorts, external IPs and load balancers (T-12)
    external_local: bool = False
    #: there is a NodePort, external IP or load balancer in this family (S-11)
    external: bool = False


class EndpointSets(NamedTuple):
    """The endpoints that clients may use. A set that no frontend needs is None."""

    cluster: list[Location] | None
    local: list[Location] | None
    #: some endpoint takes new flows, on whatever node (T-16)
    has_any: bool
    states: EndpointStates


def policies_of(service: Service, place: Place) -> Policies:
    """What ``service`` asks for, before it is known whether it is reachable from outside."""
    if place.node is None:
        return Policies()
    outside = service.type in ("LoadBalancer", "NodePort")
    outside = outside or (service.type == "ClusterIP" and bool(service.external_ips))
    return Policies(service.internal_local, service.external_local and outside)  # S-10


def endpoint_sets(endpoints: PortEndpoints, place: Place, policies: Policies) -> EndpointSets:
    """The sets of T-01 and T-02."""
    members, weights = endpoints
    ready = [location for location, each in members.items() if each.ready]
    fallback: list[Location] = []
    if len(ready) < len(members):
        fallback = [location for location, each in members.items() if is_fallback(each)]
    internal_local, external_local, external = policies
    cluster = local = None
    if not internal_local or external:
        cluster = _near(members, ready, place) or fallback
    if internal_local or (external_local and external):
        local = _on_node(members, ready, place) or _on_node(members, fallback, place)
    has_any = bool(ready or fallback)
    if weights:  # what has no weight takes nothing new
        takers = [*ready, *fallback] if cluster is None else cluster
        has_any = any(weights.get(location, 1) for location in takers)
    states = EndpointStates(len(ready), len(fallback), len(members) - len(ready) - len(fallback))
    return EndpointSets(cluster, local, has_any, states)


def serving_set(endpoints: PortEndpoints) -> list[Location]:
    """The endpoints that sessions may stay with, whatever policies and hints say (C-05)."""
    return [location for location, each in endpoints.members.items() if each.serving]


def verdict(*, usable: bool, has_any: bool) -> FrontendVerdict:
    """For clients whose set has an endpoint that takes new flows (``usable``), or else some other set has (T-15)."""
    if not has_any:
        return FrontendVerdict.REJECT
    return FrontendVerdict.SERVE if usable else FrontendVerdict.DROP


def internal_keeps(*, detector: bool, masquerade_all: bool) -> ClientClass:
    """Whose address is kept towards a ClusterIP (2.8, M-06 to M-08)."""
    if masquerade_all:
        return NO_CLIENT
    return ClientClass.POD if detector else ANY_CLIENT


def external_keeps(*, external_local: bool) -> ClientClass:
    """Whose address is kept towards NodePorts, external IPs and load balancers (T-13, M-09).

    Without a detector nobody is of class POD, so what is said of it does not matter then.
    """
    return ClientClass.POD | ClientClass.EXT if external_local else NO_CLIENT


def _near(members: Mapping[Location, SliceEndpoint], ready: list[Location], place: Place) -> list[Location]:
    """Those of the ready endpoints that hints leave; one that lacks a hint, or none for here, and all count (T-08)."""
    node, zone = place
    if node and all(members[location].node_hints for location in ready):
        mine = [location for location in ready if node in members[location].node_hints]
        if mine:
            return mine
    if zone and all(members[location].zone_hints for location in ready):
        mine = [location for location in ready if zone in members[location].zone_hints]
        if mine:
            return mine
    return ready


def _on_node(members: Mapping[Location, SliceEndpoint], among: list[Location], place: Place) -> list[Location]:
    """Hints do not apply to them (T-11)."""
    return [location for location in among if members[location].node == place.node] if place.node else []
