"""Every bound holds, is counted when it bites, and is recovered from."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial

import pytest

from spliceway._engine import Engine
from support.child import run_child
from support.rig import PATIENCE, Backend, echo, listening, read_all, read_exactly, reset, rig, wait_until

# An echo server that holds thousands of connections in one thread; it prints its port and ends with its standard input.
ECHO_SERVER = """
import selectors, socket, sys, threading, os
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
print(listener.getsockname()[1], flush=True)
poll = selectors.EpollSelector()
poll.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in poll.select():
        if key.fileobj is listener:
            poll.register(listener.accept()[0], selectors.EVENT_READ)
            continue
        data = key.fileobj.recv(4096)
        if data:
            key.fileobj.sendall(data)
        else:
            poll.unregister(key.fileobj)
            key.fileobj.close()
"""


def test_5000_flows_at_once() -> None:
    """A busy gateway holds thousands of connections, and each keeps working."""
    with subprocess.Popen(
        [sys.executable, "-c", ECHO_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with rig([("127.0.0.1", port)]) as r:
            clients = [r.connect() for _ in range(5000)]
            for turn in range(2):
                for number, client in enumerate(clients):
                    client.sendall(struct.pack("!II", number, turn))
                for number, client in enumerate(clients):
                    assert read_exactly(client, 8) == struct.pack("!II", number, turn)
            assert r.engine.counters().flows == 5000
            for client in clients:
                client.close()
            r.wait_idle()
            assert r.counters().failed == 0
        server.stdin.close()


def test_the_flow_limit_makes_clients_wait_and_loses_none() -> None:
    """At the limit new clients wait in the kernel's queue; they are served as soon as others end."""
    with Backend(echo) as backend, rig([backend.address], max_flows=10) as r:
        clients = [r.connect() for _ in range(30)]
        wait_until(lambda: r.engine.counters().paused, "the pause")
        assert r.engine.counters().flows <= 11  # each of the workers may be one ahead
        for client in clients:
            client.sendall(b"x")
        for client in clients:
            assert client.recv(1) == b"x"
            client.close()
        r.wait_idle()
        wait_until(lambda: not r.engine.counters().paused, "accepting to go on")
        assert r.engine.counters().flow_limit_hits > 0
        kinds = [event.kind for event in r.engine.take_events()]
        assert "paused" in kinds
        assert "resumed" in kinds


FD_LIMIT = """
import os, resource, socket, subprocess, sys
from support.rig import PATIENCE, rig, wait_until
server = subprocess.Popen([sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
port = int(server.stdout.readline())

def works(client, byte):
    client.sendall(byte)
    return client.recv(1) == byte

with rig([("127.0.0.1", port)]) as r:
    clients = [r.connect() for _ in range(20)]
    assert all(works(client, b"a") for client in clients)
    # These have their descriptors already; the engine, in the same process, gets none for them.
    late = [socket.socket() for _ in range(20)]
    used = max(map(int, os.listdir("/proc/self/fd"))) + 1
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    for client in late:
        client.settimeout(PATIENCE)
        client.connect(r.address)
    wait_until(lambda: r.engine.counters().fd_limit_hits > 0 and r.engine.counters().paused, "the limit to bite")
    assert all(works(client, b"b") for client in clients)  # what stands goes on
    for client in clients:
        client.close()
    wait_until(lambda: not r.engine.counters().paused, "accepting to go on")
    served = 0
    for client in late:
        try:
            served += works(client, b"c")
        except ConnectionResetError:
            pass  # its dial found no descriptor in time
        client.close()
    assert served > 0
    with r.connect() as client:
        assert works(client, b"d")
    assert r.engine.counters().worker_panics == 0
server.stdin.close()
server.wait(10)
"""


def test_the_descriptor_limit_is_survived() -> None:
    """Out of descriptors, the engine stops accepting, keeps serving what stands, and recovers; it never crashes."""
    run_child(f"ECHO = {ECHO_SERVER!r}\n" + FD_LIMIT)


def test_without_pipes_bytes_are_copied() -> None:
    """Who wants no splicing would get none of the bytes of a long stream, or a count of a bound that is none."""
    with Backend(echo) as backend, rig([backend.address], max_pipes=0) as r, r.connect() as client:
        block = bytes(range(256)) * 4096
        for _ in range(16):
            client.sendall(block)
            assert read_exactly(client, len(block)) == block
        assert r.engine.counters().pipe_limit_hits == 0


