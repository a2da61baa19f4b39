"""The agent's end and its start: in order, by a crash, beside other programs, and by what happens to its Node."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.api import Api
from support.nodes import Host, Node, Rig
from support.rig import wait_until

from .agents import Agent, Agents
from .expect import dropped, hold, served, stays
from .flows import Stream, connect, exchange
from .services import Service, Services
from .state import differences, programmed, traces
from .traffic import Traffic

pytestmark = [pytest.mark.nodes]
#: what other programs of a node have: a filter that lets all pass, and what Docker makes for a published port
FILTER = """table inet firewall {
    chain input { type filter hook input priority 0; policy accept; tcp dport 22 accept; }
}
"""
DOCKER = (
    "-t nat -N DOCKER",
    "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
    "-t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
    "-t nat -A POSTROUTING -s 198.18.99.0/24 -j MASQUERADE",
    "-N DOCKER-USER",
    "-A FORWARD -j DOCKER-USER",
    "-A DOCKER-USER -j RETURN",
)
#: seconds from the command line to the first answer, most of them Python's own start
AT_ONCE = 10.0


@pytest.fixture
def node(rig: Rig) -> Node:
    """The node whose agent has a bad day."""
    return rig.node(3)


@pytest.fixture
def agent(agents: Agents, node: Node) -> Agent:
    """The agent there."""
    return agents.of(node)


@pytest.fixture
def service(services: Services, rig: Rig) -> Service:
    """A Service of all kinds, with one endpoint on another node."""
    service = services.create("restarted", type="NodePort")
    service.endpoints(rig.node(1).pod(1))
    return service


def _all_served(service: Service, node: Node, rig: Rig) -> None:
    backend, clients = rig.node(1).pod(1), (node.pod(1), node)
    hold(
        *(
            served(client, service.cluster(port, family), backend)
            for client in clients
            for port in ("tcp", "udp")
            for family in (4, 6)
        ),
        *(served(rig.external, service.node_port(node, port), backend) for port in ("tcp", "udp")),
    )


def _without_agent(agent: Agent) -> dict[str, str]:
    """End the agent, if it runs, and remove its rules; what is left then."""
    if agent.running:
        assert agent.stop() == 0
    assert agent.command("cleanup", f"--state-socket={agent.socket}").returncode == 0
    return traces(agent.node)


def test_an_ordered_end_serves_to_the_last_moment_and_cleanup_leaves_nothing(
    service: Service, rig: Rig, node: Node, agent: Agent
) -> None:
    """Every update of the agent would cut its connections, or take every Service away while one of them is idle."""
    before = _without_agent(agent)
    assert "spliceway" not in before["nft"]
    agent.start()
    agent.wait_ready()
    _all_served(service, node, rig)
    during = traces(node)
    assert during["nft"] != before["nft"]
    assert during["rules of IPv6"] != before["rules of IPv6"]
    with connect(node.pod(1), service.cluster()) as pod, connect(node, service.cluster("tcp", 6)) as process:
        exchange(pod)
        exchange(process)
        agent.signal(signal.SIGTERM)
        for _ in range(3):
            exchange(pod)
            exchange(process)
        stays(*(served(client, service.cluster(), rig.node(1).pod(1)) for client in (node.pod(1), node)), times=1)
        assert agent.running
    assert agent.wait_end() == 0
    assert traces(node)["rules of IPv6"] == during["rules of IPv6"], "the next agent's clients wait for it"
    stays(*(dropped(client, service.cluster()) for client in (node.pod(1), node)), times=1)
    assert _without_agent(agent) == before


def test_a_crash_loses_flows_but_the_next_start_serves_at_once(
    service: Service, rig: Rig, node: Node, agent: Agent
) -> None:
    """A crash would need somebody who cleans up, or leave doubled rules behind (W-06)."""
    _all_served(service, node, rig)
    before, rules = programmed(agent), traces(node)
    with connect(node.pod(1), service.cluster()) as standing:
        exchange(standing)
        agent.kill()
        with pytest.raises((OSError, AssertionError)):
            exchange(standing)
    # Nobody is told that the Service is gone: a client that has patience is served when the agent is back.
    with ThreadPoolExecutor() as pool:
        patient = [pool.submit(connect, client, service.cluster(), 3 * AT_ONCE) for client in (node.pod(1), node)]
        stays(*(dropped(client, service.cluster()) for client in (node.pod(1), node)), times=1)
        started = time.monotonic()
        agent.start()
        agent.wait_ready()
        _all_served(service, node, rig)
        assert time.monotonic() - started < AT_ONCE
        for connection in patient:
            with connection.result() as sock:
                exchange(sock)
    wrong = differences(before, programmed(agent))
    assert not wrong, "\n".join(wrong)
    after = traces(node)
    assert {name: after[name] for name in after if name != "nft"} == {
        name: rules[name] for name in rules if name != "nft"
    }
    assert after["nft"].count("table inet") == 1


def test_other_nodes_do_not_notice_a_restart(
    service: Service, rig: Rig, node: Node, agent: Agent, agents: Agents
) -> None:
    """A roll-out of the agent over all nodes would be an outage of each Service, node after node."""
    clients: list[Host] = [rig.node(1).pod(2), rig.node(2).pod(2), rig.node(2)]
    targets = [service.cluster(port) for port in ("tcp", "udp")]
    hold(*(served(client, target, rig.node(1).pod(1)) for client in clients for target in targets))
    with (
        Traffic(itertools.product(clients, targets), 3.0) as traffic,
        Stream(rig.node(2).pod(3), service.cluster("udp")) as stream,
    ):
        stream.wait_served_by(rig.node(1).pod(1).name)
        assert agent.stop() == 0
        agent.start()
        agent.wait_ready()
        agent.kill()
        agent.start()
        agent.wait_ready()
        stream.stays_with(rig.node(1).pod(1).name)
    assert not traffic.failures, traffic.failures
    assert traffic.seen["served"] > 100


@pytest.mark.parametrize("on_node", [False, True], ids=["pod", "node"])
def test_a_datagram_client_is_served_again_after_a_restart(
    service: Service, rig: Rig, node: Node, agent: Agent, on_node: bool
) -> None:
    """What the kernel saw while nobody captured would stay with it, and the client's port with that (C-10)."""
    backend = rig.node(1).pod(1)
    client: Host = node if on_node else node.pod(1)
    for family in (4, 6):
        with Stream(client, service.cluster("udp", family)) as stream:
            stream.wait_served_by(backend.name)
            agent.stop()
            agent.start()
            agent.wait_ready()
            before = len(stream.answers)
            wait_until(lambda: len(stream.answers) > before, "the stream goes on")  # noqa: B023
            stream.stays_with(backend.name)


