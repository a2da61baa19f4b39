"""How a flow gets its backend: retries that no client notices, and honest failure when nothing is left."""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
from functools import partial

import pytest

from support.rig import Backend, Rig, closed_port, echo, named, policy, read_all, reset, rig, wait_until


def ask(r: Rig, host: str = "127.0.0.1") -> bytes:
    with r.connect(host) as client:
        client.sendall(b"who?")
        return client.recv(10)


def ask_on(client: socket.socket) -> bytes:
    client.sendall(b"who?")
    return client.recv(10)


BALANCES = ("maglev", "random", "round-robin", "least-conn", "p2c", "source-hash", "sed", "nq")


@pytest.mark.parametrize("balance", BALANCES)
def test_a_dead_backend_is_never_noticed(balance: str) -> None:
    """With one of three backends dead, every client is served by another one, whatever the balancing."""
    with Backend(named(b"a")) as a, Backend(named(b"b")) as b, rig([]) as r:
        r.apply([a.address, b.address, closed_port()], balance=balance)
        names = collections.Counter(ask(r, f"127.0.1.{number}") for number in range(150))
        assert set(names) == {b"a", b"b"}
        counters = r.counters()
        assert counters.failed == 0
        # Those that look at the load may never choose the dead one; the others must have met it and gone on.
        assert counters.retries == counters.saved
        if balance in ("maglev", "random", "round-robin", "source-hash"):
            assert counters.saved > 0


def test_failures_are_told_with_their_number_in_a_row() -> None:
    """Health needs to hear of a dead backend at once, and of its return."""
    dead = closed_port()
    with Backend(named(b"a")) as a, rig([a.address, dead]) as r:
        for _ in range(10):
            assert ask(r) == b"a"
        failures = [e for e in r.engine.take_events() if e.kind == "connect-failed"]
        assert [e.count for e in failures] == list(range(1, len(failures) + 1))
        assert {(e.pool, e.backend, e.reason) for e in failures} == {
            ("p", f"{dead[0]}:{dead[1]}", "connection refused")
        }
        with Backend(named(b"b"), dead):
            wait_until(lambda: ask(r) == b"b", "the backend that came back")
            assert "connect-recovered" in {e.kind for e in r.engine.take_events()}


def test_no_backend_at_all_resets_the_client() -> None:
    """With nothing to connect to, the client must see an error, not an empty reply."""
    with rig([]) as r, pytest.raises(ConnectionResetError), r.connect() as client:
        client.recv(1)
    with rig([closed_port(), closed_port()]) as r:
        with pytest.raises(ConnectionResetError), r.connect() as client:
            client.recv(1)
        r.wait_idle()
        assert (r.counters().failed, r.counters().tries) == (1, 2)


def test_the_only_backend_is_tried_again() -> None:
    """A single Pod that restarts quickly costs its clients nothing but a short wait."""
    address = closed_port()
    with rig([address]) as r:
        r.apply([address], retry=policy(tries=16, deadline=10.0))
        client = r.connect()
        wait_until(lambda: r.counters().tries >= 2, "a second try of the same backend")
        with Backend(named(b"back"), address):
            client.sendall(b"who?")
            assert client.recv(10) == b"back"
        client.close()


def test_a_dial_under_way_outlives_the_pools_last_backend() -> None:
    """A client that was accepted before the last endpoint left must not be reset for it while that may still serve."""
    address = closed_port()
    with rig([address]) as r:
        r.apply([address], retry=policy(tries=16, deadline=10.0))
        with r.connect() as client:
            wait_until(lambda: r.counters().tries >= 2, "a second try of the backend")
            r.apply([], retry=policy(tries=16, deadline=10.0))
            with Backend(named(b"last"), address):
                client.sendall(b"who?")
                assert client.recv(10) == b"last"


def test_who_comes_just_after_the_last_backend_left_is_served() -> None:
    """A handshake that began while there were endpoints ends a moment after they left: its client must not be reset."""

    def is_reset() -> bool:
        try:
            assert ask(r) == b"b"
        except ConnectionResetError:
            return True
        return False

    with Backend(named(b"a")) as a, Backend(named(b"b")) as b, rig([a.address]) as r:
        for _ in range(3):
            r.apply([b.address])
            r.apply([])
            assert ask(r) == b"b"
        wait_until(is_reset, "the moment to be over", patience=5.0)
        r.wait_idle()
        assert (r.counters().no_backend, r.counters().failed) == (1, 0)
        assert a.accepted == 0


def test_the_budget_bounds_retries() -> None:
    """In an outage, retries must not multiply the load on what still works."""
    with (
        Backend(named(b"a")) as a,
        rig([a.address, closed_port()], retry=policy(budget_ratio=0, budget_reserve=5)) as r,
    ):
        served = 0
        for _ in range(60):
            with contextlib.suppress(ConnectionError):
                served += ask(r) == b"a"
        counters = r.counters()
        assert counters.budget_exhausted > 0
        assert counters.retries <= 10  # the reserve, and what a second or two refills
        assert served == 60 - counters.failed


def test_a_flow_stays_on_its_backend_while_the_pool_changes() -> None:
    """Adding and removing endpoints must never cut a connection that stands (C-01)."""
    with Backend(named(b"a")) as a, Backend(named(b"b")) as b, rig([a.address]) as r, r.connect() as client:
        client.sendall(b"who?")
        assert client.recv(10) == b"a"
        r.apply([b.address])
        assert ask(r) == b"b"
        client.sendall(b"still?")
        assert client.recv(10) == b"a"
        leaving = [c for c in r.counters().backends if c.draining]
        assert [(c.port, c.active) for c in leaving] == [(a.address[1], 1)]


