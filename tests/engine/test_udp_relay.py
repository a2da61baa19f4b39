"""Datagrams through the engine: whole, in order, and from the address that was dialled."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from support.rig import PATIENCE, Address, record, wait_until
from support.udprig import UdpBackend, ask, echo, named, silent, udp_rig, udp_socket

#: SOL_UDP, UDP_SEGMENT: several datagrams in one call
UDP_SEGMENT = 103
#: SOL_SOCKET: datagrams leave without a checksum, and the kernel refuses trains of such
SO_NO_CHECK = 11


@pytest.mark.parametrize("size", [0, 1, 1400, 2000, 9000, 65_507])
def test_datagrams_of_every_size_pass_both_ways(size: int) -> None:
    """C-09, U-23: an empty datagram is one, and the longest that IPv4 carries must not be cut."""
    with UdpBackend(echo) as backend, udp_rig([backend.address]) as r, r.client() as client:
        datagram = bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert ask(client, datagram) == datagram
        assert backend.received[0][0] == datagram
        wait_until(lambda: r.counters().bytes_out == size, "the bytes to be counted")
        counters = r.counters()
        assert (counters.flows, counters.active, counters.tries, counters.bytes_in) == (1, 1, 1, size)
        assert counters.backends[0].bytes_in == counters.backends[0].bytes_out == size
        assert r.engine.counters().datagrams_dropped == 0


def test_a_session_keeps_its_backend_and_its_source() -> None:
    """A client's datagrams go to one backend, from one port, in their order, as long as the session lasts."""
    with UdpBackend(echo) as a, UdpBackend(echo) as b, udp_rig([a.address, b.address]) as r, r.client() as client:
        sent = [b"%d" % n for n in range(200)]
        for start in range(0, len(sent), 20):
            for datagram in sent[start : start + 20]:
                client.send(datagram)
            assert [client.recv(100) for _ in range(20)] == sent[start : start + 20]
        (received,) = [backend.received for backend in (a, b) if backend.received]
        assert [datagram for datagram, _ in received] == sent
        assert len({source for _, source in received}) == 1
        assert r.counters().tries == 1


def test_many_clients_get_their_own_answers() -> None:
    """Answers that reach another client are the worst that a proxy can do."""
    with contextlib.ExitStack() as stack:
        backends = [stack.enter_context(UdpBackend(named(name))) for name in (b"a", b"b", b"c")]
        r = stack.enter_context(udp_rig([backend.address for backend in backends], workers=2))
        clients = [stack.enter_context(r.client()) for _ in range(300)]
        for turn in range(3):
            for number, client in enumerate(clients):
                client.send(b"%d.%d" % (number, turn))
            answers = [client.recv(100).split(b":") for client in clients]
            assert [question for _, question in answers] == [b"%d.%d" % (number, turn) for number in range(300)]
        assert r.sessions() == 300
        assert {name for name, _ in answers} == {b"a", b"b", b"c"}
        assert r.counters().active == sum(backend.active for backend in r.counters().backends) == 300


def test_trains_pass_as_the_same_datagrams() -> None:
    """Senders like QUIC hand over many datagrams at once; joining them must not change what arrives (C-09)."""
    with UdpBackend(silent) as backend, udp_rig([backend.address]) as r, r.client() as client:
        client.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1200)
        train = b"".join(bytes([n]) * 1200 for n in range(40)) + b"end"
        for _ in range(5):
            client.send(train)
        wait_until(lambda: len(backend.received) == 5 * 41, "all datagrams")
        sizes = [len(datagram) for datagram, _ in backend.received]
        assert sizes == ([1200] * 40 + [3]) * 5
        assert b"".join(datagram for datagram, _ in backend.received) == train * 5
        assert r.engine.counters().datagrams_dropped == 0


def test_datagrams_of_interleaved_clients_are_joined_with_none_of_another() -> None:
    """Datagrams that are read together leave together: each backend must see each client's own, whole and in order."""
    sizes = [1200, 1200, 700, 1200, 0, 64, 64, 64, 1300, 1200]
    with UdpBackend(silent) as backend, udp_rig([backend.address]) as r, r.client() as one, r.client() as other:
        sent: dict[bytes, list[bytes]] = {b"1": [], b"2": []}
        for turn in range(20):
            for number, size in enumerate(sizes):
                for name, client in ((b"1", one), (b"2", other)):
                    datagram = (name + b"%02d%02d" % (turn, number)).ljust(size, b".") if size else b""
                    sent[name].append(datagram)
                    client.send(datagram)
        wait_until(lambda: len(backend.received) == 2 * 20 * len(sizes), "all datagrams")
        by_source: dict[Address, list[bytes]] = {}
        for datagram, source in backend.received:
            by_source.setdefault(source, []).append(datagram)
        assert {datagrams[0][:1]: datagrams for datagrams in by_source.values()} == sent
        assert r.engine.counters().datagrams_dropped == 0