@pytest.fixture
def others(node: Node) -> Iterator[None]:
    """Rules of other programs on the node, which are gone afterwards."""
    node.namespace.run("nft", "-f", "-", text=FILTER)
    for line in DOCKER:
        node.namespace.run("iptables", *line.split())
    yield
    node.namespace.run("nft", "delete table inet firewall")
    for line in reversed(DOCKER):
        if " -A " in f" {line}":
            node.namespace.run("iptables", *line.replace("-A ", "-D ").split())
    for line in ("-t nat -X DOCKER", "-X DOCKER-USER"):
        node.namespace.run("iptables", *line.split())


def test_rules_of_other_programs_work_and_stay(
    others: None, service: Service, rig: Rig, node: Node, agent: Agent
) -> None:
    """A firewall and containers of Docker's would lose their rules, or Services theirs."""
    published = f"-t nat -A DOCKER -p tcp --dport 8088 -j DNAT --to-destination {node.pod(2).ipv4}:8080"
    node.namespace.run("iptables", *published.split())
    try:
        target = service.node_port(node)._replace(port=8088)
        before = _without_agent(agent)
        hold(served(rig.external, target, node.pod(2), source=rig.external))
        agent.start()
        agent.wait_ready()
        _all_served(service, node, rig)
        hold(served(rig.external, target, node.pod(2), source=rig.external))
        during = traces(node)
        assert (during["iptables"], during["ip6tables"]) == (before["iptables"], before["ip6tables"])
        agent.kill()
        assert _without_agent(agent) == before
        agent.start()
        agent.wait_ready()
        assert _without_agent(agent) == before
    finally:
        node.namespace.run("iptables", *published.replace("-A ", "-D ").split())


def test_cleanup_leaves_nothing_of_a_crash(service: Service, rig: Rig, node: Node, agent: Agent) -> None:
    """A node that gets another proxy would have Services that answer to nobody."""
    before = _without_agent(agent)
    agent.start()
    agent.wait_ready()
    _all_served(service, node, rig)
    polite = agent.command("cleanup", f"--state-socket={agent.socket}")
    assert polite.returncode == 1
    assert "agent runs" in polite.stderr
    _all_served(service, node, rig)
    agent.kill()
    assert traces(node) != before
    cleaned = agent.command("cleanup", f"--state-socket={agent.socket}")
    assert (cleaned.returncode, cleaned.stderr) == (0, "")
    assert "removed" in cleaned.stdout
    assert traces(node) == before
    again = agent.command("cleanup", f"--state-socket={agent.socket}")
    assert (again.returncode, again.stdout) == (0, "nothing to remove\n")


def test_a_node_that_gets_another_address_ends_its_agent(
    service: Service, rig: Rig, node: Node, agent: Agent, api: Api
) -> None:
    """A node that was renumbered would go on answering for the address that it had (W-23)."""
    _all_served(service, node, rig)
    status = node.manifest()["status"]
    elsewhere = [
        {**each, "address": "198.18.32.99"} if each["address"] == node.ipv4 else each for each in status["addresses"]
    ]
    api.patch("Node", node.name, {"status": {"addresses": elsewhere}}, subresource="status")
    try:
        assert agent.wait_end() == 1
        assert "198.18.32.99" in agent.log
        assert "spliceway" in traces(node)["nft"], "clients wait for the agent that follows"
    finally:
        api.patch("Node", node.name, {"status": status}, subresource="status")
    agent.start()
    agent.wait_ready()
    _all_served(service, node, rig)
