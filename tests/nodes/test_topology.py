"""Traffic that stays near, by the hints of slices: Kubernetes' "Topology Hints" and "Traffic Distribution"."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.api import Api
from support.nodes import Node, Rig

from .expect import hold, served
from .services import Endpoint, Services, Target, tcp, unready

pytestmark = [pytest.mark.nodes]
ZONE = "topology.kubernetes.io/zone"


@pytest.fixture
def zone(api: Api, rig: Rig) -> Iterator[None]:
    """The second node is in the first one's zone for this test."""
    _move(api, rig.node(2), rig.node(1).zone)
    yield
    _move(api, rig.node(2), rig.node(2).zone)


def _move(api: Api, node: Node, zone: str | None) -> None:
    api.patch("Node", node.name, {"metadata": {"labels": {ZONE: zone}}})


def _at(node: Node, *, zone: str = "", by_node: bool = False) -> Endpoint:
    """The node's first Pod, with the hints that the slice controller gives it."""
    return Endpoint(node.pod(1), zones=(zone or node.zone,), nodes=(node.name,) if by_node else ())


def _clients_see(target: Target, seen: dict[Node, list[Node]]) -> None:
    """Pods and processes of each node are served by the first Pods of these nodes."""
    hold(
        *(
            served(client, target, *(member.pod(1) for member in members))
            for node, members in seen.items()
            for client in (node.pod(2), node)
        )
    )


def test_should_distribute_endpoints_evenly(services: Services, rig: Rig) -> None:
    """Requests would cross zones, which costs money and time, although each zone has a backend (T-08)."""
    service = services.create("topology-hints")
    service.endpoints(*(_at(node) for node in rig.nodes))
    for port in ("tcp", "udp"):
        _clients_see(service.cluster(port), {node: [node] for node in rig.nodes})


def test_should_prefer_the_same_zone_with_one_node_per_zone(services: Services, rig: Rig) -> None:
    """Where a zone has no backend, its clients would be refused instead of going elsewhere (T-09)."""
    one, two, three = rig.nodes
    service = services.create("traffic-dist-zones", tcp())
    service.endpoints(_at(one), _at(two))
    _clients_see(service.cluster(), {one: [one], two: [two], three: [one, two]})
    service.endpoints(_at(one), Endpoint(two.pod(1)))
    _clients_see(service.cluster(), {node: [one, two] for node in rig.nodes})


def test_should_prefer_the_same_zone_with_several_nodes_per_zone(services: Services, rig: Rig, zone: None) -> None:
    """Inside its zone a client would load one backend only, or leave it (T-08)."""
    one, two, three = rig.nodes
    service = services.create("traffic-dist-nodes", tcp())
    service.endpoints(_at(one), _at(two, zone=one.zone), _at(three))
    _clients_see(service.cluster(), {one: [one, two], two: [one, two], three: [three]})


def test_should_prefer_the_same_node_or_fall_back_to_the_same_zone(services: Services, rig: Rig, zone: None) -> None:
    """A cache on every node would be asked across the network; a node without one would find none (T-08)."""
    one, two, three = rig.nodes
    service = services.create("traffic-dist-same-node", tcp())
    service.endpoints(_at(one, by_node=True), Endpoint(one.pod(3), zones=(one.zone,), nodes=(one.name,)))
    hold(
        *(served(node.pod(2), service.cluster(), one.pod(1), one.pod(3)) for node in rig.nodes),
    )
    service.endpoints(_at(one, by_node=True), _at(three, by_node=True))
    _clients_see(service.cluster(), {one: [one], two: [one], three: [three]})


def test_should_prefer_the_same_node_and_fall_back_when_the_endpoint_becomes_unavailable(
    services: Services, rig: Rig
) -> None:
    """While its own node's backend is away, a client would have none; or it would not come back to it (T-08)."""
    one, two, _ = rig.nodes
    service = services.create("traffic-dist-fall-back", tcp())
    for own in (_at(one, by_node=True), unready(one.pod(1)), _at(one, by_node=True)):
        service.endpoints(own, _at(two, by_node=True))
        _clients_see(service.cluster(), {one: [one] if own.ready else [two], two: [two]})


def test_a_node_that_changes_its_zone_changes_its_endpoints(services: Services, rig: Rig, api: Api) -> None:
    """A node whose label came late would send all its traffic across zones until something else changes (W-22)."""
    one, two, three = rig.nodes
    service = services.create("zone-changes", tcp())
    service.endpoints(*(_at(node) for node in rig.nodes))
    target = service.cluster()
    try:
        for zone, seen in ((two.zone, [two]), (None, [one, two, three]), ("zone-x", [one, two, three])):
            _move(api, one, zone)
            _clients_see(target, {one: seen, two: [two]})
    finally:
        _move(api, one, one.zone)
    _clients_see(target, {one: [one]})
