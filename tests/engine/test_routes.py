"""Routes: what transparent listeners do with a connection, by what the client dialled and who it is.

An ordinary wildcard socket stands for a transparent one: what the client dialled is the name of what it accepts.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from spliceway._engine import Engine
from support.child import run_child
from support.rig import PATIENCE, Address, Backend, listening, named, record, wait_until

Target = tuple[str, bool] | None
Route = tuple[str, str, int, tuple[Target, Target, Target]]


@contextlib.contextmanager
def started(**options: object) -> Iterator[Engine]:
    """An engine whose workers never panicked."""
    engine = Engine(workers=2, **options)  # type: ignore[arg-type]
    engine.start()
    try:
        yield engine
        assert engine.counters().worker_panics == 0
    finally:
        engine.close()


def transparent(engine: Engine, client_class: str) -> tuple[int, int]:
    """A listener for clients of this class on all addresses; its number and port."""
    listener = listening(("0.0.0.0", 0))
    port = listener.getsockname()[1]
    return engine.add_transparent_listener(listener.detach(), client_class), port


def to(pool: str) -> tuple[Target, Target, Target]:
    return ((pool, False), (pool, False), (pool, False))


def ask(host: str, port: int) -> str:
    """Who answers a client that dials this, or ``reset``."""
    try:
        with socket.create_connection((host, port), PATIENCE) as client:
            client.sendall(b"who?")
            return client.recv(10).decode()
    except ConnectionResetError:
        return "reset"


def test_each_class_of_clients_gets_its_own_pool_of_a_frontend() -> None:
    """With externalTrafficPolicy Local a client from outside must not reach what only Pods may reach."""
    with Backend(named(b"cluster")) as a, Backend(named(b"local")) as b, started() as engine:
        ports = {name: transparent(engine, name)[1] for name in ("pod", "node", "ext")}
        targets = (("p", False), None, ("p@local", False))
        routes: list[Route] = [("tcp", "127.0.0.1", port, targets) for port in ports.values()]
        engine.apply([record("p", [a.address]), record("p@local", [b.address])], [], 1, routes)
        assert ask("127.0.0.1", ports["pod"]) == "cluster"
        assert ask("127.0.0.1", ports["ext"]) == "local"
        assert engine.counters().unrouted == 0
        assert ask("127.0.0.1", ports["node"]) == "reset"
        assert engine.counters().unrouted == 1


def test_one_listener_serves_all_frontends_and_the_exact_one_comes_first() -> None:
    """A ClusterIP whose port is also a NodePort of another Service must lead to its own Service."""
    with contextlib.ExitStack() as stack:
        backends = {name: stack.enter_context(Backend(named(name.encode()))) for name in ("a", "b", "node-port")}
        engine = stack.enter_context(started())
        _, port = transparent(engine, "pod")
        pools = [record(name, [backend.address]) for name, backend in backends.items()]
        routes: list[Route] = [
            ("tcp", "127.0.0.1", port, to("a")),
            ("tcp", "127.0.0.2", port, to("b")),
            ("tcp", "0.0.0.0", port, to("node-port")),
            ("udp", "127.0.0.4", port, to("a")),
            ("tcp", "::", port, to("a")),
        ]
        engine.apply(pools, [], 1, routes)
        found = [ask(f"127.0.0.{n}", port) for n in range(1, 5)]
        assert found == ["a", "b", "node-port", "node-port"]
        engine.apply([], [], 2, [("tcp", "127.0.0.1", port, to("b"))], [("tcp", "127.0.0.2", port)])
        assert [ask(f"127.0.0.{n}", port) for n in range(1, 4)] == ["b", "node-port", "node-port"]
        unknown = [("tcp", "127.0.0.9", port), ("tcp", "0.0.0.0", port)]
        engine.apply([], [], 3, [], unknown)
        assert [ask(f"127.0.0.{n}", port) for n in range(1, 4)] == ["b", "reset", "reset"]
        assert engine.counters().unrouted == 2


def test_a_route_waits_for_its_pool() -> None:
    """Order must not matter: a Service's route may come before its pool, and outlive it while the pool is replaced."""
    with Backend(named(b"p")) as backend, Backend(named(b"other")) as other, started() as engine:
        _, port = transparent(engine, "pod")
        engine.apply([], [], 1, [("tcp", "127.0.0.1", port, to("p"))])
        assert ask("127.0.0.1", port) == "reset"
        for generation in range(2, 8, 2):
            engine.apply([record("p", [backend.address])], [], generation)
            assert ask("127.0.0.1", port) == "p"
            # What takes places that become free must not be reached by this route.
            engine.apply([record(f"q{generation}", [other.address])], ["p"], generation + 1)
            assert ask("127.0.0.1", port) == "reset"
        engine.apply([], [], 9, [], [("tcp", "127.0.0.1", port)])
        engine.apply([record("r", [other.address])], [], 10)
        assert ask("127.0.0.1", port) == "reset"


