"""The spliceway agent of this checkout: with packet capture or ordinary sockets, splicing or copying."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import agent
from stands import POD_CIDR, Stand, Stands

from proxies.base import Contestant, need


class Spliceway(Contestant):
    """The service proxy of a node: connections are captured with their addresses kept."""

    name = "spliceway"
    follows_api = True
    #: the flags in which the variants differ
    flags: ClassVar[tuple[str, ...]] = ("--capture=tproxy",)
    #: as for kube-proxy: most cannot be changed from inside a namespace
    _NODE: ClassVar[tuple[str, ...]] = (
        f"--cluster-cidr={POD_CIDR}",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    )

    @classmethod
    def missing(cls) -> str | None:
        return agent.missing()

    def start(self, stand: Stand, stands: Stands, kubeconfig: Path | None) -> None:
        #: where `agent.status` asks; each stand has a file of its own
        self.state_socket = stands.folder / f"{stand.name}.sock"
        words = [
            *(sys.executable, "-m", "spliceway", "run", *self.flags),
            f"--kubeconfig={need(kubeconfig, self.name)}",
            f"--hostname-override={stand.name}",
            f"--state-socket={self.state_socket}",
            *self._NODE,
        ]
        self.child = stands.start(self.name, stand.node, words, agent.environment())

    def version(self) -> str:
        return agent.version()


class SplicewayCopy(Spliceway):
    """The same without splicing."""

    name = "spliceway-copy"
    flags: ClassVar[tuple[str, ...]] = (*Spliceway.flags, "--max-pipes=0")


class SplicewayBind(Spliceway):
    """A userspace proxy with ordinary sockets, as haproxy is."""

    name = "spliceway-bind"
    flags: ClassVar[tuple[str, ...]] = ("--capture=bind",)

    def start(self, stand: Stand, stands: Stands, kubeconfig: Path | None) -> None:
        stand.hold(self.vip)
        super().start(stand, stands, kubeconfig)


class SplicewayBindCopy(SplicewayBind):
    """The same without splicing."""

    name = "spliceway-bind-copy"
    flags: ClassVar[tuple[str, ...]] = (*SplicewayBind.flags, "--max-pipes=0")
