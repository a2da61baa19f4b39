"""Services as they come, change and go: the ordinary tests of Kubernetes' "Services"."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from support.nodes import VIP_CIDRS, Rig

from .expect import fails, hold, refused, served, stays
from .flows import connect, exchange
from .services import PROXY_NAME, Services, tcp, terminating, udp

pytestmark = [pytest.mark.nodes]


def test_should_serve_a_basic_endpoint_from_pods(services: Services, rig: Rig) -> None:
    """Scaling up would not spread, and scaling down would lose clients."""
    one, two, client = rig.node(1).pod(1), rig.node(2).pod(1), rig.node(1).pod(3)
    service = services.create("endpoint-test", tcp())
    for members in ((one,), (one, two), (two,), ()):
        service.endpoints(*members)
        hold(served(client, service.cluster(), *members) if members else refused(client, service.cluster()))


def test_should_serve_multiport_endpoints_from_pods(services: Services, rig: Rig) -> None:
    """Two ports of a Service, each of other Pods, would be mixed up."""
    one, two, client = rig.node(1).pod(1), rig.node(1).pod(2), rig.node(2).pod(1)
    service = services.create("multi-endpoint-test", tcp(80, "portname1"), tcp(81, "portname2"))
    service.endpoints(one, ports={"portname1": 8080}, part="one")
    service.endpoints(two, ports={"portname2": 8080}, part="two")
    hold(served(client, service.cluster("portname1"), one), served(client, service.cluster("portname2"), two))
    service.remove_endpoints("one")
    hold(refused(client, service.cluster("portname1")), served(client, service.cluster("portname2"), two))


def test_should_be_updated_after_adding_or_deleting_ports(services: Services, rig: Rig) -> None:
    """A port that was added would not work, or one that was deleted would."""
    backend, client = rig.node(1).pod(1), rig.node(1).pod(2)
    service = services.create("edge-port", tcp(80, "first"))
    service.endpoints(backend)
    first = service.cluster("first")
    hold(served(client, first, backend))
    service.change(ports=[tcp(80, "first"), tcp(8443, "second")])
    service.endpoints(backend)
    hold(served(client, first, backend), served(client, service.cluster("second"), backend))
    service.change(ports=[tcp(8443, "second")])
    hold(fails(client, first), served(client, service.cluster("second"), backend))


@pytest.mark.parametrize("family", [4, 6])
def test_should_allow_pods_to_hairpin_back_to_themselves_through_services(
    services: Services, rig: Rig, family: int
) -> None:
    """A Pod that is its own Service's only endpoint would not reach itself (M-05)."""
    pod = rig.node(1).pod(1)
    service = services.create("hairpin-test")
    service.endpoints(pod)
    hold(served(pod, service.cluster("tcp", family), pod), served(pod, service.cluster("udp", family), pod))


def test_should_be_able_to_up_and_down_services(services: Services, rig: Rig) -> None:
    """A Service that is deleted would answer still, or take others with it."""
    clients = (rig.node(1), rig.node(1).pod(3))
    one = services.create("up-down-1", tcp())
    two = services.create("up-down-2", tcp())
    for service in (one, two):
        service.endpoints(rig.node(1).pod(1), rig.node(2).pod(1), rig.node(3).pod(1))
    members = (rig.node(1).pod(1), rig.node(2).pod(1), rig.node(3).pod(1))
    hold(*(served(client, service.cluster(), *members) for service in (one, two) for client in clients))
    one.delete()
    hold(*(fails(client, one.cluster()) for client in clients))
    three = services.create("up-down-3", tcp())
    three.endpoints(*members)
    hold(*(served(client, service.cluster(), *members) for service in (two, three) for client in clients))


