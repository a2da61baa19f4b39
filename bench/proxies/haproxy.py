"""haproxy in TCP mode: the proxy that most others are compared with."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from processes import output_of
from stands import SERVICE_PORT, Stand, Stands

from proxies.ordinary import BACKLOG, IDLE_SECONDS, WORKERS, OrdinaryProxy, connections

#: Pipes for splicing, which streams need only while bytes wait in them; without a free one bytes are copied.
_PIPES = 1000

# splice-auto: where haproxy sees fit, bytes of streams go from socket to socket through a pipe. redispatch: when a
# server does not answer, another one is tried, as a Service would. No log, no health checks: nothing but connections.
_CONFIGURATION = """
global
    nbthread {workers}
    maxconn {connections}
    maxpipes {pipes}
    tune.bufsize {buffer}
defaults
    mode tcp
    balance roundrobin
    option splice-auto
    option redispatch
    timeout connect 1s
    timeout client {idle}s
    timeout server {idle}s
listen service
    bind {listen} backlog {backlog}{bind}
    {source}
{servers}
"""


class Haproxy(OrdinaryProxy):
    """One process with two threads and the buffers that haproxy has unless it is told otherwise."""

    name = "haproxy"
    file = "haproxy.cfg"
    #: bytes
    buffer: ClassVar[int] = 16 * 1024
    #: further words of its lines ``bind`` and ``source``
    bind: ClassVar[str] = ""
    source: ClassVar[str] = ""

    @classmethod
    def missing(cls) -> str | None:
        return None if shutil.which("haproxy") else "it is not installed: apt-get install haproxy"

    def configuration(self, folder: Path, listen: str, backends: Sequence[str]) -> str:
        return _CONFIGURATION.format(
            workers=WORKERS,
            connections=connections(2, reserved=2 * _PIPES),
            pipes=_PIPES,
            buffer=self.buffer,
            idle=IDLE_SECONDS,
            listen=listen,
            bind=self.bind,
            source=self.source,
            backlog=BACKLOG,
            servers="\n".join(f"    server pod{number} {address}" for number, address in enumerate(backends, 1)),
        )

    def command(self, folder: Path) -> list[str]:
        return ["haproxy", "-db", "-f", str(folder / self.file)]

    def version(self) -> str:
        return output_of(["haproxy", "-v"]).split(" - ")[0].removeprefix("HAProxy version ")


class HaproxyLargeBuffers(Haproxy):
    """The same with buffers for bulk transfer, against which haproxy's manual advises because of memory.

    Streams are 1.6 to 2 times as fast on veth pairs, nothing is slower; an idle connection has no buffer in any case.
    """

    name = "haproxy-128k"
    buffer = 128 * 1024


# As haproxy's and the kernel's documentation of transparent proxies have it: packets to the Service, and those that a
# transparent socket belongs to, are marked, and what is marked is taken as the node's own.
_TRANSPARENT = """table ip transparent {{
    chain prerouting {{
        type filter hook prerouting priority mangle;
        socket transparent 1 meta mark set 1 accept
        ip daddr {vip} tcp dport {port} meta mark set 1
    }}
}}"""


class HaproxyTransparent(Haproxy):
    """The same as a transparent proxy: backends see the client's address, as with kube-proxy.

    What spliceway's packet capture does, with the fewest rules that do it for one Service.
    """

    name = "haproxy-tproxy"
    bind = " transparent"
    source = "source 0.0.0.0 usesrc clientip"

    def start(self, stand: Stand, stands: Stands, kubeconfig: Path | None) -> None:
        stand.node.run("nft", "-f", "-", text=_TRANSPARENT.format(vip=self.vip, port=SERVICE_PORT))
        stand.node.ip("rule add fwmark 1 lookup 100", "route add local default dev lo table 100")
        super().start(stand, stands, kubeconfig)

    def hold(self, stand: Stand) -> None:
        """Its address is nobody's own."""
