"""A cluster for the benches: nodes with Pods in network namespaces, and a real API server with its etcd.

The network is that of the tests (tests/support/nodes.py) with one node for each contestant, so that none leaves
anything in another's kernel tables, and one node more whose Pod is the backend of all Services::

    client Pod --- node of a contestant ---+--- node of the backend --- backend Pod
                                           |
                                     API server, etcd

Each client reaches Services through the contestant of its node. Everything lives in namespaces without a name; the
kernel removes them with the last process.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from load import LoadTool, Report
from processes import BenchError, Child, output_of
from rig import SYSCTLS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from cluster.api import Api
from cluster.controlplane import ControlPlane, ControlPlaneError
from support.namespace import NamespaceError
from support.nodes import Host, Node, Rig, each

#: room for 16,000 ClusterIPs
SERVICE_RANGE = "198.18.128.0/18"
#: endpoints that all are the backend's Pod, whatever the address
ENDPOINT_RANGE = "198.19.128.0/17"
BACKEND_PORT = 8080
#: addresses of each client besides its own: more source ports than one address has
SOURCES = 16
#: set in the process that runs in namespaces of its own
MARK = "SPLICEWAY_BENCH_CLUSTER"

#: What a CNI plug-in's rule for traffic that leaves the cluster looks like. Because of it connections are tracked on
#: every node, as on a real one, also where no proxy asks for it.
_CNI = """table ip cni {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        ip saddr 198.18.64.0/18 ip daddr != 198.18.0.0/15 masquerade
    }
}"""


def enter_namespaces() -> None:
    """Start over in a network and a mount namespace, of which the tests' rig makes a router.

    Raises:
        BenchError: not root, or a program is missing.
    """
    if os.environ.get(MARK):
        output_of(["ip", "link", "set", "lo", "up"])
        return
    if os.geteuid() != 0:
        raise BenchError("this bench makes network namespaces and packet rules: run it as root")
    missing = [name for name in ("unshare", "nsenter", "ip", "nft", "conntrack") if shutil.which(name) is None]
    if missing:
        raise BenchError(f"{', '.join(missing)} missing: apt-get install util-linux iproute2 nftables conntrack")
    unshare = shutil.which("unshare") or "unshare"
    os.environ[MARK] = "1"
    os.execv(unshare, [unshare, "--net", "--mount", sys.executable, *sys.argv])


class NodeCluster:
    """The running cluster. Use it as a context manager: leaving it ends all processes and removes all namespaces.

    ``nodes`` are how many contestants run, one on a node each.
    """

    def __init__(self, load: LoadTool, nodes: int) -> None:
        self.load = load
        self.folder = Path()
        self._count = nodes
        self._stack = ExitStack()
        self._children = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spliceway-bench-")))
            try:
                zones = [f"zone-{number}" for number in range(self._count + 1)]
                self.rig = stack.enter_context(Rig(self.folder, nodes=self._count + 1, pods=1, zones=zones))
                self._prepare()
                plane = ControlPlane(address=self.rig.hub.ipv4, service_range=SERVICE_RANGE)
                self.plane = stack.enter_context(plane)
            except (NamespaceError, ControlPlaneError) as error:
                raise BenchError(str(error)) from error
            self.api = stack.enter_context(Api(self.plane.kubeconfig))
            each(self.rig.nodes, lambda node: self.api.create(node.manifest()))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- places

    def node(self, number: int) -> Node:
        """Node of the ``number``-th contestant, from 0."""
        return self.rig.nodes[number]

    def client(self, node: Node) -> Host:
        """The client Pod of a node."""
        return node.pods[0]

    def sources(self, node: Node) -> list[str]:
        """Further addresses of the client Pod."""
        return [f"{_net(node)}.{64 + number}" for number in range(SOURCES)]

    @property
    def backends(self) -> list[str]:
        """Three endpoints, ADDR:PORT."""
        return [f"{_net(self.rig.nodes[-1])}.{128 + number}:{BACKEND_PORT}" for number in range(3)]

    # --- processes

    def start(self, name: str, place: Host, command: Sequence[str], env: dict[str, str] | None = None) -> Child:
        """Start a daemon that ends with the cluster."""
        return self._stack.enter_context(self.child(name, place, command, env))

    def child(self, name: str, place: Host, command: Sequence[str], env: dict[str, str] | None = None) -> Child:
        """Start a daemon that the caller ends."""
        self._children += 1
        return Child(name, place.namespace.command(*command), self.folder / f"{self._children}-{name}.log", env)

    def start_backend(self, addresses: Sequence[str]) -> Child:
        """Start the backend on all ``addresses`` and wait until it answers there."""
        command = [str(self.load.path), "serve", "--listen", ",".join(addresses)]
        child = self.start("backend", self.rig.nodes[-1].pods[0], command)
        child.wait_until(lambda: b"ready" in child.log.read_bytes(), "accepting")
        return child

    def measure(self, client: Host, arguments: Sequence[str], targets: Sequence[str], timeout: float = 60.0) -> Report:
        """Run the load tool in a client Pod against ``targets``."""
        command = [str(self.load.path), *arguments, "--target", ",".join(targets)]
        return Report.parse(output_of(client.namespace.command(*command), timeout))

    def conntrack(self, node: Node, destination: str | None = None) -> int:
        """Tracked connections of a node, all or those that a client has opened to ``destination``."""
        if destination is None:
            return int(node.namespace.run("conntrack", "--count").split()[-1])
        return len(node.namespace.run("conntrack", "-L", "--orig-dst", destination).splitlines())

    # --- wiring

    def _prepare(self) -> None:
        settings: dict[str, object] = {name.removeprefix("net/"): value for name, value in SYSCTLS.items()}
        each(self.rig.hosts, lambda host: host.namespace.sysctl(settings))
        *nodes, last = self.rig.nodes
        each(self.rig.nodes, lambda node: node.namespace.run("nft", "-f", "-", text=_CNI))
        for node in nodes:
            pod = self.client(node)
            pod.namespace.ip(*(f"address add {host}/32 dev eth0" for host in self.sources(node)))
            node.namespace.ip(
                f"route add {_net(node)}.64/26 via {pod.ipv4} dev {node.pods[0].interface} onlink",
                f"route add {ENDPOINT_RANGE} via {last.ipv4}",
            )
        backend = last.pods[0]
        backend.namespace.ip(
            f"route add local {ENDPOINT_RANGE} dev lo",
            *(f"address add {address.partition(':')[0]}/32 dev eth0" for address in self.backends),
        )
        last.namespace.ip(
            f"route add {_net(last)}.128/26 via {backend.ipv4} dev {backend.interface} onlink",
            f"route add {ENDPOINT_RANGE} via {backend.ipv4} dev {backend.interface} onlink",
        )


def _net(node: Node) -> str:
    """The first three numbers of a node's Pod addresses."""
    return node.pod_cidrs[0].rpartition(".")[0]