def test_should_work_after_the_service_has_been_recreated(services: Services, rig: Rig) -> None:
    """What was deleted and made again would keep its old address, or have none."""
    backend, clients = rig.node(1).pod(1), (rig.node(2).pod(1), rig.node(1))
    service = services.create("svc-recreated")
    service.endpoints(backend)
    hold(*(served(client, service.cluster(), backend) for client in clients))
    old = service.cluster()
    service.delete()
    again = services.create("svc-recreated")
    again.endpoints(backend)
    assert again.cluster() != old
    hold(*(served(client, again.cluster(port), backend) for client in clients for port in ("tcp", "udp")))
    hold(*(fails(client, old) for client in clients))


def test_should_be_able_to_create_a_functioning_node_port_service(services: Services, rig: Rig) -> None:
    """Clients outside would find some nodes deaf."""
    members = (rig.node(1).pod(1), rig.node(2).pod(1))
    service = services.create("nodeport-test", type="NodePort")
    service.endpoints(*members)
    clients = (rig.external, rig.node(1), rig.node(3).pod(1))
    targets = [
        service.node_port(address, port)
        for node in rig.nodes
        for address in (node.ipv4, node.others[0])
        for port in ("tcp", "udp")
    ]
    hold(*(served(client, target, *members) for client in clients for target in [*targets, service.cluster()]))


def test_should_be_possible_to_connect_to_a_service_via_external_ip_when_the_external_ip_is_not_assigned_to_a_node(
    services: Services, rig: Rig
) -> None:
    """An address that only a router knows would lead out of the cluster instead of to the Service (S-05)."""
    external_ip = VIP_CIDRS[0].replace(".0/18", ".250")
    backend = rig.node(1).pod(1)
    service = services.create("externalip-test", families=(4,), externalIPs=[external_ip])
    service.endpoints(backend)
    clients = (rig.node(1).pod(2), rig.node(2).pod(1), rig.node(2), rig.external)
    hold(*(served(client, service.vip(external_ip, port), backend) for client in clients for port in ("tcp", "udp")))