def test_answers_pass_where_the_kernel_takes_no_trains() -> None:
    """Some ways carry no trains (tunnels that encrypt, sockets without checksums): answers then leave one by one."""
    with udp_socket() as backend, udp_rig([backend.getsockname()]) as r:
        listener = udp_socket()
        listener.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        address = listener.getsockname()
        r.engine.add_listener(listener.detach(), "p")
        with udp_socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            client.connect(address)
            client.send(b"go")
            _, proxy = backend.recvfrom(10)
            backend.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1200)
            for turn in range(20):
                train = b"".join(bytes([turn, n]) * 600 for n in range(16)) + b"end"
                backend.sendto(train, proxy)
                assert b"".join(client.recv(2000) for _ in range(17)) == train
        assert r.engine.counters().datagrams_dropped == 0
        assert r.engine.counters().trains_refused > 0


def test_a_stream_of_answers_arrives_in_order() -> None:
    """A busy backend's datagrams are read joined after a while: none is lost or overtakes another."""
    with udp_socket() as backend, udp_rig([backend.getsockname()]) as r, r.client() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        client.send(b"go")
        _, proxy = backend.recvfrom(10)
        for start in range(0, 2000, 50):
            for number in range(start, start + 50):
                backend.sendto(b"%04d" % number + bytes(800), proxy)
            assert [int(client.recv(1000)[:4]) for _ in range(50)] == list(range(start, start + 50))


@pytest.mark.parametrize(
    ("listen", "family", "dialled"),
    [
        ("0.0.0.0", socket.AF_INET, "127.0.0.5"),
        ("::", socket.AF_INET6, "::1"),
    ],
)
def test_a_listener_on_all_addresses_answers_from_the_one_dialled(listen: str, family: int, dialled: str) -> None:
    """A resolver ignores an answer from another address of the same machine."""
    with UdpBackend(echo) as backend, udp_rig([backend.address]) as r:
        sock = udp_socket((listen, 0), family=family)
        port = sock.getsockname()[1]
        r.engine.add_listener(sock.detach(), "p")
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE)
            client.connect((dialled, port))
            assert ask(client) == b"who?"


def test_an_ipv4_client_of_a_dual_stack_listener_is_answered() -> None:
    """A listener on :: that takes both families must answer IPv4 clients from the IPv4 address they dialled."""
    with UdpBackend(echo) as backend, udp_rig([backend.address]) as r:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        port = sock.getsockname()[1]
        r.engine.add_listener(sock.detach(), "p")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE)
            client.connect(("127.0.0.6", port))
            assert ask(client) == b"who?"


def test_the_same_client_at_two_listeners_has_two_sessions() -> None:
    """The address dialled is part of a session: two Services asked from one port must not be mixed up."""
    with UdpBackend(named(b"a")) as a, UdpBackend(named(b"b")) as b, udp_rig([a.address]) as r:
        other = udp_socket()
        address = other.getsockname()
        r.engine.apply([record("q", [b.address])], [], 9)
        r.engine.add_listener(other.detach(), "q")
        with udp_socket() as client:
            for _ in range(3):
                client.sendto(b"1", r.address)
                assert client.recvfrom(10) == (b"a:1", r.address)
                client.sendto(b"2", address)
                assert client.recvfrom(10) == (b"b:2", address)
        assert r.sessions() == 2


def test_listeners_are_spread_over_workers_and_can_be_moved_and_removed() -> None:
    """`retarget_listener` concerns new sessions; an address is free again when `remove_listener` returns."""
    with UdpBackend(named(b"a")) as a, UdpBackend(named(b"b")) as b, udp_rig([a.address], workers=2) as r:
        r.engine.apply([record("q", [b.address])], [], 9)
        with r.client() as old, r.client() as new:
            assert ask(old) == b"a:who?"
            r.engine.retarget_listener(r.listener, "q")
            assert ask(new) == b"b:who?"
            assert ask(old) == b"a:who?", "a session keeps its backend while that is in its pool"
            r.engine.remove_listener(r.listener)
            udp_socket(r.address).close()
            r.wait_sessions(0)
            old.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                old.recv(10)


def test_sockets_that_serve_nothing_are_refused() -> None:
    """A mistake of the host must be told at once, and the descriptor must not leak."""
    with udp_rig([]) as r:
        unbound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with pytest.raises(OSError, match="cannot listen"):
            r.engine.add_listener(unbound.detach(), "p")
        stream, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        other.close()
        with pytest.raises(OSError, match="cannot listen"):
            r.engine.add_listener(stream.detach(), "p")
        assert r.engine.counters().listeners == 1


def test_a_forked_child_leaves_the_sessions_alone() -> None:
    """A host that forks keeps its service: sessions end and begin although a child holds copies of their sockets."""
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(UdpBackend(echo))
        r = stack.enter_context(udp_rig([backend.address], udp_timeout=0.2, udp_stream_timeout=0.2))
        client = stack.enter_context(r.client())
        assert ask(client) == b"who?"
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        try:
            os.close(read)
            r.wait_sessions(0)
            assert ask(client) == b"who?"
            r.wait_sessions(0)
        finally:
            os.close(write)
            os.waitpid(child, 0)
