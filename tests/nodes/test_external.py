"""Clients outside of the cluster: NodePorts, load balancers' IPs, policies, source ranges, health of the node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.nodes import OUTSIDE, VIP_CIDRS, Host, Node, Pod, Rig
from support.rig import wait_until

from .expect import dropped, hold, refused, served, stays
from .services import Services, tcp, terminating
from .traffic import Traffic

pytestmark = [pytest.mark.nodes]
BOTH = ("tcp", "udp")
#: of the first release; the next one's is one higher
RELEASE_PORT = 9100
VIPS = (VIP_CIDRS[0].replace(".0.0/18", ".9.9"), VIP_CIDRS[1].replace("::/48", "::9"))


def test_should_support_external_traffic_policy_local_for_type_node_port(services: Services, rig: Rig) -> None:
    """Backends would not see whom they serve (M-09); a node that is a client of another one's NodePort is outside."""
    backend = rig.node(1).pod(1)
    service = services.create("external-local-nodes", type="NodePort", externalTrafficPolicy="Local")
    service.endpoints(backend)
    targets = [service.node_port(rig.node(1), port, family) for port in BOTH for family in (4, 6)]
    hold(
        *(
            served(client, target, backend, source=client)
            for client in (rig.external, rig.node(2))
            for target in targets
        )
    )


def test_should_implement_node_port_and_health_check_node_port_correctly_when_external_traffic_policy_changes(
    services: Services, rig: Rig
) -> None:
    """Each change of the policy would leave a node that takes clients it has no backend for (T-12 to T-15, H-06).

    The client is a process of the second node; only the first node has an endpoint.
    """
    backend, client = rig.node(1).pod(1), rig.node(2)
    service = services.create("external-local-update", type="LoadBalancer", externalTrafficPolicy="Local")
    service.endpoints(backend)
    health = service.health_node_port

    def local() -> None:
        _wait_health(rig, health, (200, 503, 503))
        targets = {node: [service.node_port(node, port) for port in BOTH] for node in rig.nodes}
        hold(
            *(served(client, target, backend, source=client) for target in targets[rig.node(1)]),
            *(served(client, target, backend) for target in targets[rig.node(2)]),  # short circuit
            *(dropped(client, target) for target in targets[rig.node(3)]),
            *(served(rig.external, target, backend, source=rig.external) for target in targets[rig.node(1)]),
        )

    local()
    service.change(externalTrafficPolicy="Cluster")
    _wait_health(rig, health, (0, 0, 0))
    hold(
        *(
            served(rig.external, service.node_port(node, port), backend, source=node)
            for node in rig.nodes
            for port in BOTH
        )
    )
    service.change(externalTrafficPolicy="Local", healthCheckNodePort=health)
    local()
    service.endpoints(rig.node(3).pod(1))
    _wait_health(rig, health, (503, 503, 200))


def _wait_health(rig: Rig, port: int, statuses: tuple[int, ...]) -> None:
    def asked() -> tuple[int, ...]:
        return tuple(rig.external.namespace.fetch(node.ipv4, port).status for node in rig.nodes)

    wait_until(lambda: asked() == statuses, f"the nodes answer {statuses}")


def test_should_work_from_pods_with_external_traffic_policy_local(services: Services, rig: Rig) -> None:
    """A Pod that uses its own Service's public address would be dropped, or seen as its node (T-13, T-14)."""
    backend, pod = rig.node(1).pod(1), rig.node(2).pod(1)
    service = services.create("lb-from-pods", type="LoadBalancer", externalTrafficPolicy="Local")
    service.endpoints(backend)
    service.load_balance(*VIPS)
    for family, vip in zip((4, 6), VIPS, strict=True):
        hold(
            *(served(pod, service.vip(vip, port), backend, source=pod.host(family)) for port in BOTH),
            *(served(rig.node(3), service.vip(vip, port), backend, source=rig.node(3)) for port in BOTH),
            *(served(rig.external, service.vip(vip, port), backend, source=rig.external) for port in BOTH),
        )
    rig.route_external(rig.node(2))
    try:
        hold(*(dropped(rig.external, service.vip(vip)) for vip in VIPS))
    finally:
        rig.route_external(rig.node(1))


