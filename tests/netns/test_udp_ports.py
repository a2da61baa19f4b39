"""More UDP clients than the machine has local ports."""

from __future__ import annotations

import os

import pytest

from support.child import run_child

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace; run the tests as root"),
]

FEW_PORTS = """
import subprocess
from pathlib import Path
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40199")
from support.udprig import *
with UdpBackend(echo, ("127.0.0.1", 5300)) as backend, udp_rig([], listen=("127.0.0.1", 53), workers=1) as r:
    r.apply([backend.address])
    talks = r.client(("127.0.2.1", 2000))
    ask(talks)
    source = backend.received[0][1]
    for number in range(1000):
        with r.client(("127.0.3.1", 1000 + number)) as client:
            assert ask(client) == b"who?"
        ask(talks)
    counters = r.engine.counters()
    assert 100 < counters.sessions <= 200, counters
    # Several ports are freed at once, so that the search for one stays short.
    assert 0 < counters.fd_limit_hits < 100, counters
    assert counters.datagrams_dropped == 0 and r.counters().failed == 0, counters
    assert r.counters().backends[0].connect_failures == 0, "no backend is to blame"
    assert sum(client == source for _, client in backend.received) == 1001, "a client that talks keeps its session"
    # Somebody else has all ports: what comes is dropped and counted, and the worker goes on.
    taken = []
    r.engine.apply([], ["p"], 8)
    r.wait_sessions(0)
    for port in range(40000, 40200):
        with contextlib.suppress(OSError):
            taken.append(udp_socket(("0.0.0.0", port)))
    r.apply([backend.address])
    talks.send(b"x")
    wait_until(lambda: r.engine.counters().datagrams_dropped == 1, "the datagram to be counted")
    for sock in taken:
        sock.close()
    # For a moment no port is asked for.
    def served():
        talks.send(b"y")
        return r.sessions() == 1
    wait_until(served, "a session")
print("served")
"""


def test_without_local_ports_the_oldest_make_room() -> None:
    """A resolver's clients come from a new port each time: when local ports run out, those that had their answers long
    ago make room, nobody else notices, and the kernel's long search for a free port does not stop the worker."""
    assert run_child(FEW_PORTS, prefix=("unshare", "--net")) == "served\n"
