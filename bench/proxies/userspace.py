"""The userspace mode that kube-proxy began with, of the last series that had it: spliceway's ancestor."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from typing import Any

import msgspec
import peerbuilds
from stands import BACKEND_PORT, PODS, SERVICE_PORT, Stand, Stands

from proxies.base import Contestant

#: open files that it insists on
_FILES = 64_000
_START_SECONDS = 30.0
_PROTOCOLS = ("TCP", "UDP")

# Where 64,000 open files are not allowed, it takes what there is if it believes itself in a user namespace, which it
# asks /proc/self/uid_map: the shell's, and after exec its own, shows a map of such a one.
_BELIEVING = 'mount --bind "$1" "/proc/$$/uid_map" && exec "$2" "$3"'
_UID_MAP = "0 0 4294967294\n"


class Userspace(Contestant):
    """The proxier of v1.25.16 behind a main of the bench's (``userspace/main.go``)."""

    name = "kube-proxy-userspace"

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which("iptables") is None:
            return "iptables is not installed: apt-get install iptables"
        return peerbuilds.missing("userspace")

    def start(self, stand: Stand, stands: Stands, kubeconfig: Path | None) -> None:
        program = str(peerbuilds.path("userspace"))
        objects = stands.folder / f"{stand.name}-{self.name}.json"
        objects.write_bytes(msgspec.json.encode(self._objects()))
        command = [program, str(objects)]
        if not _may_open(_FILES):
            uid_map = stands.folder / f"{stand.name}-uid-map"
            uid_map.write_text(_UID_MAP)
            command = ["unshare", "--mount", "sh", "-ec", _BELIEVING, "sh", str(uid_map), *command]
        child = self.child = stands.start(self.name, stand.node, command)
        child.wait_until(lambda: b"ready\n" in child.log.read_bytes(), "ready", _START_SECONDS)

    def version(self) -> str:
        return "Kubernetes v1.25.16 (pkg/proxy/userspace)"

    def _objects(self) -> dict[str, Any]:
        """The Service with the stand's backends, in the program's form."""
        metadata = {"namespace": "default", "name": "service"}
        names = [(protocol.lower(), protocol) for protocol in _PROTOCOLS]
        ports = [{"name": name, "protocol": protocol, "port": SERVICE_PORT} for name, protocol in names]
        targets = [{"name": name, "protocol": protocol, "port": BACKEND_PORT} for name, protocol in names]
        subset = {"addresses": [{"ip": address} for address in PODS], "ports": targets}
        spec = {"clusterIP": self.vip, "ports": ports, "sessionAffinity": "None"}
        return {
            "services": [{"metadata": metadata, "spec": spec}],
            "endpoints": [{"metadata": metadata, "subsets": [subset]}],
        }


def _may_open(files: int) -> bool:
    """Whether a process of the bench may raise its limit of open files to so many."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(before[1], files)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[0], wanted))
    except (ValueError, OSError):
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    return True
