"""UDP sessions: how they get a backend, when they change it, and how they end."""

from __future__ import annotations

import collections
import contextlib
import socket
import time

import pytest

from support.child import run_child
from support.rig import Address, Backend, listening, policy, wait_until
from support.rig import named as tcp_named
from support.udprig import UdpBackend, UdpRig, ask, closed_udp_port, echo, named, silent, udp_rig, udp_socket


def kinds(r: UdpRig) -> collections.Counter[str]:
    return collections.Counter(event.kind for event in r.engine.take_events())


@pytest.mark.parametrize("balance", ["maglev", "random", "round-robin", "source-hash"])
def test_a_dead_backend_is_never_noticed(balance: str) -> None:
    """C-09: the first datagram of a client that meets a closed port goes to another backend, and is answered."""
    with UdpBackend(named(b"a")) as a, udp_rig([]) as r:
        dead = closed_udp_port()
        r.apply([a.address, dead], balance=balance, retry=policy(budget_reserve=1000))
        for number in range(40):
            with r.client((f"127.0.1.{number + 1}", 0)) as client:
                assert ask(client) == b"a:who?"
        counters = r.counters()
        assert (counters.flows, counters.failed, counters.no_backend) == (40, 0, 0)
        assert counters.saved == counters.retries == counters.replayed > 0
        by_port = {backend.port: backend for backend in counters.backends}
        assert by_port[dead[1]].connect_failures == counters.retries
        assert by_port[dead[1]].active == 0
        assert kinds(r) == {"connect-failed": counters.retries}


def test_all_first_datagrams_go_to_the_next_backend_in_order() -> None:
    """A request of several datagrams is of use to another backend only if it gets all of them."""
    with UdpBackend(named(b"a")) as a, udp_rig([]) as r:
        r.apply([closed_udp_port(), a.address], balance="round-robin")
        clients = [r.client() for _ in range(2)]  # one of them meets the dead backend first
        try:
            for client in clients:
                for part in (b"1", b"", b"3"):
                    client.send(part)
                assert [client.recv(10) for _ in range(3)] == [b"a:1", b"a:", b"a:3"]
        finally:
            for client in clients:
                client.close()
        assert r.counters().saved == 1


def test_an_error_between_two_datagrams_loses_none() -> None:
    """The kernel reports the refusal of one datagram to the next one that is sent: that one must not be lost."""
    with udp_socket() as a, UdpBackend(named(b"b")) as b, udp_rig([]) as r, r.client() as client:
        r.apply([a.getsockname()])
        client.send(b"1")
        assert a.recv(10) == b"1"
        a.close()
        r.apply([_address_of(r), b.address], balance="round-robin")
        client.send(b"2")  # refused by a
        assert client.recv(10) == b"b:1"
        assert client.recv(10) == b"b:2"
        assert r.counters().saved == 1


def _address_of(r: UdpRig) -> Address:
    (backend,) = r.counters().backends
    return (backend.host, backend.port)


def test_nothing_left_to_try_drops_and_tells() -> None:
    """When every backend refuses, the datagram is lost, counted and reported; nothing stays behind."""
    with udp_rig([closed_udp_port(), closed_udp_port()]) as r, r.client() as client:
        client.send(b"x")
        wait_until(lambda: r.counters().failed == 1, "the session to be given up")
        assert (r.counters().tries, r.counters().flows, r.sessions()) == (2, 1, 0)
        assert r.engine.counters().datagrams_dropped == 1
        assert kinds(r) == {"connect-failed": 2, "no-backend": 1}


def test_the_only_backend_is_tried_again() -> None:
    """A single Pod that restarts its socket within the retries' waits still gets the question."""
    address = closed_udp_port()
    with udp_rig([address]) as r, r.client() as client:
        client.send(b"1")
        wait_until(lambda: r.counters().tries >= 2, "the first refusal")
        client.send(b"2")
        with UdpBackend(named(b"late"), address):
            assert [client.recv(20), client.recv(20)] == [b"late:1", b"late:2"]
        assert r.counters().saved == 1
        kinds_seen = kinds(r)
        assert kinds_seen["connect-recovered"] == 1
        assert kinds_seen["no-backend"] == 0


