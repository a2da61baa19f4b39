"""Datagrams longer than the way's packets: the kernel takes no trains of them."""

from __future__ import annotations

import os

import pytest

from support.child import run_child

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace; run the tests as root"),
]

SHORT_PACKETS = """
import subprocess
subprocess.run(["ip", "link", "set", "lo", "up", "mtu", "1000"], check=True)
from support.udprig import *
with UdpBackend(silent) as backend, udp_rig([backend.address], workers=1) as r, r.client() as client:
    sent = []
    def refused():
        for _ in range(16):
            sent.append((b"%d " % len(sent)).ljust(1200, b"."))
            client.send(sent[-1])
        wait_until(lambda: len(backend.received) == len(sent), "all datagrams")
        return r.engine.counters().trains_refused
    wait_until(refused, "a train of datagrams that were read together")
    counted = r.engine.counters().trains_refused
    for _ in range(20):
        refused()  # the session has learnt it
    assert [datagram for datagram, _ in backend.received] == sent
    counters = r.engine.counters()
    assert (counters.trains_refused, counters.datagrams_dropped) == (counted, 0), counters
print("served")
"""


def test_datagrams_that_the_kernel_does_not_join_go_one_by_one() -> None:
    """A tunnel has shorter packets than its node: nothing may be lost there, and whoever wonders where the speed is
    finds it counted."""
    assert run_child(SHORT_PACKETS, prefix=("unshare", "--net")) == "served\n"