def test_pipes_run_out_and_bytes_are_copied() -> None:
    """Streams to slow readers hold the pipes: another stream would stall, or the bound would bite unseen."""
    block, enough = bytes(range(256)) * 4096, threading.Event()

    def flood(connection: socket.socket) -> None:
        connection.settimeout(None)
        while not enough.is_set():
            connection.sendall(block)

    with Backend(flood) as backend, rig([backend.address], workers=1, max_pipes=1) as r, ExitStack() as stack:
        clients = [stack.enter_context(r.connect()) for _ in range(3)]
        wait_until(lambda: r.engine.counters().pipe_limit_hits > 0, "the second stream to want a pipe")
        enough.set()
        for client in clients:
            received = read_all(client)
            assert received == block * (len(received) // len(block))


def test_a_direction_that_has_ended_holds_no_pipe() -> None:
    """Uploads whose client waits for a late answer must not use up the pipes that others could splice with."""

    def sink(connection: socket.socket) -> None:
        read_all(connection)
        connection.settimeout(None)
        release.wait(PATIENCE)

    release = threading.Event()
    with Backend(sink) as backend, rig([backend.address], workers=1, max_pipes=1) as r, ExitStack() as stack:

        def arrived(uploads: int) -> bool:
            return r.counters().bytes_in == uploads * (16 << 20)

        for number in range(1, 4):
            client = stack.enter_context(r.connect())
            client.sendall(bytes(16 << 20))
            client.shutdown(socket.SHUT_WR)
            wait_until(partial(arrived, number), "the upload")
        assert r.engine.counters().pipe_limit_hits == 0
        release.set()


def test_the_event_ring_is_bounded() -> None:
    """A host that never takes events must not grow, and must be able to tell that it missed some."""
    with rig([], event_capacity=3) as r:
        for _ in range(10):
            with pytest.raises(ConnectionResetError), r.connect() as client:
                client.recv(1)
        wait_until(lambda: r.engine.counters().events_dropped == 7, "seven events to be dropped")
        assert len(r.engine.take_events()) == 3


def test_bad_sizes_and_pools_are_named() -> None:
    """A typing error in a host's code must be told in words, and must change nothing."""
    sizes = ("workers", "max_flows", "max_pipes", "event_capacity", "max_sessions", "max_affinities")
    for field in (*sizes, "udp_timeout", "udp_stream_timeout", "mark"):
        with pytest.raises(ValueError, match=field):
            Engine(**{field: -1})
    for field in ("max_flows", "max_affinities", "udp_timeout"):
        with pytest.raises(ValueError, match=f"{field} must be "):
            Engine(**{field: 0})
    with Backend(echo) as backend, rig([backend.address]) as r:
        good = (4, 0.25, 0.9, 1.0, 100, False)
        bad = [
            (("p", "fastest", good, None, None, ()), "fastest"),
            (("p", "maglev", (0, 0.25, 0.9, 1.0, 100, False), None, None, ()), "tries"),
            (("p", "maglev", (4, -1.0, 0.9, 1.0, 100, False), None, None, ()), "connect_timeout"),
            (("p", "maglev", (4, 0.25, float("nan"), 1.0, 100, False), None, None, ()), "deadline"),
            (("p", "maglev", good, -1.0, None, ()), "drain"),
            (("p", "maglev", good, None, ("", 5.0), ()), "group"),
            (("p", "maglev", good, None, ("g", 0.0), ()), "timeout"),
            (("p", "maglev", good, None, ("g", -1.0), ()), "timeout"),
            (("p", "maglev", good, None, None, (("10.0.0.256", 1, 1, True),)), "10.0.0.256"),
            (("p", "maglev", good, None, None, (("10.0.0.1", 0, 1, True),)), "port"),
            (("p", "maglev", good, None, None, (("10.0.0.1", 65_536, 1, True),)), "port"),
            (("p", "maglev", good, None, None, (("10.0.0.1", 1, -1, True),)), "weight"),
            (("p", "maglev", good, None, None, (("0.0.0.0", 1, 1, True),)), "0.0.0.0"),
        ]
        for upsert, words in bad:
            with pytest.raises(ValueError, match="pool p") as caught:
                r.engine.apply([upsert], ["p"], 99)
            assert words in str(caught.value)
        for key in (("sctp", "10.0.0.1", 80), ("tcp", "shop", 80), ("tcp", "10.0.0.1", 0)):
            with pytest.raises(ValueError, match=f"route {key[0]} {key[1]} port {key[2]}"):
                r.engine.apply([], ["p"], 99, [(*key, (("p", False), None, None))])
            with pytest.raises(ValueError, match=f"route {key[0]} {key[1]} port {key[2]}"):
                r.engine.apply([], ["p"], 99, [], [key])
        with pytest.raises(ValueError, match="client class must be pod, node or ext"):
            r.engine.add_transparent_listener(listening().detach(), "world")
        assert r.engine.generation == 1
        with r.connect() as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"


def test_a_client_that_resets_before_it_is_served() -> None:
    """Port scanners and impatient clients must leave nothing behind."""
    with Backend(echo) as backend, rig([backend.address]) as r:
        for _ in range(200):
            reset(r.connect())
        r.wait_idle()
        wait_until(lambda: r.counters().active == 0, "the counters to be even")
        assert all(b.active == 0 for b in r.counters().backends)
