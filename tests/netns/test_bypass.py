"""Backends whose answers to the client's address take a way past the node: they are served all the same (M-02, M-09).

A second link joins client and backend, and the backend's route to the client is that one: what it answers to the
client's address never passes the node, and the client's kernel, which knows nothing of it, resets it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.namespace import Namespace
from support.rig import PATIENCE, Policy, policy, record, wait_until
from support.udpnode import BACKEND, CAPTURED, CLIENT, FAMILY, INNER, VIP, UdpNode, udp_node

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces; run the tests as root"),
]

#: another address of the client, which the backend answers by way of the node
OTHER = "198.18.1.3"
PORT, SILENT = 8080, 8081
_MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")


class Node:
    """A node, a client and a backend, of which the latter two have a link of their own as well."""

    def __init__(self, made: UdpNode) -> None:
        self.made = made
        self.engine = made.engine
        for family in (4, 6):
            self._listen(family)
            serve(made.backend, family)
        client, backend = made.client, made.backend
        client.ip(
            f"link add direct address {_MACS[0]} type veth peer name direct address {_MACS[1]} netns {backend.pid}",
            "link set direct up",
            f"address add {OTHER}/24 dev eth0",
        )
        client.sysctl({"ipv4/conf/all/rp_filter": 0, "ipv4/conf/direct/rp_filter": 0})
        backend.ip("link set direct up")
        for family in (4, 6):
            backend.ip(
                f"neigh add {CLIENT[family]} lladdr {_MACS[0]} dev direct nud permanent",
                f"route add {CLIENT[family]} dev direct",
            )
        spaces = (made.node, client, backend)
        wait_until(lambda: not any(space.run("ip", "-6", "address", "show", "tentative") for space in spaces), "IPv6")

    def _listen(self, family: int) -> None:
        node, name = self.made.node, "ip" if family == 4 else "ip6"
        sock = node.open_socket(FAMILY[family], socket.SOCK_STREAM)
        level, option = (socket.SOL_IP, 19) if family == 4 else (socket.IPPROTO_IPV6, 75)
        sock.setsockopt(level, option, 1)
        sock.bind(("127.0.0.1" if family == 4 else "::1", 0))
        sock.listen(100)
        target = f"{'127.0.0.1' if family == 4 else '[::1]'}:{sock.getsockname()[1]}"
        self.engine.add_transparent_listener(sock.detach(), "pod")
        node.run(
            "nft",
            f"table {name} t {{ chain in {{ type filter hook prerouting priority raw; {name} daddr {VIP[family]}"
            f" meta l4proto tcp tproxy to {target} meta mark set {CAPTURED} accept; }}; }}",
        )

    def apply(self, ports: tuple[int, ...], family: int = 4, retry: Policy | None = None) -> None:
        """Serve the VIP by the backend's ports; backends are to see the client."""
        pool = record("p", [(BACKEND[family], port) for port in ports], retry=retry)
        self.engine.apply([pool], [], 1, [("tcp", VIP[family], 80, (("p", True), None, None))])

    def ask(self, source: str = CLIENT[4]) -> str:
        """The client's address as the backend saw it."""
        family = 6 if ":" in source else 4
        with self.made.client.open_socket(FAMILY[family], socket.SOCK_STREAM) as client:
            client.settimeout(PATIENCE)
            client.bind((source, 0))
            client.connect((VIP[family], 80))
            return client.recv(100).decode()

    @contextlib.contextmanager
    def silence(self, port: int) -> Iterator[None]:
        """The backend hears nothing on a port."""
        rule = f"{{ type filter hook input priority 0; tcp dport {port} drop; }}"
        self.made.backend.run("nft", f"table inet silence {{ chain in {rule}; }}")
        yield
        self.made.backend.run("nft", "delete table inet silence")


def serve(space: Namespace, family: int) -> None:
    """Tell each client its address."""

    def accept() -> None:
        with listener, contextlib.suppress(OSError):
            while True:
                connection, (host, *_) = listener.accept()
                with connection:
                    connection.sendall(host.encode())

    listener = space.open_socket(FAMILY[family], socket.SOCK_STREAM)
    listener.bind((BACKEND[family], PORT))
    listener.listen(100)
    threading.Thread(target=accept, daemon=True).start()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with udp_node(tmp_path) as made:
        yield Node(made)


@pytest.mark.parametrize("family", [4, 6])
def test_a_client_whose_answers_bypass_the_node_is_served_from_its_address(node: Node, family: int) -> None:
    """A Pod that dials another node, two Pods on one bridge, or a cloud that drops foreign sources: all of them would
    reach nobody. The backend is not to blame, and later flows do not wait."""
    node.apply((PORT,), family)
    for flows in range(1, 4):
        assert node.ask(CLIENT[family]) == INNER[family]
        pool = node.engine.pool_counters("p")
        (backend,) = pool.backends
        assert (pool.flows, pool.source_not_kept) == (flows, flows)
        assert pool.tries == flows + 1, "the first flow had two, and all others one"
        assert (pool.retries, pool.saved, pool.failed, backend.connect_failures) == (0, 0, 0, 0)
    counters = node.engine.counters()
    assert (counters.bypasses, counters.bypass_limit_hits) == (1, 0)
    assert node.engine.take_events() == []