def test_a_backend_that_refuses_after_an_answer_ends_the_session() -> None:
    """C-09: a client whose backend went away in mid-session reaches another one, without waiting for the idle end."""
    with UdpBackend(named(b"a")) as a, UdpBackend(named(b"b")) as b, udp_rig([a.address, b.address]) as r:
        with r.client() as client:
            name = ask(client)[:1]
            (a if name == b"a" else b).close()
            # The first one is lost in the closed port: an answer to it may have come, so it is not sent again.
            client.send(b"lost")
            wait_until(lambda: r.counters().ended_backend_reset == 1, "the refusal")
            other = b"b" if name == b"a" else b"a"
            assert ask(client) == other + b":who?"
        assert r.counters().ended_backend_reset == 1


def test_a_client_with_a_fixed_port_follows_the_endpoints() -> None:
    """C-04, C-08, C-10, U-26: it starts before any endpoint exists, reaches 1, then 2 at once when 1 has left."""
    with UdpBackend(named(b"1")) as one, UdpBackend(named(b"2")) as two, udp_rig([]) as r, r.client() as client:
        client.send(b"nobody")
        wait_until(lambda: r.counters().no_backend == 1, "the datagram that nobody takes")
        assert r.sessions() == 0, "nothing may stay of the time without endpoints"
        r.apply([one.address])
        assert ask(client) == b"1:who?"
        r.apply([one.address, two.address])
        assert ask(client) == b"1:who?", "a new endpoint moves nobody"
        r.apply([two.address])
        assert ask(client) == b"2:who?", "the very next datagram"
        counters = r.engine.counters()
        assert (counters.sessions, counters.sessions_moved, counters.datagrams_dropped) == (1, 1, 1)
        assert r.counters().ended_drained == 1
        r.engine.apply([], ["p"], 99)
        r.wait_sessions(0)
        assert r.engine.counters().sessions_moved == 2


def test_answers_of_a_backend_that_left_are_not_relayed() -> None:
    """C-08: traffic in one direction only must move as well: what a removed backend still sends goes nowhere."""
    with udp_socket() as gone, UdpBackend(named(b"b")) as b, udp_rig([gone.getsockname()]) as r, r.client() as client:
        client.send(b"stream")
        _, proxy = gone.recvfrom(10)
        gone.sendto(b"1", proxy)
        assert client.recv(10) == b"1"
        r.apply([b.address])
        r.wait_sessions(0)
        gone.sendto(b"2", proxy)
        assert ask(client) == b"b:who?"


def test_weight_zero_and_bad_health_move_nobody() -> None:
    """C-05: a terminating or unready endpoint that still serves keeps its sessions, and gets no new ones."""
    with UdpBackend(named(b"a")) as a, UdpBackend(named(b"b")) as b, udp_rig([a.address]) as r:
        with r.client() as old, r.client() as new:
            assert ask(old) == b"a:who?"
            r.apply([a.address, b.address], weights=(0, 1))
            assert ask(new) == b"b:who?"
            assert ask(old) == b"a:who?"
        assert r.engine.counters().sessions_moved == 0


def test_affinity_holds_for_udp() -> None:
    """A-01, A-04: with ClientIP affinity every port of a client reaches one backend; without it they spread."""
    with contextlib.ExitStack() as stack:
        backends = [stack.enter_context(UdpBackend(named(name))) for name in (b"a", b"b", b"c")]
        addresses = [backend.address for backend in backends]
        r = stack.enter_context(udp_rig([]))
        seen: dict[bool, set[bytes]] = {}
        for sticky in (True, False):
            r.apply(addresses, balance="random", affinity=("p", 60.0) if sticky else None)
            clients = [stack.enter_context(r.client()) for _ in range(40)]
            seen[sticky] = {ask(client) for client in clients}
        assert len(seen[True]) == 1
        assert len(seen[False]) == 3


def test_idle_sessions_end() -> None:
    """C-09: a session without an answer ends sooner than one with; neither holds a descriptor for ever."""
    with (
        UdpBackend(silent) as mute,
        UdpBackend(echo) as speaks,
        udp_rig([], udp_timeout=0.15, udp_stream_timeout=1.0) as r,
    ):
        r.apply([mute.address])
        with r.client() as asks, r.client() as talks:
            asks.send(b"?")
            r.wait_sessions(1)
            r.engine.apply(
                [("p", "random", policy(), None, None, ((*mute.address, 0, True), (*speaks.address, 1, True)))], [], 50
            )
            began = time.monotonic()
            ask(talks)
            wait_until(lambda: r.sessions() == 1, "the unanswered session to end")
            assert r.counters().ended_closed == 1
            r.wait_sessions(0)
            assert 1.0 <= time.monotonic() - began < 10.0
            assert r.counters().active == 0
            ask(talks)  # and begins again
        assert r.counters().ended_closed == 2


