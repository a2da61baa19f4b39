"""The nine tests of Kubernetes that its own suite skipped for kube-proxy's old userspace mode (U-31)."""

from __future__ import annotations

import json

import pytest

from support.nodes import Node, Rig
from support.rig import wait_until

from .expect import dropped, hold, served, stays
from .services import Services, terminating

pytestmark = [pytest.mark.nodes]
BOTH = ("tcp", "udp")


@pytest.mark.parametrize("family", [4, 6])
def test_should_preserve_source_pod_ip_for_traffic_thru_service_cluster_ip(
    services: Services, rig: Rig, family: int
) -> None:
    """Backends that log or allow by client would take every Pod for the node (M-08)."""
    backend = rig.node(1).pod(1)
    service = services.create("sourceip-test")
    service.endpoints(backend)
    hold(
        *(
            served(client, service.cluster(port, family), backend, source=client.host(family))
            for client in (rig.node(1).pod(2), rig.node(2).pod(1))
            for port in BOTH
        )
    )


def test_should_respect_internal_traffic_policy_local_pod_to_pod(services: Services, rig: Rig) -> None:
    """Pods would leave their node for an agent that every node has of its own (T-02)."""
    local, backend, other = rig.node(1).pod(2), rig.node(1).pod(1), rig.node(2).pod(1)
    service = services.create("svc-itp", internalTrafficPolicy="Local")
    service.endpoints(backend)
    targets = [service.cluster(port) for port in BOTH]
    hold(
        *(served(local, target, backend, source=local) for target in targets),
        *(dropped(other, target) for target in targets),
    )


def test_should_respect_internal_traffic_policy_local_pod_host_network_to_pod(services: Services, rig: Rig) -> None:
    """A node's own programs would be sent to another node's agent (T-02)."""
    backend = rig.node(1).pod(1)
    service = services.create("svc-itp", internalTrafficPolicy="Local")
    service.endpoints(backend)
    targets = [service.cluster(port) for port in BOTH]
    hold(
        *(served(rig.node(1), target, backend, source=rig.node(1)) for target in targets),
        *(dropped(rig.node(2), target) for target in targets),
    )


def test_should_respect_internal_traffic_policy_local_pod_and_node_to_pod_host_network(
    services: Services, rig: Rig
) -> None:
    """A host-network agent, which most node agents are, would not be found on its own node (T-02)."""
    node = rig.node(1)
    service = services.create("svc-itp", internalTrafficPolicy="Local")
    service.endpoints(node)
    targets = [service.cluster(port) for port in BOTH]
    hold(
        *(served(node.pod(1), target, node, source=node.pod(1)) for target in targets),
        *(served(node, target, node) for target in targets),
        *(dropped(client, target) for client in (rig.node(2).pod(1), rig.node(2)) for target in targets),
    )


def test_should_fail_health_check_node_port_if_there_are_only_terminating_endpoints(
    services: Services, rig: Rig
) -> None:
    """A load balancer would go on sending new clients to a node whose only Pod is going away (H-03)."""
    node, backend = rig.node(1), rig.node(1).pod(1)
    service = services.create("svc-proxy-terminating", type="LoadBalancer", externalTrafficPolicy="Local")
    service.endpoints(backend)
    wait_until(lambda: _local_endpoints(rig, node, service.health_node_port) == (200, 1), "the node is healthy")
    hold(served(rig.external, service.node_port(node), backend, source=rig.external))
    service.endpoints(terminating(backend))
    wait_until(lambda: _local_endpoints(rig, node, service.health_node_port) == (503, 0), "the node is not healthy")
    stays(
        served(rig.external, service.node_port(node), backend, source=rig.external),
        served(rig.external, service.node_port(node, "udp"), backend, source=rig.external),
    )


def _local_endpoints(rig: Rig, node: Node, port: int) -> tuple[int, int]:
    page = rig.external.namespace.fetch(node.ipv4, port)
    return page.status, json.loads(page.body)["localEndpoints"] if page.status else -1


def test_should_fallback_to_terminating_endpoints_with_internal_traffic_policy_cluster(
    services: Services, rig: Rig
) -> None:
    """Clients would be refused while the last Pod still serves (T-01)."""
    backend = rig.node(1).pod(1)
    service = services.create("svc-proxy-terminating")
    service.endpoints(terminating(backend))
    clients = (rig.node(1).pod(2), rig.node(2).pod(1), rig.node(3))
    hold(*(served(client, service.cluster(port), backend) for client in clients for port in BOTH))


def test_should_fallback_to_local_terminating_endpoints_with_internal_traffic_policy_local(
    services: Services, rig: Rig
) -> None:
    """A node's Pods would lose their agent while it is being replaced (T-02)."""
    backend = rig.node(1).pod(1)
    service = services.create("svc-proxy-terminating", internalTrafficPolicy="Local")
    service.endpoints(terminating(backend))
    targets = [service.cluster(port) for port in BOTH]
    hold(
        *(served(rig.node(1).pod(2), target, backend) for target in targets),
        *(dropped(rig.node(2).pod(1), target) for target in targets),
    )


def test_should_fallback_to_terminating_endpoints_with_external_traffic_policy_cluster(
    services: Services, rig: Rig
) -> None:
    """Clients outside would be refused while the last Pod still serves (T-01)."""
    backend = rig.node(1).pod(1)
    service = services.create("svc-proxy-terminating", type="NodePort")
    service.endpoints(terminating(backend))
    clients = (rig.node(1).pod(2), rig.node(2).pod(1), rig.external)
    hold(
        *(
            served(client, service.node_port(node, port), backend, source=node)
            for client in clients
            for node in rig.nodes
            for port in BOTH
        )
    )


def test_should_fallback_to_local_terminating_endpoints_with_external_traffic_policy_local(
    services: Services, rig: Rig
) -> None:
    """Clients whom the load balancer still sends to this node would be lost during a roll-out (T-02, T-16)."""
    backend = rig.node(1).pod(1)
    service = services.create("svc-proxy-terminating", type="NodePort", externalTrafficPolicy="Local")
    service.endpoints(terminating(backend))
    here, there = ([service.node_port(node, port) for port in BOTH] for node in rig.nodes[:2])
    hold(
        *(served(rig.external, target, backend, source=rig.external) for target in here),
        # A host-network Pod of another node, as in the original test, is outside for either node.
        *(dropped(client, target) for client in (rig.external, rig.node(3)) for target in there),
    )