def test_other_clients_of_the_backend_keep_their_address(node: Node) -> None:
    """One client in a strange network must not cost all others their address."""
    node.apply((PORT,))
    assert [node.ask(source) for source in (CLIENT[4], OTHER, CLIENT[4], OTHER)] == [INNER[4], OTHER, INNER[4], OTHER]
    assert node.engine.pool_counters("p").source_not_kept == 2


def test_a_backend_that_is_silent_to_both_addresses_is_to_blame(node: Node) -> None:
    """A dead node must be noticed as before, by traffic, and leave no memory: its backends come back some day."""
    node.apply((PORT, SILENT))
    with node.silence(SILENT):
        assert {node.ask(OTHER) for _ in range(2)} == {OTHER}
    pool = node.engine.pool_counters("p")
    failures = {backend.port: backend.connect_failures for backend in pool.backends}
    assert failures == {PORT: 0, SILENT: 1}
    assert (pool.tries, pool.retries, pool.saved, pool.source_not_kept) == (4, 1, 1, 0)
    (event,) = node.engine.take_events()
    assert (event.kind, event.backend, event.count) == ("connect-failed", f"{BACKEND[4]}:{SILENT}", 1)
    assert node.engine.counters().bypasses == 0


def test_a_backend_that_is_slow_is_no_evidence(node: Node) -> None:
    """After a moment of overload a minute's flows would lose the client's address. And a policy of one try is no reason
    to refuse the second dial."""
    node.apply((PORT,), retry=policy(tries=1, deadline=PATIENCE))
    answers: list[str] = []
    with node.silence(PORT):
        client = threading.Thread(target=lambda: answers.append(node.ask(OTHER)), daemon=True)
        client.start()
        wait_until(lambda: node.engine.pool_counters("p").tries == 2, "the second dial")
    client.join(PATIENCE)
    assert answers == [INNER[4]]
    assert node.engine.pool_counters("p").source_not_kept == 1
    assert node.engine.counters().bypasses == 0
    assert node.ask(OTHER) == OTHER


def question(node: Node, family: int = 4, source: str = "", port: int = 5300) -> socket.socket:
    """A UDP client of the VIP, whose backend is to see it."""
    pool = record("udp", [(BACKEND[family], port)])
    node.engine.apply([pool], [], 2, [("udp", VIP[family], 53, (("udp", True), None, None))])
    client = node.made.dial(node.made.client, (VIP[family], 53), (source or CLIENT[family], 0))
    client.settimeout(PATIENCE)
    return client


def unanswered(client: socket.socket, text: bytes) -> None:
    """Ask, and wait in vain, with the patience of a resolver that asks again."""
    client.settimeout(0.6)
    client.send(text)
    with pytest.raises(TimeoutError):
        client.recv(100)
    client.settimeout(PATIENCE)


@pytest.mark.parametrize("family", [4, 6])
def test_a_udp_client_that_asks_again_is_answered(node: Node, family: int) -> None:
    """DNS through a Service would never work for such clients. One question is lost at most, and later ones none."""
    node.made.serve(node.made.backend, (BACKEND[family], 5300))
    with question(node, family) as client:
        unanswered(client, b"who?")
        for text in (b"who?", b"and now?"):
            client.send(text)
            assert client.recv(100) == INNER[family].encode() + b" " + text
    with question(node, family) as client:
        client.send(b"another")
        assert client.recv(100) == INNER[family].encode() + b" another"
    pool = node.engine.pool_counters("udp")
    assert (pool.flows, pool.source_not_kept, pool.tries, pool.saved) == (2, 2, 2, 0)
    assert node.engine.counters().bypasses == 1


def test_udp_clients_profit_from_what_connections_have_shown(node: Node) -> None:
    """A client that asks once only gets its answer where TCP is used between the same two."""
    node.made.serve(node.made.backend, (BACKEND[4], 5300))
    node.apply((PORT,))
    assert node.ask() == INNER[4]
    with question(node) as client:
        client.send(b"who?")
        assert client.recv(100) == INNER[4].encode() + b" who?"


def test_a_udp_client_that_waits_for_no_answer_keeps_its_address(node: Node) -> None:
    """Logs and statistics go one way, and are sorted by who sent them. Only what is sent again and again is tried from
    the node's address, once."""
    with node.made.backend.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.settimeout(PATIENCE)
        collector.bind((BACKEND[4], 5301))
        for texts, seen in (
            ((b"one", b"two", b"three"), (OTHER, OTHER, OTHER)),
            ((b"beat", b"beat", b"beat", b"beat"), (OTHER, INNER[4], OTHER, OTHER)),
        ):
            with question(node, source=OTHER, port=5301) as client:
                for text in texts:
                    unanswered(client, text)
            received = [collector.recvfrom(100) for _ in texts]
            assert [(text, host) for text, (host, _) in received] == list(zip(texts, seen, strict=True))
    assert node.engine.pool_counters("udp").source_not_kept == 0
    assert node.engine.counters().bypasses == 0
