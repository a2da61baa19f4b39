"""Kubernetes' "Granular Checks: Services": every kind of client and frontend, in either family."""

from __future__ import annotations

import pytest

from support.nodes import Host, Rig

from .expect import fails, hold, refused, served
from .services import Service, Services, Target

pytestmark = [pytest.mark.nodes, pytest.mark.parametrize("family", [4, 6])]
BOTH = ("tcp", "udp")
#: greater than the network takes in one piece
LARGE = "x" * 2000


def _pods(rig: Rig) -> list[Host]:
    return [node.pod(1) for node in rig.nodes]


def _service(services: Services, rig: Rig, *backends: Host) -> Service:
    service = services.create("node-port-service", type="NodePort")
    service.endpoints(*(backends or _pods(rig)))
    return service


def _targets(service: Service, rig: Rig, family: int) -> list[Target]:
    """Its ClusterIP, and its NodePort at every node."""
    cluster = [service.cluster(port, family) for port in BOTH]
    return cluster + [service.node_port(node, port, family) for node in rig.nodes for port in BOTH]


def test_should_function_for_pod_service(services: Services, rig: Rig, family: int) -> None:
    """A Pod would reach some of a Service's endpoints only, or not by every address."""
    targets = _targets(_service(services, rig), rig, family)
    hold(*(served(rig.node(1).pod(2), target, *_pods(rig)) for target in targets))


def test_should_function_for_node_service(services: Services, rig: Rig, family: int) -> None:
    """Programs of a node, kubelet's image pulls among them, would not reach Services."""
    service = _service(services, rig)
    loopback = "127.0.0.1" if family == 4 else "::1"
    targets = [*_targets(service, rig, family), *(service.node_port(loopback, port) for port in BOTH)]
    hold(*(served(rig.node(1), target, *_pods(rig)) for target in targets))


def test_should_function_for_endpoint_service(services: Services, rig: Rig, family: int) -> None:
    """Members of a cluster that find each other by their Service would miss themselves (M-05)."""
    targets = _targets(_service(services, rig), rig, family)
    hold(*(served(rig.node(1).pod(1), target, *_pods(rig)) for target in targets))


def test_should_function_for_multiple_endpoint_services_with_same_selector(
    services: Services, rig: Rig, family: int
) -> None:
    """Deleting one of two Services over the same Pods would break the other."""
    first, second = _service(services, rig), services.create("second-node-port-service", type="NodePort")
    second.endpoints(*_pods(rig))
    targets = _targets(second, rig, family)
    hold(*(served(rig.node(1).pod(2), target, *_pods(rig)) for target in _targets(first, rig, family) + targets))
    first.delete()
    hold(*(fails(rig.node(1).pod(2), target) for target in _targets(first, rig, family)))
    hold(*(served(rig.node(1).pod(2), target, *_pods(rig)) for target in targets))


def test_should_update_endpoints(services: Services, rig: Rig, family: int) -> None:
    """Clients would be sent to a Pod that is gone."""
    service = _service(services, rig)
    targets = _targets(service, rig, family)
    hold(*(served(rig.node(1).pod(2), target, *_pods(rig)) for target in targets))
    service.endpoints(*_pods(rig)[1:])
    hold(*(served(rig.node(1).pod(2), target, *_pods(rig)[1:]) for target in targets))


def test_should_update_node_port(services: Services, rig: Rig, family: int) -> None:
    """A door that was closed would stay open, or the ClusterIP would close with it."""
    service = _service(services, rig)
    node_ports = [service.node_port(node, port, family) for node in rig.nodes for port in BOTH]
    hold(*(served(rig.external, target, *_pods(rig)) for target in node_ports))
    ports = [{**port, "nodePort": None} for port in service.body["spec"]["ports"]]
    service.change(type="ClusterIP", ports=ports)
    hold(
        *(
            refused(client, target)
            for client in (rig.external, rig.node(1), rig.node(1).pod(2))
            for target in node_ports
        )
    )
    hold(*(served(rig.node(1).pod(2), service.cluster(port, family), *_pods(rig)) for port in BOTH))


def test_should_handle_large_requests(services: Services, rig: Rig, family: int) -> None:
    """Datagrams above the network's packet size, as DNS and QUIC know them, would be cut or lost (C-09)."""
    targets = _targets(_service(services, rig), rig, family)
    clients = (rig.node(1).pod(2), rig.node(1), rig.external)
    hold(
        *(
            served(client, target, *_pods(rig), payload=LARGE)
            for client in clients
            for target in targets
            if client is not rig.external or target.port != 80
        )
    )


def test_should_function_for_service_endpoints_using_host_network(services: Services, rig: Rig, family: int) -> None:
    """Agents and ingress controllers that live in the host's network could not be Services' endpoints."""
    targets = _targets(_service(services, rig, *rig.nodes), rig, family)
    clients = (rig.node(1).pod(1), rig.node(1), rig.node(2))
    hold(*(served(client, target, *rig.nodes) for client in clients for target in targets))
    hold(*(served(rig.external, target, *rig.nodes) for target in targets))
