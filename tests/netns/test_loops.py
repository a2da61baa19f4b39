"""Wildcard frontends and backends on the machine's own addresses: a loop that would use up all file descriptors."""

from __future__ import annotations

import os

import pytest

from support.child import run_child

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace; run the tests as root"),
]

# With ip_nonlocal_bind, as on nodes that take over addresses, any address can be bound: that must not make it local.
LOOPS = """
import subprocess
from pathlib import Path
for command in ("link set lo up", "addr add 198.18.0.1/24 dev lo", "addr add fd00:18::1/64 dev lo nodad"):
    subprocess.run(["ip", *command.split()], check=True)
Path("/proc/sys/net/ipv4/ip_nonlocal_bind").write_text("1")
import trio
from spliceway import Engine, LoadBalancer, SettingsError

async def main():
    async with LoadBalancer() as lb:
        service = await lb.serve("[::]:0", [])
        port = service.address.port
        await service.update([("198.18.0.1", port), ("fd00:18::1", port), ("198.18.0.2", port), ("198.18.0.1", 1)])
        found = sorted((b.host, b.port) for b in service.statistics().backends)
        assert found == [("198.18.0.1", 1), ("198.18.0.2", port)], found
        assert len(lb.problems()) == 2, lb.problems()

trio.run(main)
with Engine(workers=1) as engine:
    service = engine.serve("0.0.0.0:0", [])
    service.update([("198.18.0.2", service.address.port)])
    try:
        service.update([("198.18.0.1", service.address.port)])
    except SettingsError as error:
        print(error)
"""


def test_own_addresses_behind_a_wildcard_are_loops() -> None:
    assert "is a loop" in run_child(LOOPS, prefix=("unshare", "--net"))
