"""sozu as a TCP proxy: a newer one, in Rust, with an event loop for each worker process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import peerbuilds
from processes import output_of

from proxies.ordinary import IDLE_SECONDS, WORKERS, OrdinaryProxy, connections

#: Of a connection: two sockets, and a pipe for each direction.
_DESCRIPTORS = 6
#: Bytes in a pipe between two sockets: few streams are faster with them than with the default of 64 KiB, and many
#: lose less than with 1 MiB.
_PIPE = 256 * 1024

# It splices where it is built for that, as it is here; buffers are for what is not spliced. Its log at the level "info"
# would have a line for each connection. Metrics of clusters cost time for each connection and are read by no one.
_CONFIGURATION = """
command_socket = "{folder}/command.sock"
pid_file_path = "{folder}/sozu.pid"
log_level = "error"
log_target = "stdout"
worker_count = {workers}
worker_automatic_restart = false
disable_cluster_metrics = true
max_connections = {connections}
max_buffers = {buffers}
splice_pipe_capacity_bytes = {pipe}
front_timeout = {idle}
back_timeout = {idle}
connect_timeout = 1
activate_listeners = true

[[listeners]]
protocol = "tcp"
address = "{listen}"

[clusters.service]
protocol = "tcp"
load_balancing = "ROUND_ROBIN"
frontends = [{{ address = "{listen}" }}]
backends = [{backends}]
"""


class Sozu(OrdinaryProxy):
    """A main process and two workers."""

    name = "sozu"
    file = "config.toml"
    worker_processes = True

    @classmethod
    def missing(cls) -> str | None:
        return peerbuilds.missing("sozu")

    def configuration(self, folder: Path, listen: str, backends: Sequence[str]) -> str:
        each = connections(_DESCRIPTORS)
        return _CONFIGURATION.format(
            folder=folder,
            workers=WORKERS,
            connections=each,
            buffers=2 * each,
            pipe=_PIPE,
            idle=IDLE_SECONDS,
            listen=listen,
            backends=", ".join(f'{{ address = "{address}" }}' for address in backends),
        )

    def command(self, folder: Path) -> list[str]:
        return [str(peerbuilds.path("sozu")), "--config", str(folder / self.file), "start"]

    def version(self) -> str:
        first = output_of([str(peerbuilds.path("sozu")), "--version"]).splitlines()[0]
        return first.removeprefix("sozu ").removesuffix("()").strip()
