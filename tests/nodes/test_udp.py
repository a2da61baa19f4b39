"""UDP clients that keep their port, as resolvers and games do, while all changes around them (C-04 to C-10)."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from support.nodes import VIP_CIDRS, Host, Rig

from .expect import hold, refused
from .flows import Stream
from .services import Endpoint, Service, Services, Target, terminating, udp, unready

pytestmark = [pytest.mark.nodes]
VIPS = (VIP_CIDRS[0].replace(".0.0/18", ".7.7"), VIP_CIDRS[1].replace("::/48", "::7"))


class Case(NamedTuple):
    """One way to a Service whose only Pod is replaced."""

    client: Host
    target: Target
    service: Service
    first: Host
    second: Host


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest) -> int:
    """The IP version."""
    return int(request.param)


@pytest.fixture(params=["node port", "cluster ip", "internal local", "host network client", "load balancer"])
def case(request: pytest.FixtureRequest, services: Services, rig: Rig, family: int) -> Case:
    """The client is on another node than the server, where that may be."""
    one, two = rig.node(1), rig.node(2)
    match request.param:
        case "node port":
            service = services.create("udp-cycle", udp(), type="NodePort")
            return Case(two.pod(1), service.node_port(one, "udp", family), service, one.pod(1), one.pod(2))
        case "internal local":
            service = services.create("udp-cycle", udp(), internalTrafficPolicy="Local")
            return Case(one.pod(3), service.cluster("udp", family), service, one.pod(1), one.pod(2))
        case "load balancer":
            service = services.create("udp-cycle", udp(), type="LoadBalancer")
            service.load_balance(*VIPS)
            vip = VIPS[(4, 6).index(family)]
            return Case(rig.external, service.vip(vip, "udp"), service, one.pod(1), two.pod(2))
        case _:
            service = services.create("udp-cycle", udp())
            client: Host = two if request.param == "host network client" else two.pod(1)
            return Case(client, service.cluster("udp", family), service, one.pod(1), one.pod(2))


def test_should_be_able_to_preserve_udp_traffic_when_server_pod_cycles(case: Case) -> None:
    """A client that keeps its port would send to a Pod that is gone, or to nobody, for ever (C-08, C-10).

    The first Pod goes on answering after its end was told: who stays with it is found out.
    """
    first, second = case.first, case.second
    with Stream(case.client, case.target) as stream:
        stream.wait_refused()
        case.service.endpoints(first)
        stream.wait_served_by(first.name)
        case.service.endpoints(first, second)
        stream.stays_with(first.name)
        case.service.endpoints(terminating(first), second)
        stream.stays_with(first.name)
        case.service.endpoints(Endpoint(first, ready=False, serving=False, terminating=True), second)
        stream.wait_served_by(second.name)
        case.service.endpoints(second)
        stream.stays_with(second.name)
        case.service.endpoints()
        stream.wait_refused()
        case.service.endpoints(first)
        stream.wait_served_by(first.name)


def test_should_preserve_udp_traffic_when_the_pod_is_gone_before_the_cluster_knows(
    services: Services, rig: Rig, family: int
) -> None:
    """Between a crash and its news, datagrams would go nowhere although another Pod is there (C-09)."""
    client, doomed, other = rig.node(2).pod(1), rig.node(1).pod(1), rig.node(1).pod(2)
    doomed.namespace.serve("doomed", doomed.hosts, 9090, ("UDP",))
    service = services.create("udp-crash", udp())
    service.endpoints(doomed, ports={"udp": 9090}, part="doomed")
    with Stream(client, service.cluster("udp", family)) as stream:
        stream.wait_served_by("doomed")
        service.endpoints(other, part="other")
        stream.stays_with("doomed")
        doomed.namespace.cease("doomed")
        stream.wait_served_by(other.name)
        service.remove_endpoints("doomed")
        stream.stays_with(other.name)


@pytest.mark.parametrize("on_node", [False, True], ids=["pod", "node"])
def test_should_be_able_to_preserve_udp_traffic_when_initial_unready_endpoints_get_ready(
    services: Services, rig: Rig, family: int, on_node: bool
) -> None:
    """A client that started before its server would never reach it (C-10)."""
    client: Host = rig.node(2) if on_node else rig.node(2).pod(1)
    backend = rig.node(1).pod(1)
    service = services.create("udp-unready", udp())
    service.endpoints(unready(backend))
    target = service.cluster("udp", family)
    hold(refused(client, target))
    with Stream(client, target) as stream:
        stream.wait_refused()
        service.endpoints(backend)
        stream.wait_served_by(backend.name)
        # Of a flow that it had tracked, the kernel would remember what is not true any more.
        tracked = rig.node(2).namespace.run("conntrack", "-L", "-p", "udp", "-f", f"ipv{family}")
        assert f" dst={target.host} sport={stream.port} " not in tracked


def test_should_cleanup_entries_when_the_service_target_port_changes(services: Services, rig: Rig, family: int) -> None:
    """After a roll-out that moves the container's port, old clients would stay with the old port (C-05)."""
    backend = rig.node(1).pod(1)
    backend.namespace.serve("moved", backend.hosts, 9090, ("UDP",))
    try:
        service = services.create("udp-target-port", udp(), type="NodePort")
        service.endpoints(backend)
        with Stream(rig.node(2).pod(1), service.node_port(rig.node(1), "udp", family)) as stream:
            stream.wait_served_by(backend.name)
            service.endpoints(backend, ports={"udp": 9090})
            stream.wait_served_by("moved")
    finally:
        backend.namespace.cease("moved")


def test_a_session_outlives_what_does_not_concern_it(services: Services, rig: Rig) -> None:
    """Calls and games would be torn from their server by a change of policy, affinity or topology (C-08)."""
    client, first, second = rig.node(1).pod(3), rig.node(2).pod(1), rig.node(1).pod(1)
    service = services.create("udp-stays", udp())
    service.endpoints(first)
    with Stream(client, service.cluster("udp")) as stream:
        stream.wait_served_by(first.name)
        service.endpoints(first, second)
        service.change(sessionAffinity="ClientIP")
        stream.stays_with(first.name)
        service.endpoints(Endpoint(first, zones=("zone-b",)), Endpoint(second, zones=("zone-a",)))
        stream.stays_with(first.name)
        for policy in ("Local", "Cluster"):  # with Local, new sessions go to the other one
            service.change(internalTrafficPolicy=policy)
            stream.stays_with(first.name)
        service.change(internalTrafficPolicy="Local")
        service.endpoints(second)
        stream.wait_served_by(second.name)


def test_a_session_ends_with_its_service(services: Services, rig: Rig) -> None:
    """Whoever had a flow to a deleted Service would still reach its Pods; and not the one that has its port next."""
    client, first, second = rig.node(2).pod(1), rig.node(1).pod(1), rig.node(1).pod(2)
    service = services.create("udp-deleted", udp(nodePort=31_090), type="NodePort")
    service.endpoints(first)
    with Stream(client, service.node_port(rig.node(1), "udp")) as stream:
        stream.wait_served_by(first.name)
        service.delete()
        stream.wait_refused()
        again = services.create("udp-again", udp(nodePort=31_090), type="NodePort")
        again.endpoints(second)
        stream.wait_served_by(second.name)
