"""haproxy in TCP mode: the proxy that most others are compared with."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from processes import output_of

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
    bind {listen} backlog {backlog}
{servers}
"""


class Haproxy(OrdinaryProxy):
    """One process with two threads and the buffers that haproxy has unless it is told otherwise."""

    name = "haproxy"
    file = "haproxy.cfg"
    #: bytes
    buffer: ClassVar[int] = 16 * 1024

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