def test_should_only_allow_access_from_load_balancer_source_ranges(services: Services, rig: Rig) -> None:
    """A load balancer's IP would be open to all, or closed to those for whom it is (T-17, T-18)."""
    backend, allowed, other = rig.node(1).pod(1), rig.node(1).pod(2), rig.node(1).pod(3)
    service = services.create("lb-sourcerange", type="LoadBalancer", loadBalancerSourceRanges=[f"{allowed.ipv4}/32"])
    service.endpoints(backend)
    service.load_balance(VIPS[0])
    clients: tuple[Host, ...] = (allowed, other, rig.external, rig.node(2))

    def only(*some: Host) -> None:
        targets = [service.vip(VIPS[0], port) for port in BOTH]
        hold(
            *(served(client, target, backend) for client in some for target in targets),
            *(dropped(client, target) for client in clients if client not in some for target in targets),
        )

    only(allowed)
    # Nothing else than the load balancer's IP is filtered (D-11).
    hold(*(served(other, service.cluster(port), backend) for port in BOTH))
    hold(*(served(rig.external, service.node_port(rig.node(1), port), backend) for port in BOTH))
    service.change(loadBalancerSourceRanges=[f"{other.ipv4}/32", f"{rig.external.ipv4}/32"])
    only(other, rig.external)
    service.change(loadBalancerSourceRanges=["0.0.0.0/1", "128.0.0.0/1"])
    only(*clients)
    service.change(loadBalancerSourceRanges=["255.0.0.0/32"])
    only()
    service.change(loadBalancerSourceRanges=None)
    only(*clients)


def test_should_be_able_to_change_the_type_and_ports_of_a_load_balancer(services: Services, rig: Rig) -> None:
    """A Service that becomes public, moves its port, and becomes private again would leave doors open on its way."""
    backend, client = rig.node(2).pod(1), rig.external
    service = services.create("mutability-test")
    service.endpoints(backend)
    hold(served(rig.node(1).pod(1), service.cluster(), backend))
    service.change(type="NodePort")
    node_ports = [service.node_port(rig.node(1), port) for port in BOTH]
    hold(*(served(client, target, backend) for target in node_ports))
    service.change(type="LoadBalancer")
    service.load_balance(*VIPS)
    vips = [service.vip(vip, port) for vip in VIPS for port in BOTH]
    hold(*(served(client, target, backend) for target in (*node_ports, *vips)))
    ports = [{**port, "port": 81} for port in service.body["spec"]["ports"]]
    service.change(ports=ports)
    moved = [service.vip(vip, port) for vip in VIPS for port in BOTH]
    hold(*(served(client, target, backend) for target in moved), *(dropped(client, target) for target in vips))
    service.endpoints()
    hold(*(refused(client, target) for target in (*moved, *node_ports)))
    service.endpoints(backend)
    hold(*(served(client, target, backend) for target in (*moved, *node_ports)))
    service.change(type="ClusterIP", ports=[{**port, "nodePort": None} for port in ports])
    service.load_balance()
    hold(
        *(refused(client, target) for target in node_ports),
        *(dropped(client, target) for target in moved),
        *(served(rig.node(1).pod(1), service.cluster(port), backend) for port in BOTH),
    )


class Releases:
    """Servers of a release each, named ``release-N``, which are Pods' of their own for the cluster."""

    def __init__(self) -> None:
        self._places: dict[int, Pod] = {}

    def serve(self, pod: Pod, release: int) -> None:
        """Start one in the namespace of a Pod."""
        pod.namespace.serve(f"release-{release}", pod.hosts, RELEASE_PORT + release)
        self._places[release] = pod

    def cease(self, release: int) -> None:
        """End one."""
        self._places.pop(release).namespace.cease(f"release-{release}")

    def close(self) -> None:
        """End those that are left."""
        for release in list(self._places):
            self.cease(release)