def test_traffic_in_either_direction_keeps_a_session() -> None:
    """A stream that only one side sends is not idle."""
    with udp_socket() as backend, udp_rig([backend.getsockname()], udp_timeout=0.3, udp_stream_timeout=0.3) as r:
        with r.client() as client:
            client.send(b"go")
            _, proxy = backend.recvfrom(10)
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                backend.sendto(b"x", proxy)
                assert client.recv(10) == b"x"
        assert r.counters().flows == 1
        assert r.counters().ended_closed == 0


def test_at_the_limit_the_longest_idle_makes_room() -> None:
    """A flood of clients costs those that are silent, never those that talk, and never more than the bound."""
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(UdpBackend(echo))
        r = stack.enter_context(udp_rig([backend.address], workers=1, max_sessions=10))
        talks = stack.enter_context(r.client())
        ask(talks)
        source = backend.received[0][1]
        for _ in range(100):
            ask(stack.enter_context(r.client()))
            ask(talks)
        counters = r.engine.counters()
        assert (counters.sessions, counters.session_limit_hits) == (10, 91)
        assert sum(client == source for _, client in backend.received) == 101, "its session was never ended"


def test_the_limit_holds_over_all_workers() -> None:
    """A listener whose worker has no session yet gets room from the worker that has the oldest one."""
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(UdpBackend(echo))
        r = stack.enter_context(udp_rig([backend.address], workers=2, max_sessions=20))
        for _ in range(20):
            ask(stack.enter_context(r.client()))
        other = udp_socket()
        address = other.getsockname()
        r.engine.add_listener(other.detach(), "p")
        for _ in range(20):
            client = stack.enter_context(udp_socket())
            client.connect(address)
            assert ask(client) == b"who?"
        r.wait_sessions(20)
        assert r.engine.counters().session_limit_hits == 20


OUT_OF_DESCRIPTORS = """
import resource
from support.udprig import *
with UdpBackend(echo) as backend, udp_rig([backend.address], workers=1) as r:
    clients = [r.client() for _ in range(120)]
    used = max(client.fileno() for client in clients)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for _ in range(2):
        for client in clients:
            assert ask(client) == b"who?"
    counters = r.engine.counters()
    assert counters.fd_limit_hits > 0, counters
    assert 10 < counters.sessions < 60, counters
    assert counters.datagrams_dropped == 0, counters
    assert r.counters().failed == 0 and r.counters().backends[0].connect_failures == 0, "no backend is to blame"
"""


def test_without_descriptors_the_oldest_makes_room() -> None:
    """U-04: at the limit of descriptors every client is still served."""
    run_child(OUT_OF_DESCRIPTORS)


def test_a_drain_does_not_wait_for_idle_sessions() -> None:
    """On SIGTERM an agent must not spend its whole grace period on DNS clients that have their answers."""
    with UdpBackend(echo) as backend, udp_rig([backend.address]) as r, r.client() as client:
        ask(client)
        began = time.monotonic()
        r.engine.drain(20.0)
        wait_until(lambda: any(event.kind == "drained" for event in r.engine.take_events()), "the end of the drain")
        assert time.monotonic() - began < 3.0
        assert r.sessions() == 0
        assert r.counters().active == 0


def test_close_ends_all_sessions() -> None:
    """A host that closes its engine gets its descriptors back, and counters that add up."""
    with UdpBackend(echo) as backend, udp_rig([backend.address]) as r:
        clients = [r.client() for _ in range(10)]
        for client in clients:
            ask(client)
        r.engine.close()
        assert r.sessions() == 0
        for client in clients:
            client.close()


def test_tcp_and_udp_share_a_worker_fairly() -> None:
    """A flood of datagrams must not starve connections of the same worker."""
    with UdpBackend(silent) as sink, Backend(tcp_named(b"t")) as tcp, udp_rig([sink.address], workers=1) as r:
        r.engine.apply([("t", "maglev", policy(), None, None, ((*tcp.address, 1, True),))], [], 9)
        listener = listening()
        address = listener.getsockname()
        r.engine.add_listener(listener.detach(), "t")
        with r.client() as flood:
            for _ in range(20):
                for _ in range(200):
                    flood.send(b"x" * 1000)
                with socket.create_connection(address, 5) as client:
                    client.sendall(b"?")
                    assert client.recv(1) == b"t"