def test_should_be_able_to_update_service_type_to_node_port_listening_on_same_port_number_but_different_protocols(
    services: Services, rig: Rig
) -> None:
    """DNS, which has both protocols at one number, would have one of them only."""
    backend = rig.node(1).pod(1)
    service = services.create("nodeport-update-service", tcp())
    service.endpoints(backend)
    number = 31_053
    both = [tcp(80, nodePort=number), udp(80, nodePort=number)]
    service.change(type="NodePort", ports=both)
    service.endpoints(backend)
    clients = (rig.external, rig.node(2).pod(1))
    targets = [service.node_port(rig.node(2), port) for port in ("tcp", "udp")]
    assert {target.port for target in targets} == {number}
    targets += [service.cluster("tcp"), service.cluster("udp")]
    hold(*(served(client, target, backend) for client in clients for target in targets))


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort"])
def test_should_be_able_to_change_the_type_from_external_name(services: Services, rig: Rig, kind: str) -> None:
    """A name that moves into the cluster would not be served there (S-03)."""
    backend, client = rig.node(1).pod(1), rig.node(2).pod(1)
    service = services.create("externalname-service", type="ExternalName", externalName="shop.example")
    service.change(type=kind, externalName=None, ipFamilies=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack")
    service.endpoints(backend)
    hold(served(client, service.cluster(), backend))
    if kind == "NodePort":
        hold(served(rig.external, service.node_port(rig.node(1)), backend))


def test_standing_connections_outlive_every_change(services: Services, rig: Rig) -> None:
    """A database's clients, or somebody's download, would be cut by a change that is about new clients (C-01, C-03)."""
    node, backend, other = rig.node(1), rig.node(2).pod(1), rig.node(1).pod(2)
    service = services.create("standing", tcp(), type="NodePort")
    service.endpoints(backend)
    inside, outside = service.cluster(), service.node_port(node)
    hold(*(served(client, inside, backend) for client in (node.pod(1), node)), served(rig.external, outside, backend))
    with (
        connect(node.pod(1), inside) as pod,
        connect(node, inside) as process,
        connect(rig.external, outside) as client,
    ):
        standing = (pod, process, client)
        changes: list[Callable[[], None]] = [
            lambda: service.endpoints(terminating(backend), other),
            lambda: service.endpoints(other),
            lambda: service.change(internalTrafficPolicy="Local", externalTrafficPolicy="Local"),
            lambda: service.endpoints(),
            lambda: service.change(ports=[{**service.body["spec"]["ports"][0], "name": "renamed"}]),
            lambda: service.change(type="ClusterIP", externalTrafficPolicy=None),
            service.delete,
        ]
        for change in changes:
            assert [exchange(each) for each in standing] == [backend.name] * len(standing)
            change()
            marker = services.create(f"marker-{len(services)}", tcp())
            marker.endpoints(other)
            hold(served(node, marker.cluster(), other))  # the agent has seen all that was before
        hold(fails(node.pod(1), inside), fails(rig.external, outside))
        assert [exchange(each) for each in standing] == [backend.name] * len(standing)


def test_should_release_node_ports_on_delete(services: Services, rig: Rig) -> None:
    """A program of the node could not have a port that no Service has any more (D-11)."""
    node, backend = rig.node(1), rig.node(1).pod(1)
    service = services.create("nodeport-reuse", tcp(80, nodePort=31_080), type="NodePort")
    service.endpoints(backend)
    target = service.node_port(node)
    hold(served(rig.external, target, backend))
    assert not _listens(node.namespace.run("ss", "-Hltn"), 31_080)
    service.delete()
    hold(refused(rig.external, target), refused(node.pod(2), target))
    again = services.create("nodeport-again", tcp(80, nodePort=31_080), type="NodePort")
    again.endpoints(rig.node(2).pod(1))
    hold(served(rig.external, again.node_port(node), rig.node(2).pod(1)))
    again.delete()
    hold(refused(rig.external, target))
    node.namespace.serve("owner", node.hosts, 31_080, ("TCP",))
    try:
        hold(served(rig.external, target, "owner", source=rig.external))
    finally:
        node.namespace.cease("owner")


def _listens(sockets: str, port: int) -> bool:
    return re.search(rf":{port}\s", sockets) is not None


def test_should_implement_service_kubernetes_io_service_proxy_name(services: Services, rig: Rig) -> None:
    """Two proxies would fight for a Service that says whose it is (S-01)."""
    backend, clients = rig.node(1).pod(1), (rig.node(1).pod(2), rig.node(1))
    foreign = services.create("service-proxy-disabled", labels={PROXY_NAME: "foo-bar"})
    toggled = services.create("service-proxy-toggled")
    for service in (foreign, toggled):
        service.endpoints(backend)
    hold(*(served(client, toggled.cluster(), backend) for client in clients))
    stays(*(fails(client, foreign.cluster()) for client in clients), times=1)
    toggled.label(**{PROXY_NAME: "foo-bar"})
    hold(*(fails(client, toggled.cluster()) for client in clients))
    toggled.label(**{PROXY_NAME: None})
    hold(*(served(client, toggled.cluster(), backend) for client in clients))
    stays(*(fails(client, foreign.cluster()) for client in clients), times=1)


def test_should_serve_endpoints_on_same_port_and_different_protocols(services: Services, rig: Rig) -> None:
    """Dropping one protocol would take the other with it, or leave it there."""
    backend, client = rig.node(1).pod(1), rig.node(2).pod(1)
    service = services.create("multiprotocol-test", type="LoadBalancer")
    service.endpoints(backend)
    targets = service.cluster("tcp"), service.cluster("udp")
    hold(*(served(client, target, backend) for target in targets))
    for kept, lost in ((tcp, 1), (udp, 0)):
        node_ports = {port["name"]: port["nodePort"] for port in service.body["spec"]["ports"]}
        port = kept()
        service.change(ports=[{**port, "nodePort": node_ports.get(port["name"])}])
        hold(served(client, targets[1 - lost], backend), fails(client, targets[lost]))
        service.change(ports=[tcp(), udp()])
        hold(*(served(client, target, backend) for target in targets))