@pytest.fixture
def releases() -> Iterator[Releases]:
    """The test's releases."""
    releases = Releases()
    yield releases
    releases.close()


def _release_ports(release: int) -> dict[str, int]:
    return dict.fromkeys(BOTH, RELEASE_PORT + release)


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_should_not_have_connectivity_disruption_during_rolling_update(
    services: Services, rig: Rig, releases: Releases, policy: str
) -> None:
    """Each release would cost requests. (Kubernetes' own test allows one failure in twenty.)"""
    node = rig.node(1)
    service = services.create("rolling-update", type="LoadBalancer", externalTrafficPolicy=policy)
    service.load_balance(*VIPS)
    clients: tuple[Host, ...] = (rig.external, node.pod(3), rig.node(2))
    targets = [service.vip(VIPS[0], port) for port in BOTH]
    flows = [(client, target) for client in clients for target in targets]
    old, new = node.pod(1), node.pod(2)
    releases.serve(old, 0)
    service.endpoints(old, ports=_release_ports(0), part="release-0")
    hold(*(served(client, target, "release-0") for client, target in flows))
    with Traffic(flows, 3.0) as traffic:
        for release in range(1, 6):
            before, after = f"release-{release - 1}", f"release-{release}"
            releases.serve(new, release)
            service.endpoints(new, ports=_release_ports(release), part=after)
            hold(*(served(client, target, before, after) for client, target in flows))
            service.endpoints(terminating(old), ports=_release_ports(release - 1), part=before)
            hold(*(served(client, target, after) for client, target in flows))
            releases.cease(release - 1)
            service.remove_endpoints(before)
            old, new = new, old
    assert not traffic.failures, "\n".join(traffic.failures)
    assert traffic.seen["served"] > 100


def test_a_pod_that_is_gone_before_the_cluster_knows_costs_no_new_connection(
    services: Services, rig: Rig, releases: Releases
) -> None:
    """Until a crash is known everywhere, every second client would be refused, as it is with kube-proxy."""
    doomed, other = rig.node(1).pod(1), rig.node(1).pod(2)
    service = services.create("crashed", tcp(), type="LoadBalancer", externalTrafficPolicy="Local")
    service.load_balance(*VIPS)
    clients: tuple[Host, ...] = (rig.external, rig.node(1).pod(3), rig.node(2))
    targets = [service.vip(VIPS[0]), service.vip(VIPS[1])]
    releases.serve(doomed, 0)
    service.endpoints(doomed, ports={"tcp": _release_ports(0)["tcp"]}, part="doomed")
    service.endpoints(other, part="other")
    hold(*(served(client, target, "release-0", other) for client in clients for target in targets))
    releases.cease(0)
    stays(*(served(client, target, other) for client in clients for target in targets), times=10)


def test_a_load_balancer_in_mode_proxy_is_left_alone(services: Services, rig: Rig) -> None:
    """A proxy outside, which ends TLS or adds headers, would be passed by (S-06)."""
    service = services.create("lb-proxy-mode", type="LoadBalancer")
    service.endpoints(rig.node(1).pod(1))
    ingress = [{"ip": ip, "ipMode": "Proxy"} for ip in OUTSIDE]
    services.api.patch(
        "Service", service.name, {"status": {"loadBalancer": {"ingress": ingress}}}, subresource="status"
    )
    hold(served(rig.node(1).pod(2), service.cluster(), rig.node(1).pod(1)))
    clients: tuple[Host | Node, ...] = (rig.node(1).pod(2), rig.node(1))
    hold(*(served(client, service.vip(vip), "outside") for client in clients for vip in OUTSIDE))