def test_changes_of_routes_lose_and_mislead_nobody() -> None:
    """Thousands of Services come and go while clients of others connect."""
    with Backend(named(b"good")) as good, Backend(named(b"bad")) as bad, started() as engine:
        _, port = transparent(engine, "pod")
        engine.apply([record("p", [good.address])], [], 1, [("tcp", "127.0.0.1", port, to("p"))])
        seen: set[str] = set()
        stop = threading.Event()

        def clients() -> None:
            while not stop.is_set():
                seen.add(ask("127.0.0.1", port))

        threads = [threading.Thread(target=clients) for _ in range(4)]
        for thread in threads:
            thread.start()
        for turn, last in itertools.pairwise(range(2, 600)):
            routes: list[Route] = [("tcp", f"127.9.{turn // 256}.{turn % 256}", port, to(f"q{turn}"))]
            gone = [("tcp", f"127.9.{last // 256}.{last % 256}", port)]
            engine.apply([record(f"q{turn}", [bad.address])], [f"q{turn - 1}"], turn, routes, gone)
        stop.set()
        for thread in threads:
            thread.join()
        assert seen == {"good"}


def test_a_removed_transparent_listener_serves_what_waits_in_its_queue() -> None:
    """Leaving a node must not reset clients whose connection the kernel has accepted already."""
    with Backend(named(b"p")) as backend:
        engine = Engine(workers=1)
        listener = listening(("127.0.0.1", 0))
        address: Address = listener.getsockname()
        # The workers do not run yet, so the clients wait in the queue.
        number = engine.add_transparent_listener(listener.detach(), "ext")
        routes: list[Route] = [("tcp", *address, (None, None, ("p", False)))]
        engine.apply([record("p", [backend.address])], [], 1, routes)
        waiting = [socket.create_connection(address, PATIENCE) for _ in range(5)]
        engine.remove_listener(number)
        engine.start()
        for client in waiting:
            with client:
                client.sendall(b"who?")
                assert client.recv(10) == b"p"
        wait_until(lambda: engine.counters().flows == 0, "flows to end")
        engine.close()


def test_options_of_the_listening_socket_do_not_harm_connections() -> None:
    """With SO_LINGER inherited, closing a flow would block a worker or cut off the end of a reply."""
    with Backend(lambda connection: connection.sendall(b"x" * 3_000_000)) as backend, started() as engine:
        listener = listening()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        address: Address = listener.getsockname()
        engine.add_transparent_listener(listener.detach(), "pod")
        engine.apply([record("p", [backend.address])], [], 1, [("tcp", *address, to("p"))])
        for _ in range(10):
            with socket.create_connection(address, PATIENCE) as client:
                client.shutdown(socket.SHUT_WR)
                size = 0
                while chunk := client.recv(1 << 18):
                    size += len(chunk)
                assert size == 3_000_000


NOT_PERMITTED = """
from support.rig import *
from spliceway._engine import Engine
with Backend(named(b"a")) as a, rig([a.address], mark=MARK) as r:
    address = r.address
    if not MARK:  # the client's own address is to be kept
        listener = listening(("198.18.0.1", 0))
        address = listener.getsockname()
        r.engine.add_transparent_listener(listener.detach(), "pod")
        r.engine.apply([], [], 2, [("tcp", *address, (("p", True), None, None))])
    for _ in range(3):
        try:
            with socket.create_connection(address, PATIENCE) as client:
                assert not client.recv(1)
        except ConnectionResetError:
            continue
        raise AssertionError("the client was not reset")
    wait_until(lambda: r.engine.counters().flows == 0, "flows to end")
    counters, events = r.counters(), r.engine.take_events()
    assert counters.failed == 3 and counters.backends[0].connect_failures == 0, counters
    assert [e.kind for e in events].count("not-permitted") == 1, events
    assert {e.kind for e in events} == {"not-permitted", "no-backend"}, events
    assert all("CAP_NET_ADMIN" in e.reason for e in events), events
print("told")
"""


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace; run the tests as root")
@pytest.mark.parametrize("mark", [0, 32])
def test_a_missing_capability_is_told_and_not_blamed_on_backends(mark: int) -> None:
    """Without CAP_NET_ADMIN a node agent must say so, and health must not set all backends aside."""
    lose = "setpriv --bounding-set -net_admin,-net_raw --inh-caps -net_admin,-net_raw"
    set_up = f'ip link set lo up; ip addr add 198.18.0.1/32 dev lo; exec {lose} "$@"'
    prefix = ("unshare", "--net", "sh", "-c", set_up, "sh")
    assert run_child(f"MARK = {mark}\n{NOT_PERMITTED}", prefix=prefix) == "told\n"
