"""UDP that was sent to addresses of nobody: answers come from there, and backends see who asks (C-08, C-09, M-09)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.rig import PATIENCE, policy, record, wait_until
from support.udpnode import BACKEND, CLIENT, INNER, NODE, VIP, UdpNode, udp_node
from support.udprig import ask

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces; run the tests as root"),
]

Target = tuple[str, bool] | None
Route = tuple[str, str, int, tuple[Target, Target, Target]]


def route(host: str, port: int, target: Target) -> Route:
    """Clients of all classes go to one target."""
    return ("udp", host, port, (target, target, target))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[UdpNode]:
    with udp_node(tmp_path) as made:
        for family in (4, 6):
            made.serve(made.backend, (BACKEND[family], 5300))
            made.serve(made.client, (CLIENT[family], 5300))
        pools = [record(f"dns{family}", [(BACKEND[family], 5300)]) for family in (4, 6)]
        pools += [record(f"hairpin{family}", [(CLIENT[family], 5300)]) for family in (4, 6)]
        routes: list[Route] = []
        for family in (4, 6):
            kept, plain = (f"dns{family}", True), (f"dns{family}", False)
            routes.append(("udp", VIP[family], 53, (kept, plain, plain)))
            routes.append(route(VIP[family], 54, plain))
            routes.append(("udp", VIP[family], 55, ((f"hairpin{family}", True), None, None)))
            routes.append(route("0.0.0.0" if family == 4 else "::", 31000, plain))
        made.engine.apply(pools, [], 1, routes, [])
        yield made


@pytest.mark.parametrize("family", [4, 6])
def test_answers_come_from_the_address_dialled(node: UdpNode, family: int) -> None:
    """A client takes no answer from elsewhere. The second question must reach us too: our own socket for the answers
    has the address dialled, and must not swallow what clients send there."""
    for port in (53, 54):
        with node.dial(node.client, (VIP[family], port)) as client:
            for turn in range(5):
                assert ask(client, b"%d" % turn).split(b" ")[1] == b"%d" % turn
    with node.dial(node.client, (NODE[family], 31000)) as client:
        assert ask(client, b"node port") == INNER[family].encode() + b" node port"
    counters = node.engine.counters()
    assert (counters.sessions, counters.datagrams_dropped, counters.unrouted) == (3, 0, 0)


@pytest.mark.parametrize("family", [4, 6])
def test_the_source_is_kept_where_the_route_says_so(node: UdpNode, family: int) -> None:
    """M-09: Pods see the Pod that asks. M-05: a Pod that reaches itself must not see its own address, or the answer
    would go past us and be ignored."""
    for port, seen in ((53, CLIENT[family]), (54, INNER[family]), (55, NODE[family])):
        with node.dial(node.client, (VIP[family], port)) as client:
            for _ in range(3):
                assert ask(client, b"x") == seen.encode() + b" x", port
            if port == 53:
                # The client's port is its own, the backend sees another one of the same address.
                assert client.getsockname()[0] == seen


@pytest.mark.parametrize("family", [4, 6])
def test_processes_of_the_node_are_served(node: UdpNode, family: int) -> None:
    """The node's own processes (the kubelet, host-network Pods) ask Services like everybody else."""
    with node.dial(node.node, (VIP[family], 53)) as client:
        for _ in range(3):
            assert ask(client, b"x") == INNER[family].encode() + b" x"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("port", [53, 54])
def test_datagrams_above_the_mtu_pass(node: UdpNode, family: int, port: int) -> None:
    """C-09: links carry 1,500 bytes at once; longer datagrams arrive in fragments, and leave so."""
    with node.dial(node.client, (VIP[family], port)) as client:
        for size in (2000, 9000, 60_000):
            datagram = os.urandom(size)
            assert ask(client, datagram).split(b" ", 1)[1] == datagram
    assert node.engine.counters().datagrams_dropped == 0


def test_many_clients_through_all_workers(node: UdpNode) -> None:
    """Each client's port is served by one of several sockets; every answer finds its client."""
    clients = [node.dial(node.client, (VIP[4], 53)) for _ in range(200)]
    for turn in range(2):
        for number, client in enumerate(clients):
            client.send(b"%d.%d" % (number, turn))
        for number, client in enumerate(clients):
            assert client.recv(100) == CLIENT[4].encode() + b" %d.%d" % (number, turn)
    assert node.engine.counters().sessions == 200
    for client in clients:
        client.close()


