"""The proxies that take turns: the real kube-proxy in two modes, and spliceway. One of them runs on every node."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

from cluster.build import binaries_directory
from support.nodes import CLUSTER_CIDRS, Node

HEALTHZ_PORT, METRICS_PORT = 10256, 10249
STOP_SECONDS = 15.0
LOG_TAIL = 3000
#: both find their settings of conntrack as the namespace has them: a namespace cannot change most of them
_CONNTRACK = (
    "--conntrack-max-per-core=0",
    "--conntrack-tcp-timeout-established=0",
    "--conntrack-tcp-timeout-close-wait=0",
)
_COMMON = (
    f"--cluster-cidr={','.join(CLUSTER_CIDRS)}",
    f"--healthz-bind-address=0.0.0.0:{HEALTHZ_PORT}",
    f"--metrics-bind-address=127.0.0.1:{METRICS_PORT}",
    *_CONNTRACK,
)


class Contestant(NamedTuple):
    """A proxy by name, with what ``/proxyMode`` says and its command line without what differs between nodes."""

    name: str
    mode: str
    command: tuple[str, ...]
    rp_filter: int = 2
    #: nftables rules of other software on the node, in force before
    neighbours: str = ""

    def command_for(self, node: Node, kubeconfig: Path) -> list[str]:
        """The command line on a node."""
        return [*self.command, f"--kubeconfig={kubeconfig}", f"--hostname-override={node.name}", *_COMMON]


def _kube_proxy(mode: str) -> Contestant:
    return Contestant(f"kube-proxy-{mode}", mode, (str(binaries_directory() / "kube-proxy"), f"--proxy-mode={mode}"))


#: what stands beside a proxy on many nodes: container engines and CNI plug-ins forward Pods' traffic only (M-10),
#: firewalls drop what conntrack finds invalid, and kubelet lets no packet for loopback in
_NEIGHBOURS = f"""
table inet neighbours {{
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        ip saddr {CLUSTER_CIDRS[0]} accept
        ip daddr {CLUSTER_CIDRS[0]} accept
        ip6 saddr {CLUSTER_CIDRS[1]} accept
        ip6 daddr {CLUSTER_CIDRS[1]} accept
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        ct state invalid drop
        ip saddr != 127.0.0.0/8 ip daddr 127.0.0.0/8 ct state != {{ established, related }} drop
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        ct state invalid drop
    }}
}}
"""

_SPLICEWAY = (sys.executable, "-m", "spliceway", "run", "--capture=tproxy", "--localhost-nodeports")

CONTESTANTS = (
    _kube_proxy("iptables"),
    _kube_proxy("nftables"),
    Contestant("spliceway", "spliceway", _SPLICEWAY),
    Contestant("spliceway-strict", "spliceway", _SPLICEWAY, rp_filter=1, neighbours=_NEIGHBOURS),
)


class Running:
    """A contestant on some nodes, with its logs in a folder. Use it as a context manager."""

    def __init__(self, contestant: Contestant, nodes: tuple[Node, ...], kubeconfig: Path, folder: Path) -> None:
        self._contestant = contestant
        self._nodes = nodes
        self._kubeconfig = kubeconfig
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._stop)
            for node in self._nodes:
                command = self._contestant.command_for(node, self._kubeconfig)
                with self._log(node.name).open("ab") as log:
                    self._processes[node.name] = node.namespace.popen(*command, log=log)
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def check(self) -> None:
        """Fail with the end of its log if one of the processes has ended."""
        for name, process in self._processes.items():
            code = process.poll()
            assert code is None, f"{self._contestant.name} on {name} ended with code {code}: {self.tail(name)}"

    def log(self, node: str) -> str:
        """All that the process on a node has written."""
        return self._log(node).read_text(errors="replace")

    def tail(self, node: str) -> str:
        """The end of it."""
        return self.log(node)[-LOG_TAIL:]

    def _log(self, node: str) -> Path:
        return self._folder / f"{self._contestant.name}-{node}.log"

    def _stop(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)
        self._processes.clear()
