"""The cluster network of `support.nodes`: if it is not as its words say, what stands on it proves nothing."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from support.child import run_child

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces; run the tests as root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft (apt-get install nftables)"),
]

REACH = """
import socket, sys
from pathlib import Path
from support.nodes import OUTSIDE, Rig
from support.probes import Probe
with Rig(Path(sys.argv[1])) as rig:
    for host in (*rig.pods, *rig.nodes):
        host.namespace.serve(host.name, host.hosts, 8080)
    rig.hub.namespace.serve("outside", OUTSIDE, 8080)
    targets = [(host.name, address) for host in (*rig.pods, *rig.nodes) for address in host.hosts]
    targets += [("outside", address) for address in OUTSIDE]
    for client in (*rig.pods, *rig.nodes):
        probes = [Probe(kind, address, 8080, want=(name,)) for name, address in targets for kind in ("TCP", "UDP")]
        for probe, seen in zip(probes, client.namespace.probe(probes), strict=True):
            assert seen.answers == {probe.want[0]: 1}, (client, probe, seen)
            assert set(seen.sources[probe.want[0]]) <= set(client.hosts), (client, probe, seen)
    # Nobody captures Services here: they are lost, and a closed port is refused.
    lost, closed = rig.external.namespace.probe([Probe("TCP", "198.18.128.9", 80), Probe("UDP", rig.node(1).ipv4, 9)])
    assert (lost.dropped, closed.refused) == (1, 1), (lost, closed)
    # A node that rejects tells the difference from one that drops, to its own processes too.
    rules = "reject with icmpx type port-unreachable\\n", "drop\\n"
    for verdict, rule in zip(("refused", "dropped"), rules):
        table = "table inet try { chain out { type filter hook output priority 0; ip daddr 198.19.0.9 " + rule + "}\\n}"
        rig.node(1).namespace.run("nft", "-f", "-", text=table)
        for seen in rig.node(1).namespace.probe([Probe(kind, "198.19.0.9", 80) for kind in ("TCP", "UDP")]):
            assert getattr(seen, verdict) == 1, (verdict, seen)
        rig.node(1).namespace.run("nft", "delete table inet try")
    with rig.external.namespace.open_socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.connect((rig.node(2).ipv4, 8080))
        assert sock.getsockname()[0] == rig.external.ipv4
    rig.node(1).pod(1).namespace.cease("node1-1")
    (gone,) = rig.node(2).namespace.probe([Probe("TCP", rig.node(1).pod(1).ipv4, 8080)])
    assert gone.refused == 1, gone
with Rig(Path(sys.argv[1]), nodes=3, pods=1, rp_filter=1):
    pass
print("all as planned")
"""

KILLED = """
import os, signal, sys
from pathlib import Path
from support.nodes import Rig
with Rig(Path(sys.argv[1]), nodes=1, pods=1) as rig:
    with Path(os.devnull).open("ab") as log:
        process = rig.node(1).namespace.popen("sleep", "600", log=log)
    print(process.pid, rig.node(1).namespace.pid, rig.node(1).pod(1).namespace.pid, flush=True)
    if os.fork() == 0:
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(0)
    signal.pause()
"""


def test_everything_reaches_what_it_should_and_nothing_else(tmp_path: Path) -> None:
    """Cells and end-to-end tests would judge a proxy by faults of the network under it."""
    prefix = ("unshare", "--net", "--mount")
    assert run_child(REACH.replace("sys.argv[1]", repr(str(tmp_path))), prefix=prefix).endswith("all as planned\n")


def test_nothing_is_left_when_the_tests_process_is_killed(tmp_path: Path) -> None:
    """A developer's machine would collect namespaces and proxies of interrupted runs."""
    code = KILLED.replace("sys.argv[1]", repr(str(tmp_path)))
    with pytest.raises(AssertionError, match="exit code -9") as caught:
        run_child(code, prefix=("unshare", "--net", "--mount"))
    pids = [int(word) for word in str(caught.value).splitlines()[1].split()]
    assert len(pids) == 3
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/ns/net").exists() and not _ended(pid) for pid in pids):
        assert time.monotonic() < deadline, f"some of {pids} still run"
        time.sleep(0.05)


def _ended(pid: int) -> bool:
    """Say whether a process is gone, or nobody has fetched its end yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
