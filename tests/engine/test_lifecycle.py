"""Listeners, drains, threads, forks and exits: what a host program goes through with an engine."""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from spliceway._engine import Engine
from spliceway.errors import EngineClosedError, EngineError
from support.child import run_child
from support.rig import PATIENCE, Backend, Rig, echo, listening, named, record, rig, wait_until


def test_nothing_runs_before_start_and_after_close() -> None:
    """An engine that is only made has no threads; one that is closed says so."""

    def threads() -> set[Path]:
        return set(Path("/proc/self/task").iterdir())

    before = threads()
    engine = Engine(workers=3)
    assert threads() == before
    engine.start()
    wait_until(lambda: len(threads() - before) == 3, "three workers")
    with pytest.raises(EngineError, match="started before"):
        engine.start()
    engine.close()
    engine.close()
    wait_until(lambda: threads() <= before, "the workers to end")
    with pytest.raises(EngineClosedError):
        engine.apply([], [], 1)
    with pytest.raises(EngineClosedError):
        engine.drain(1.0)


def test_a_removed_listener_frees_its_address_at_once() -> None:
    """Reconfiguring a port must not fail because its old listener lingers."""
    with Backend(echo) as backend, rig([backend.address]) as r, r.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        r.engine.remove_listener(r.listener)
        with pytest.raises(ConnectionRefusedError):
            r.connect()
        listener = listening(r.address)
        r.engine.add_listener(listener.detach(), "p")
        with r.connect() as other:
            other.sendall(b"y")
            assert other.recv(1) == b"y"
        client.sendall(b"z")
        assert client.recv(1) == b"z"
        with pytest.raises(KeyError):
            r.engine.remove_listener(12345)


def test_a_listener_can_change_its_pool_and_wait_for_it() -> None:
    """A frontend that moves to another Service does so without a refused client."""
    with Backend(named(b"a")) as a, Backend(named(b"b")) as b, rig([a.address]) as r:
        r.engine.retarget_listener(r.listener, "q")
        with pytest.raises(ConnectionResetError), r.connect() as client:
            client.recv(1)
        r.engine.apply([record("q", [b.address])], [], 2)
        with r.connect() as client:
            client.sendall(b"who?")
            assert client.recv(1) == b"b"
        r.engine.apply([], ["q"], 3)
        with pytest.raises(ConnectionResetError), r.connect() as client:
            client.recv(1)


def test_renaming_a_service_under_load_is_not_noticed() -> None:
    """Make before break: new pool, retarget, remove the old one; no client is reset or served by another Service."""
    seen: collections.Counter[bytes | str] = collections.Counter()
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                with r.connect() as sock:
                    sock.sendall(b"who?")
                    seen[sock.recv(1)] += 1
            except OSError as error:
                seen[repr(error)] += 1

    with Backend(named(b"g")) as good, Backend(named(b"w")) as wrong, rig([]) as r:
        r.apply([good.address])
        threads = [threading.Thread(target=client) for _ in range(6)]
        for thread in threads:
            thread.start()
        last = "p"
        for turn in range(600):
            name, foreign = f"p{turn}", f"foreign{turn}"
            r.engine.apply([record(name, [good.address])], [], turn)
            r.engine.retarget_listener(r.listener, name)
            r.engine.apply([], [last], turn)
            r.engine.apply([record(foreign, [wrong.address])], [f"foreign{turn - 1}"], turn)
            last = name
        stop.set()
        for thread in threads:
            thread.join()
    assert set(seen) == {b"g"}


def test_connections_on_their_way_to_a_worker_are_reset_when_the_engine_closes() -> None:
    """A host that closes the engine in a burst must not leave clients hanging."""
    for _ in range(10):
        with Backend(echo) as backend:
            r = Rig([backend.address])
            clients = [socket.socket() for _ in range(40)]
            for client in clients:
                client.setblocking(False)
                client.connect_ex(r.address)
            r.engine.close()
            assert r.engine.counters().flows == 0
            for client in clients:
                client.settimeout(PATIENCE)
                with client, contextlib.suppress(ConnectionError):
                    assert client.recv(1) == b""


def test_bad_descriptors_are_refused_and_closed() -> None:
    """A wrong descriptor must not become a listener that never works."""
    with rig([]) as r:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            fd = socket.socket(type=kind).detach()
            with pytest.raises(OSError, match="cannot listen"):
                r.engine.add_listener(fd, "p")
            with pytest.raises(OSError, match="Bad file descriptor") as caught:
                os.fstat(fd)
            assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError, match="cannot listen"):
            r.engine.add_listener(-1, "p")


def test_a_drain_ends_when_the_last_flow_does() -> None:
    """A shutdown waits for clients that finish in time, and tells when it is over."""
    with Backend(echo) as backend, rig([backend.address]) as r, r.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        r.engine.drain(60.0, "p")
        with pytest.raises(ConnectionRefusedError):
            r.connect()
        client.sendall(b"y")
        assert client.recv(1) == b"y"
        client.close()
        r.wait_idle()
        drained = [e for e in r.engine.take_events() if e.kind == "drained"]
        assert [(e.pool, e.count) for e in drained] == [("p", 0)]


