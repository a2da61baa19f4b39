"""nginx as a TCP proxy, by its stream module."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from processes import BenchError

from proxies.ordinary import BACKLOG, IDLE_SECONDS, WORKERS, OrdinaryProxy, connections

# reuseport: each worker has a queue of its own, so that none is woken in vain. zone: the workers share the turns of the
# round robin. proxy_buffer_size: with more room than 16 KiB streams are 1.5 times as fast. There is no access log
# unless one is asked for, and the error log holds no more than what is critical.
_CONFIGURATION = """
{module}
daemon off;
worker_processes {workers};
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log stderr crit;
events {{
    worker_connections {sockets};
}}
stream {{
    upstream service {{
        zone service 64k;
{servers}
    }}
    server {{
        listen {listen} reuseport backlog={backlog};
        proxy_pass service;
        proxy_connect_timeout 1s;
        proxy_timeout {idle}s;
        proxy_buffer_size {buffer};
    }}
}}
"""
_BUFFER = "128k"
_OTHER_FILES = 200


class Nginx(OrdinaryProxy):
    """A master and two workers."""

    name = "nginx"
    file = "nginx.conf"
    worker_processes = True

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which("nginx") is None:
            return "it is not installed: apt-get install nginx-light libnginx-mod-stream"
        module = _stream_module()
        if module is not None and not module.exists():
            return "its stream module is not installed: apt-get install libnginx-mod-stream"
        return None

    def configuration(self, folder: Path, listen: str, backends: Sequence[str]) -> str:
        module = _stream_module()
        sockets = 2 * connections(2)
        return _CONFIGURATION.format(
            module="" if module is None else f"load_module {module};",
            workers=WORKERS,
            files=sockets + _OTHER_FILES,
            folder=folder,
            sockets=sockets,
            servers="\n".join(f"        server {address};" for address in backends),
            listen=listen,
            backlog=BACKLOG,
            idle=IDLE_SECONDS,
            buffer=_BUFFER,
        )

    def command(self, folder: Path) -> list[str]:
        return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / self.file)]

    def version(self) -> str:
        found = re.search(r"nginx/(\S+)", _build_options())
        return found[1] if found else "unknown"


def _stream_module() -> Path | None:
    """Where the module is, if it is not a part of the program."""
    options = _build_options()
    if "--with-stream=dynamic" not in options and "--with-stream" in options:
        return None
    folder = re.search(r"--modules-path=(\S+)", options)
    return Path(folder[1] if folder else "/usr/lib/nginx/modules") / "ngx_stream_module.so"


def _build_options() -> str:
    """Its version and how it was built, which it says on stderr. Raises BenchError."""
    try:
        done = subprocess.run(["nginx", "-V"], capture_output=True, text=True, timeout=10.0, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchError(f"nginx -V fails: {error}") from error
    return done.stderr