def greet(client: socket.socket, byte: bytes = b"x") -> None:
    client.sendall(byte)
    assert client.recv(1) == byte


def test_a_drain_deadline_cuts_what_is_left_of_a_removed_backend() -> None:
    """An operator who bounds the drain gets the node back in time, and only those flows are cut."""
    with Backend(echo) as a, Backend(echo) as b, rig([]) as r:
        r.apply([a.address], drain=0.2)
        with r.connect() as old:
            greet(old)
            r.apply([b.address], drain=0.2)
            with r.connect() as new:
                greet(new)
                with pytest.raises(ConnectionResetError):
                    old.recv(1)
                greet(new)
        assert r.counters().ended_drained == 1


def test_a_drain_that_is_set_after_the_backend_left_counts_as_well() -> None:
    """An operator who bounds the drain while flows still run must not wait for ever."""
    with Backend(echo) as a, Backend(echo) as b, rig([a.address]) as r, r.connect() as old:
        greet(old)
        r.apply([b.address])
        r.apply([b.address], drain=0.1)
        with pytest.raises(ConnectionResetError):
            old.recv(1)


def test_a_removed_and_returned_backend_keeps_its_flows() -> None:
    """An endpoint that flaps within its drain time must not lose connections."""
    with Backend(echo) as a, Backend(echo) as b, rig([]) as r:
        r.apply([a.address], drain=0.2)
        with r.connect() as client:
            greet(client)
            r.apply([b.address], drain=0.2)
            r.apply([a.address, b.address], drain=0.2)
            with r.connect() as second, r.connect() as third:  # one of them is on b
                greet(second)
                greet(third)
                r.apply([a.address], drain=0.2)
                wait_until(lambda: r.counters().ended_drained == 1, "the flow on the backend that did not return")
            greet(client)


class Dies:
    """A backend that takes the request and dies, the first ``times`` times; then it answers."""

    def __init__(self, times: int, by_reset: bool) -> None:
        self.left, self.by_reset = times, by_reset
        self.lock = threading.Lock()

    def __call__(self, connection: socket.socket) -> None:
        request = connection.recv(1 << 16)
        with self.lock:
            self.left -= 1
            dies = self.left >= 0
        if not dies:
            return connection.sendall(b"done:" + request)
        return reset(connection) if self.by_reset else None


@pytest.mark.parametrize("by_reset", [True, False])
def test_replay_saves_a_request_in_the_hands_of_a_dying_backend(by_reset: bool) -> None:
    """With replay, a client whose backend dies before it answers gets its answer from another one."""
    handler = Dies(2, by_reset)
    with Backend(handler) as a, Backend(handler) as b, Backend(handler) as c, rig([]) as r:
        r.apply([a.address, b.address, c.address], retry=policy(replay=True))
        with r.connect() as client:
            client.sendall(b"GET /")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"done:GET /"
        r.wait_idle()
        counters = r.counters()
        assert (counters.replayed, counters.failed) == (2, 0)
        assert [e.kind for e in r.engine.take_events()].count("backend-aborted") == 2


def test_a_backend_that_resets_before_anything_was_sent_is_replaced() -> None:
    """A Pod that is killed with connections in its accept queue costs nobody anything, replay or not."""
    with Backend(reset) as a, Backend(named(b"b")) as b, rig([a.address, b.address]) as r:

        def on_b(flows: int) -> bool:
            return any(c.port == b.address[1] and c.active and c.flows == flows for c in r.counters().backends)

        for number in range(1, 11):
            with r.connect() as client:
                wait_until(partial(on_b, number), "the flow to be on the backend that lives")
                assert ask_on(client) == b"b"
            r.wait_idle()
        assert (r.counters().failed, r.counters().replayed) == (0, 0)
        assert r.counters().saved > 0


def test_replay_covers_a_backend_that_closes_before_it_was_sent_anything() -> None:
    """With replay, a backend that was killed between the connect and the request is replaced as well."""

    def closes(connection: socket.socket) -> None:
        connection.close()

    with Backend(closes) as a, Backend(named(b"b")) as b, rig([]) as r:
        r.apply([a.address, b.address], retry=policy(replay=True))
        for _ in range(10):
            with r.connect() as client:
                assert ask_on(client) == b"b"


def test_without_replay_nothing_is_sent_twice() -> None:
    """Replay is opt-in: a request that may have been acted on must not be repeated unasked."""
    handler = Dies(1, by_reset=True)
    with Backend(handler) as a, Backend(handler) as b, rig([a.address, b.address]) as r, r.connect() as client:
        client.sendall(b"POST /pay")
        with pytest.raises(ConnectionResetError):
            client.recv(10)
        assert (a.accepted + b.accepted, r.counters().replayed) == (1, 0)


def test_replay_ends_with_the_first_byte_and_with_what_can_be_held() -> None:
    """Once the client saw a byte, or sent more than is held, a second backend would corrupt the stream."""

    def answers_then_dies(connection: socket.socket) -> None:
        connection.sendall(b"half")
        connection.recv(1)
        reset(connection)

    def swallows_then_dies(connection: socket.socket) -> None:
        left = 40_000
        while left > 0:
            left -= len(connection.recv(left))
        reset(connection)

    for handler, request in ((answers_then_dies, b"x"), (swallows_then_dies, bytes(40_000))):
        with Backend(handler) as a, Backend(handler) as b, rig([]) as r:
            r.apply([a.address, b.address], retry=policy(replay=True))
            with r.connect() as client:
                if handler is answers_then_dies:
                    assert client.recv(4) == b"half"
                client.sendall(request)
                with pytest.raises(ConnectionResetError):
                    client.recv(10)
            assert (a.accepted + b.accepted, r.counters().replayed) == (1, 0)
