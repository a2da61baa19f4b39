"""Service proxies of a node as contestants: the real kube-proxy in two modes, spliceway, and none at all."""

from __future__ import annotations

import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence

import agent
from nodecluster import NodeCluster
from processes import BenchError, Child, output_of

from support.nodes import CLUSTER_CIDRS, Node

#: the settings of conntrack stay as they are: most cannot be changed from inside a namespace
_COMMON = (
    f"--cluster-cidr={CLUSTER_CIDRS[0]}",
    "--conntrack-max-per-core=0",
    "--conntrack-tcp-timeout-established=0",
    "--conntrack-tcp-timeout-close-wait=0",
)


class NodeProxy(ABC):
    """One contestant on a node of its own. ``child`` is its process while it runs."""

    name: str

    def __init__(self, cluster: NodeCluster, node: Node) -> None:
        self.cluster = cluster
        self.node = node
        self.child: Child | None = None

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot take part and what to do about it, or None."""
        return None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Its command line."""

    def start(self) -> Child:
        """Start it and return its process, which the caller ends."""
        words = [*self.command(), f"--kubeconfig={self.cluster.plane.kubeconfig}", *_COMMON]
        words.append(f"--hostname-override={self.node.name}")
        self.child = self.cluster.child(self.name, self.node, words, self.environment())
        return self.child

    def environment(self) -> dict[str, str]:
        """Environment variables of its process."""
        return agent.environment()

    def targets(self, vip: str) -> Sequence[str]:
        """What clients dial to reach the Service at ``vip``."""
        return [vip]

    def version(self) -> str:
        """Version of the software measured."""
        return ""


class Spliceway(NodeProxy):
    """The agent with transparent capture."""

    name = "spliceway"

    @classmethod
    def missing(cls) -> str | None:
        return agent.missing()

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "spliceway", "run", "--capture=tproxy"]

    def version(self) -> str:
        return agent.version()


class KubeProxy(NodeProxy):
    """kube-proxy as the cluster tests build it."""

    mode: str

    @classmethod
    def missing(cls) -> str | None:
        from cluster.build import binaries_directory

        if (binaries_directory() / "kube-proxy").exists():
            return None
        return "it is not built: run python3 tests/cluster/build.py kube-proxy"

    def command(self) -> Sequence[str]:
        from cluster.build import binaries_directory

        return [str(binaries_directory() / "kube-proxy"), f"--proxy-mode={self.mode}"]

    def version(self) -> str:
        return output_of([self.command()[0], "--version"]).strip()


class Iptables(KubeProxy):
    """iptables mode, what most clusters run; with the tools that the machine has, usually those on top of nftables."""

    name = "kube-proxy-iptables"
    mode = "iptables"

    def version(self) -> str:
        return f"{super().version()}, {output_of(['iptables', '--version']).strip()}"


class IptablesLegacy(KubeProxy):
    """iptables mode with the old tools: slow at changes, but they can install 100,000 endpoints within minutes."""

    name = "kube-proxy-iptables-legacy"
    mode = "iptables"
    _TOOL = "xtables-legacy-multi"

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which(cls._TOOL) is None:
            return f"{cls._TOOL} is not installed: apt-get install iptables"
        return KubeProxy.missing()

    def environment(self) -> dict[str, str]:
        folder = self.cluster.folder / "legacy"
        folder.mkdir(exist_ok=True)
        tool = shutil.which(self._TOOL) or self._TOOL
        for name in ("iptables", "iptables-save", "iptables-restore"):
            for link in (folder / name, folder / f"ip6{name.removeprefix('ip')}"):
                if not link.exists():
                    link.symlink_to(tool)
        return {"PATH": os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)])}

    def version(self) -> str:
        return f"{super().version()}, {output_of(['iptables-legacy', '--version']).strip()}"


class Nftables(KubeProxy):
    """nftables mode."""

    name = "kube-proxy-nftables"
    mode = "nftables"

    def version(self) -> str:
        return f"{super().version()}, {output_of(['nft', '--version']).strip()}"


class Direct(NodeProxy):
    """No proxy: clients dial the endpoints in turn, routed by their node."""

    name = "direct"

    def command(self) -> Sequence[str]:
        raise BenchError("direct has no process")

    def targets(self, vip: str) -> Sequence[str]:
        return self.cluster.backends


ALL: dict[str, type[NodeProxy]] = {kind.name: kind for kind in (Direct, Iptables, IptablesLegacy, Nftables, Spliceway)}


def find(names: Sequence[str]) -> tuple[list[type[NodeProxy]], dict[str, str]]:
    """Those that can take part, and why the others cannot."""
    absent = {name: why for name in names if (why := ALL[name].missing()) is not None}
    return [ALL[name] for name in names if name not in absent], absent
