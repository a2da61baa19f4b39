"""A node that vanished: packets to it are lost without any answer."""

from __future__ import annotations

import os

import pytest

from support.child import run_child

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace; run the tests as root"),
]

# 198.18.0.9 has a link-layer address that nobody on the wire owns, so every SYN to it is lost.
BLACK_HOLE = """
import subprocess, time
for command in (
    "link set lo up",
    "link add wire0 type veth peer name wire1",
    "link set wire0 up", "link set wire1 up",
    "addr add 198.18.0.1/24 dev wire0",
    "neigh add 198.18.0.9 lladdr 02:00:00:00:00:09 dev wire0 nud permanent",
):
    subprocess.run(["ip", *command.split()], check=True)
from support.rig import *
with Backend(named(b"a")) as good, rig([]) as r:
    r.apply([good.address, ("198.18.0.9", 80)], balance="round-robin")
    slowest = 0.0
    for _ in range(12):
        began = time.monotonic()
        with r.connect() as client:
            client.sendall(b"who?")
            assert client.recv(1) == b"a"
        slowest = max(slowest, time.monotonic() - began)
    counters, events = r.counters(), r.engine.take_events()
    assert counters.saved == 6 and counters.failed == 0, counters
    reasons = {e.reason for e in events if e.kind == "connect-failed"}
    assert all(reason.startswith("no answer within ") for reason in reasons), reasons
    # Dialling never blocks accepting: while a slow dial is under way, others are served by the only worker.
with Backend(named(b"a")) as good, rig([], workers=1) as r:
    r.apply([("198.18.0.9", 80)], retry=policy(tries=1, connect_timeout=10.0, deadline=10.0))
    stuck = [r.connect() for _ in range(50)]
    wait_until(lambda: r.counters().tries == 50, "fifty dials under way")
    r.engine.apply([record("q", [good.address])], [], 9)
    listener = listening()
    address = listener.getsockname()
    r.engine.add_listener(listener.detach(), "q")
    for _ in range(20):
        with socket.create_connection(address, 5) as client:
            client.sendall(b"who?")
            assert client.recv(1) == b"a"
    assert r.counters().active == 50
    for client in stuck:
        client.close()
print("slowest", round(slowest, 3))
"""


def test_a_lost_node_costs_a_client_a_quarter_second_at_most_once() -> None:
    """A node without power must not make clients wait for the kernel's own retries (1 s, 3 s, 7 s)."""
    assert run_child(BLACK_HOLE, prefix=("unshare", "--net")).startswith("slowest 0.")
