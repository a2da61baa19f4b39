"""The agent with other flags than the usual ones, as clients notice it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.nodes import Node, Rig

from .agents import Agent, Agents
from .expect import fails, hold, refused, served
from .services import PROXY_NAME, Services

pytestmark = [pytest.mark.nodes]
BOTH = ("tcp", "udp")


@pytest.fixture
def node(rig: Rig) -> Node:
    """The node whose agent has other flags."""
    return rig.node(3)


@pytest.fixture
def agent(agents: Agents, node: Node) -> Iterator[Agent]:
    """Its agent, ended: the test starts it. Afterwards it is as ever."""
    agent = agents.of(node)
    agent.stop()
    yield agent
    agent.check()
    agent.stop()


def _start(agent: Agent, *flags: str) -> None:
    agent.start(*flags)
    agent.wait_ready()


def test_node_ports_at_some_addresses_only(services: Services, rig: Rig, node: Node, agent: Agent) -> None:
    """A port would be open at an address that faces the world, or closed where clients are told to go (D-06, D-07)."""
    backend = rig.node(1).pod(1)
    service = services.create("nodeport-addresses", type="NodePort")
    service.endpoints(backend)
    _start(agent, "--nodeport-addresses=198.18.33.0/24")
    own, other = ([service.node_port(address, port) for port in BOTH] for address in (node.ipv4, node.others[0]))
    sixth = [service.node_port(address, port) for port in BOTH for address in (node.ipv6, node.others[1])]
    for client in (rig.external, node.pod(1), node):
        hold(
            *(served(client, target, backend) for target in (*other, *sixth)),
            *(refused(client, target) for target in own),
        )
    agent.stop()
    _start(agent, "--nodeport-addresses=primary,::/0", "--localhost-nodeports=false")
    loopback = [service.node_port(address, port) for port in BOTH for address in ("127.0.0.1", "::1")]
    hold(
        *(served(rig.external, target, backend) for target in (*own, *sixth)),
        *(refused(rig.external, target) for target in other),
        *(refused(node, target) for target in loopback),
    )


@pytest.mark.parametrize(
    "flags",
    [
        ("--detect-local-mode=NodeCIDR",),
        ("--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"),
    ],
    ids=["node cidr", "interface prefix"],
)
def test_pods_are_known_by_other_signs(
    services: Services, rig: Rig, node: Node, agent: Agent, flags: tuple[str, ...]
) -> None:
    """In a cluster without one CIDR for all Pods, backends would see the node, or a load balancer's clients be lost.

    A Pod of another node is outside here, so that its answers find the way back (M-01, M-02).
    """
    backend, foreign = rig.node(1).pod(1), rig.node(2).pod(1)
    service = services.create("detectors", type="NodePort", externalTrafficPolicy="Local")
    service.endpoints(backend, node.pod(2))
    _start(agent, *flags)
    for family in (4, 6):
        pod = node.pod(1)
        inside = [service.cluster(port, family) for port in BOTH]
        outside = [service.node_port(node, port, family) for port in BOTH]
        hold(
            *(served(pod, target, backend, node.pod(2), source=pod) for target in (*inside, *outside)),
            *(served(foreign, target, node.pod(2), source=foreign) for target in outside),
            *(served(node, target, backend, node.pod(2), source=node) for target in (*inside, *outside)),
        )


def test_masquerade_all(services: Services, rig: Rig, node: Node, agent: Agent) -> None:
    """In a network that only routes nodes' addresses, answers to Pods would be lost (M-06)."""
    backend, pod = rig.node(1).pod(1), node.pod(1)
    service = services.create("masquerade-all")
    service.endpoints(backend)
    _start(agent, "--masquerade-all")
    hold(*(served(pod, service.cluster(port, family), backend, source=node) for port in BOTH for family in (4, 6)))


def test_beside_another_proxy(services: Services, rig: Rig, node: Node, agent: Agent) -> None:
    """Who tries it beside kube-proxy would have two proxies for a Service, or none (S-01)."""
    backend = rig.node(1).pod(1)
    mine = services.create("mine", labels={PROXY_NAME: "spliceway"})
    others = services.create("others")
    for service in (mine, others):
        service.endpoints(backend)
    _start(agent, "--service-proxy-name=spliceway")
    hold(served(node.pod(1), mine.cluster(), backend), fails(node.pod(1), others.cluster()))
    hold(served(rig.node(1).pod(2), others.cluster(), backend), fails(rig.node(1).pod(2), mine.cluster()))
    others.label(**{PROXY_NAME: "spliceway"})
    hold(served(node.pod(1), others.cluster(), backend), fails(rig.node(1).pod(2), others.cluster()))


def test_without_external_ips(services: Services, rig: Rig, node: Node, agent: Agent) -> None:
    """Whoever may create Services could take any address's traffic for himself (S-05, CVE-2020-8554)."""
    backend, claimed = rig.node(1).pod(1), rig.external.ipv4
    service = services.create("no-external-ips", externalIPs=[claimed], families=(4,))
    service.endpoints(backend)
    target = service.vip(claimed)
    rig.external.namespace.serve("victim", [claimed], 80, ("TCP",))
    try:
        hold(served(rig.node(1), target, backend))
        _start(agent, "--no-external-ips")
        hold(served(node, target, "victim"), served(node, service.cluster(), backend))
    finally:
        rig.external.namespace.cease("victim")
