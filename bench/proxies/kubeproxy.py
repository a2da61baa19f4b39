"""The real kube-proxy, as tests/cluster/build.py builds it, in the modes that it has today."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import ClassVar

from processes import output_of
from stands import POD_CIDR, Stand, Stands

from cluster.build import binaries_directory
from proxies.base import Contestant, need

#: the settings of conntrack stay as they are: most cannot be changed from inside a namespace
_COMMON = (
    f"--cluster-cidr={POD_CIDR}",
    "--conntrack-max-per-core=0",
    "--conntrack-tcp-timeout-established=0",
    "--conntrack-tcp-timeout-close-wait=0",
)


class KubeProxy(Contestant):
    """kube-proxy in one of its modes. It goes on running while it is measured."""

    follows_api = True
    mode: ClassVar[str]
    #: the program that it calls to change rules, and the package that has it
    tool: ClassVar[str]
    package: ClassVar[str]

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which(cls.tool) is None:
            return f"{cls.tool} is not installed: apt-get install {cls.package}"
        if not (binaries_directory() / "kube-proxy").exists():
            return "it is not built: run python3 tests/cluster/build.py kube-proxy"
        return None

    def start(self, stand: Stand, stands: Stands, kubeconfig: Path | None) -> None:
        words = [
            str(binaries_directory() / "kube-proxy"),
            f"--proxy-mode={self.mode}",
            f"--kubeconfig={need(kubeconfig, self.name)}",
            f"--hostname-override={stand.name}",
            *_COMMON,
        ]
        self.child = stands.start(self.name, stand.node, words, self.environment(stands))

    def environment(self, _stands: Stands) -> dict[str, str]:
        """Environment variables of its process."""
        return {}

    def version(self) -> str:
        """Of kube-proxy and of the tool."""
        kubernetes = output_of([str(binaries_directory() / "kube-proxy"), "--version"]).strip()
        return f"{kubernetes}, {output_of([self.tool, '--version']).strip()}"


class Iptables(KubeProxy):
    """iptables mode, what most clusters run; with the tools that the machine has, usually those on top of nftables."""

    name = "kube-proxy-iptables"
    mode = "iptables"
    tool = "iptables"
    package = "iptables"


class IptablesLegacy(KubeProxy):
    """iptables mode with the old tools and the old tables in the kernel."""

    name = "kube-proxy-iptables-legacy"
    mode = "iptables"
    tool = "iptables-legacy"
    package = "iptables"
    _PROGRAMS = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")

    def environment(self, stands: Stands) -> dict[str, str]:
        """kube-proxy takes the tools that come first on its PATH."""
        folder = stands.folder / "iptables-legacy"
        if not folder.exists():
            folder.mkdir()
            tool = Path(shutil.which(self.tool) or self.tool).resolve()  # one program, told by its name what to be
            for name in self._PROGRAMS:
                (folder / name).symlink_to(tool)
        return {"PATH": os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)])}


class Nftables(KubeProxy):
    """nftables mode."""

    name = "kube-proxy-nftables"
    mode = "nftables"
    tool = "nft"
    package = "nftables"