def test_no_connection_tracking_is_left_behind(node: UdpNode) -> None:
    """A node that serves DNS must not fill its conntrack table; the rest of its traffic is tracked as before."""
    direct = node.dial(node.client, (BACKEND[4], 5300))
    assert ask(direct, b"x") == CLIENT[4].encode() + b" x"
    direct.close()
    for family in (4, 6):
        for space in (node.client, node.node):
            with node.dial(space, (VIP[family], 53)) as client:
                ask(client)
        with node.dial(node.client, (VIP[family], 54)) as client:
            ask(client, os.urandom(9000))
    entries = node.node.run("conntrack", "-L", "-p", "udp").splitlines()
    entries += node.node.run("conntrack", "-L", "-f", "ipv6", "-p", "udp").splitlines()
    assert len(entries) == 1, entries
    assert f"dst={BACKEND[4]} " in entries[0]


def test_a_route_that_goes_takes_its_sessions_along(node: UdpNode) -> None:
    """C-06: a Service that is deleted leaves nothing: no session, and no socket that has its address."""
    with node.dial(node.client, (VIP[4], 53)) as client, node.dial(node.client, (VIP[4], 54)) as other:
        ask(client)
        ask(other)
        assert f"{VIP[4]}:53 " in node.node.run("ss", "-una")
        node.engine.apply([], [], 2, [], [("udp", VIP[4], 53)])
        wait_until(lambda: node.engine.counters().sessions == 1, "its session to end")
        wait_until(lambda: f"{VIP[4]}:53 " not in node.node.run("ss", "-una"), "its socket to close")
        client.send(b"nobody")
        wait_until(lambda: node.engine.counters().datagrams_dropped == 1, "the datagram to be counted")
        assert ask(other).endswith(b" who?")
    assert node.engine.counters().sessions_moved == 1


def test_a_session_follows_its_route_to_a_pool_that_has_its_backend(node: UdpNode) -> None:
    """C-08: internalTrafficPolicy changes the pool, not who serves: calls and games go on with their server."""
    server = (BACKEND[4], 5300)

    def actives(*pools: str) -> list[tuple[int, int, int]]:
        counters = [node.engine.pool_counters(pool) for pool in pools]
        return [(each.flows, each.active, sum(backend.active for backend in each.backends)) for each in counters]

    with node.dial(node.client, (VIP[4], 53)) as client, node.dial(node.client, (VIP[4], 54)) as other:
        assert (ask(client), ask(other)) == (b"198.18.1.2 who?", b"198.18.2.1 who?")
        pool = record("dns4@local", [server, (BACKEND[4], 9)])
        node.engine.apply([pool], [], 2, [route(VIP[4], 53, ("dns4@local", False))], [])
        wait_until(lambda: actives("dns4", "dns4@local") == [(2, 1, 1), (1, 1, 1)], "the session to be in its new pool")
        assert ask(client) == b"198.18.1.2 who?", "its socket stays, and so does the client's address"
        node.engine.apply([], ["dns4"], 3, [route(VIP[4], 54, ("dns4@local", False))], [])
        wait_until(lambda: actives("dns4@local") == [(2, 2, 2)], "the session of a pool that was removed")
        assert (ask(client), ask(other)) == (b"198.18.1.2 who?", b"198.18.2.1 who?")
        assert node.engine.counters().sessions_moved == 0
        backends = node.engine.pool_counters("dns4@local").backends
        assert {each.port: (each.flows, each.bytes_in) for each in backends} == {5300: (2, 12), 9: (0, 0)}
        # Its new pool is the one whose changes concern it now.
        node.engine.apply([record("empty", [])], [], 4, [route(VIP[4], 54, ("empty", False))], [])
        wait_until(lambda: actives("dns4@local") == [(2, 1, 1)], "the session whose route leads elsewhere")
        node.engine.apply([record("dns4@local", [(BACKEND[4], 9)])], [], 5)
        wait_until(lambda: node.engine.counters().sessions == 0, "the session whose backend left")
        assert node.engine.counters().sessions_moved == 2
        assert actives("dns4@local") == [(2, 0, 0)]


