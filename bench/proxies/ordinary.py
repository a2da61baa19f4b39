"""Proxies with ordinary sockets: the Service's address is the node's own, and a file tells them the backends."""

from __future__ import annotations

import resource
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from processes import BenchError
from stands import SERVICE_PORT, Stand, Stands

from proxies.base import Contestant

#: Seconds after which they may close a connection that carries nothing; longer than any measurement.
IDLE_SECONDS = 3600
#: Workers or threads, as many as the agent of spliceway has on the machine of the published figures.
WORKERS = 2
#: Connections that wait to be accepted, as many as ``somaxconn`` lets them.
BACKLOG = 4096
#: Makes a daemon with worker processes the first one of a PID namespace, so that none of them outlives it or the bench.
_WITH_WORKERS = ("unshare", "--pid", "--fork", "--kill-child")
#: Descriptors that a proxy needs besides those of its connections.
_OTHER_DESCRIPTORS = 500
#: Room for connections: no bench has more than the one, the scenarios with few need the other.
_MOST_CONNECTIONS = 20_000
_FEWEST_CONNECTIONS = 200


class OrdinaryProxy(Contestant):
    """A proxy of the kind that one puts in front of servers. It does not follow changes of the backends."""

    udp = False
    #: name of the configuration file
    file: ClassVar[str]
    #: its work is done in child processes
    worker_processes: ClassVar[bool] = False

    @abstractmethod
    def configuration(self, folder: Path, listen: str, backends: Sequence[str]) -> str:
        """The configuration of one that listens on ``listen`` and keeps its files in ``folder``."""

    @abstractmethod
    def command(self, folder: Path) -> list[str]:
        """Its command line, in the foreground, with the configuration file in ``folder``."""

    def start(self, stand: Stand, stands: Stands, kubeconfig: Path | None) -> None:
        self.hold(stand)
        folder = stands.folder / f"{stand.name}-{self.name}"
        folder.mkdir(exist_ok=True)
        (folder / self.file).write_text(self.configuration(folder, f"{self.vip}:{SERVICE_PORT}", stand.backends))
        words = [*(_WITH_WORKERS if self.worker_processes else ()), *self.command(folder)]
        self.child = stands.start(self.name, stand.node, words)

    def hold(self, stand: Stand) -> None:
        """Make the Service's address the node's own."""
        stand.hold(self.vip)


def connections(descriptors: int, reserved: int = 0) -> int:
    """How many connections of so many descriptors each one process may have, besides ``reserved`` descriptors.

    Raises:
        BenchError: hardly any fit into the limit of open files.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    fitting = (limit - reserved - _OTHER_DESCRIPTORS) // descriptors
    if fitting < _FEWEST_CONNECTIONS:
        raise BenchError(f"{limit} open files are too few for a proxy: raise the hard limit (ulimit -Hn)")
    return min(fitting, _MOST_CONNECTIONS)