def test_a_drain_cuts_at_its_deadline() -> None:
    """A client that never ends cannot hold up a rollout."""
    with Backend(echo) as backend, rig([backend.address]) as r, r.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        r.engine.drain(0.05)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        wait_until(lambda: "drained" in {e.kind for e in r.engine.take_events()}, "the drain to be reported")
        assert r.counters().ended_drained == 1
        with pytest.raises(KeyError):
            r.engine.drain(1.0, "no such pool")


def test_the_wake_fd_is_readable_exactly_while_events_wait() -> None:
    """A host that sleeps on the descriptor must neither miss an event nor spin."""
    import select

    def readable() -> bool:
        return bool(select.select([r.engine.wake_fd], [], [], 0)[0])

    with rig([]) as r:
        assert not readable()
        for _ in range(2):
            with pytest.raises(ConnectionResetError), r.connect() as client:
                client.recv(1)
        wait_until(readable, "the descriptor to be readable")
        wait_until(lambda: len(r.engine.take_events(1)) == 1 and readable(), "one of two events")
        r.engine.take_events()
        assert not readable()


def test_explain_tells_what_the_next_flow_does() -> None:
    """Support asks explain before it blames a Pod: its first choice must be where the flow really goes."""
    names = [b"a", b"b", b"c"]
    backends = [Backend(named(name)) for name in names]
    with rig([]) as r:
        r.apply([b.address for b in backends], balance="maglev")
        for _ in range(30):
            with socket.socket() as client:
                client.bind(("127.0.0.1", 0))
                told = r.engine.explain("p", *client.getsockname()).candidates
                client.connect(r.address)
                client.sendall(b"who?")
                expected = next(c for c in told if c.rank == 1)
                by_port = {b.address[1]: name for b, name in zip(backends, names, strict=True)}
                assert client.recv(1) == by_port[expected.port]
        assert [c.rank for c in told] == [1, 2, 3]
        with pytest.raises(KeyError):
            r.engine.explain("nothing", "127.0.0.1", 1)
    for backend in backends:
        backend.close()


def test_many_threads_may_use_one_engine() -> None:
    """Calls from any thread at any time: no deadlock, no lost pool."""
    with Backend(echo) as backend, rig([backend.address]) as r:

        def churn(number: int) -> None:
            for turn in range(50):
                name = f"pool-{number}"
                r.engine.apply([record(name, [backend.address])], [], turn)
                listener = r.engine.add_listener(listening().detach(), name)
                r.engine.counters()
                r.engine.take_events()
                r.engine.remove_listener(listener)
                r.engine.apply([], [name], turn)

        threads = [threading.Thread(target=churn, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [pool.name for pool in r.engine.counters().pools] == ["p"]
        assert r.engine.counters().listeners == 1


FORK = """
import os
from support.rig import *
from spliceway.errors import EngineForkedError
with Backend(echo) as backend, rig([backend.address]) as r, r.connect() as client:
    client.sendall(b"x"); assert client.recv(1) == b"x"
    pid = os.fork()
    if pid == 0:
        try:
            r.engine.counters()
        except EngineForkedError as error:
            assert "parent" in str(error)
            del r
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    client.sendall(b"y"); assert client.recv(1) == b"y"
print("parent fine")
"""


def test_a_forked_child_is_told_and_the_parent_goes_on() -> None:
    """multiprocessing in a gateway must give a clear error instead of a hang, and must not harm the parent."""
    assert run_child(FORK) == "parent fine\n"


FORK_HOLDS_COPIES = """
import os
from support.rig import *
ends = []
def watch(connection):
    connection.sendall(connection.recv(1))
    ends.append(connection.recv(1))
    connection.shutdown(socket.SHUT_WR)  # the child holds a copy of this socket of the test as well
with Backend(watch) as backend, rig([backend.address]) as r:
    ordered, cut = r.connect(), r.connect()
    for client in (ordered, cut):
        client.sendall(b"x"); assert client.recv(1) == b"x"
    r.engine.take_events()
    stay, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        for client in (ordered, cut):
            client.close()
        os.read(stay, 1)
        os._exit(0)
    ordered.shutdown(socket.SHUT_WR)  # close() alone would not say it: the child holds a copy
    wait_until(lambda: ends == [b""], "the backend to see the end")
    assert ordered.recv(1) == b""
    ordered.close()
    r.engine.drain(0.0)
    try:
        cut.recv(1)
    except ConnectionResetError:
        print("cut")
    cut.close()
    listening(r.address).close()  # the address is free
    print("free")
    os.close(go)
    os.waitpid(pid, 0)
"""


def test_a_forked_child_that_lives_on_does_not_keep_connections_open() -> None:
    """multiprocessing in the host must not make clients hang, nor hold a port, for as long as the child lives."""
    assert run_child(FORK_HOLDS_COPIES) == "cut\nfree\n"


EXIT = """
import sys, threading
from support.rig import *
backend = Backend(echo)
r = Rig([backend.address])
def load():
    try:
        with r.connect() as client:
            while True:
                client.sendall(b"x" * 10000); client.recv(10000)
    except OSError:
        pass
for _ in range(4):
    threading.Thread(target=load, daemon=True).start()
wait_until(lambda: r.counters().bytes_in > 1_000_000, "traffic")
{end}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "r.engine.close()", "del r.engine", "import os; os._exit(0)"])
def test_an_exit_with_traffic_in_flight_is_clean(end: str) -> None:
    """Ctrl-C or a redeploy under load must end the process at once: no hang, no crash, no abort message."""
    assert run_child(EXIT.replace("{end}", end)) == ""