def test_a_session_that_waits_for_its_backend_follows_its_route(node: UdpNode) -> None:
    """What a client asked while its server restarts must not be lost because a policy changes at the same time."""
    patient = policy(tries=16, deadline=10.0, budget_reserve=1000)
    server = (BACKEND[4], 5309)
    node.engine.apply([record("w", [server], retry=patient)], [], 2, [route(VIP[4], 65, ("w", False))], [])
    with node.dial(node.client, (VIP[4], 65)) as client:
        client.send(b"x")
        wait_until(lambda: node.engine.pool_counters("w").tries >= 2, "a second try")
        pool = record("w@local", [server], retry=patient)
        node.engine.apply([pool], ["w"], 3, [route(VIP[4], 65, ("w@local", True))], [])
        wait_until(lambda: node.engine.pool_counters("w@local").active == 1, "the session to be in its new pool")
        node.serve(node.backend, server)
        assert client.recv(100).endswith(b" x")
    counters = node.engine.pool_counters("w@local")
    assert (counters.saved, counters.flows, counters.active) == (1, 1, 1)
    assert (counters.backends[0].flows, counters.backends[0].active) == (1, 1)


def test_a_client_with_a_fixed_port_follows_the_endpoints(node: UdpNode) -> None:
    """C-10: it starts before the Service has an endpoint; when the first backend has left, the second one gets the very
    next datagram, with the client's own address (C-08)."""
    node.serve(node.backend, (BACKEND[4], 5301))
    node.engine.apply([record("late", [])], [], 2, [route(VIP[4], 60, ("late", True))], [])
    with node.dial(node.client, (VIP[4], 60), (CLIENT[4], 12345)) as client:
        client.send(b"nobody")
        wait_until(lambda: node.engine.counters().datagrams_dropped == 1, "the datagram that nobody takes")
        for generation, port in ((3, 5300), (4, 5301)):
            node.engine.apply([record("late", [(BACKEND[4], port)])], [], generation)
            assert ask(client, b"x") == CLIENT[4].encode() + b" x"
            (backend,) = node.engine.pool_counters("late").backends
            assert (backend.port, backend.flows) == (port, 1)


def test_a_backend_without_a_listener_is_replaced_across_the_network(node: UdpNode) -> None:
    """The refusal of a Pod on another machine arrives as ICMP, also when the client's source is kept."""
    node.engine.apply(
        [record("half", [(BACKEND[4], 9), (BACKEND[4], 5300)], balance="round-robin")],
        [],
        2,
        [route(VIP[4], 61, ("half", True)), route(VIP[4], 62, ("half", False))],
        [],
    )
    for port in (61, 62):
        for _ in range(4):
            with node.dial(node.client, (VIP[4], port)) as client:
                assert ask(client, b"x").endswith(b" x")
    counters = node.engine.pool_counters("half")
    assert counters.saved == counters.retries == 4


def test_a_node_that_is_gone_is_left_when_the_kernel_gives_it_up(node: UdpNode) -> None:
    """Nobody answers for the address of a Pod whose node is down: the kernel says so after its own tries, and what the
    client has asked goes to another backend (C-09)."""
    node.node.sysctl({"ipv4/neigh/p2/retrans_time_ms": 100, "ipv4/neigh/p2/mcast_solicit": 1})
    pool = record("gone", [("198.18.2.99", 5300), (BACKEND[4], 5300)], balance="round-robin")
    node.engine.apply([pool], [], 2, [route(VIP[4], 64, ("gone", False))], [])
    for _ in range(2):
        with node.dial(node.client, (VIP[4], 64)) as client:
            assert ask(client, b"x") == INNER[4].encode() + b" x"
    assert node.engine.pool_counters("gone").saved == 1
    (event,) = [event for event in node.engine.take_events() if event.kind == "connect-failed"]
    assert (event.backend, event.reason) == ("198.18.2.99:5300", "host unreachable")


def test_a_drain_lets_answers_through(node: UdpNode) -> None:
    """Listeners close at once, but the answer to a question that was asked before still reaches the client."""
    late = node.backend.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
    late.settimeout(PATIENCE)
    late.bind((BACKEND[4], 5302))
    node.engine.apply([record("slow", [late.getsockname()])], [], 2, [route(VIP[4], 63, ("slow", True))], [])
    with late, node.dial(node.client, (VIP[4], 63)) as client:
        client.send(b"x")
        _, proxy = late.recvfrom(10)
        node.engine.drain(20.0)
        late.sendto(b"answer", proxy)
        assert client.recv(10) == b"answer"
        wait_until(lambda: any(e.kind == "drained" for e in node.engine.take_events()), "the end", patience=3.0)
