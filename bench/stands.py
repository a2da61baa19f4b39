"""Where contestants run: a small network of its own for each, all alike and with the same addresses.

A stand is a node with a client and three Pods; the stands' nodes share one more network with the control planes::

    client 198.18.1.2 --- 198.18.1.1 node 198.18.2.1 --+-- Pod 198.18.2.11
                               |                       +-- Pod 198.18.2.12
    hub 198.18.64.1 --- 198.18.64.11...                +-- Pod 198.18.2.13

So none leaves anything in another's kernel tables, all can run at once, and each is measured in its turn on wires of
the same length. The hub is the network namespace of the bench itself (`enter_hub`). All namespaces are without a name;
the kernel removes them with their last process.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import results
from load import LoadTool, Report
from processes import BenchError, Child, output_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from cluster.api import Api
from cluster.controlplane import ControlPlane, ControlPlaneError
from support.namespace import Namespace, NamespaceError
from support.nodes import each

#: the Service that is measured, and the ports of all backends that the benches start without another wish
VIP = "198.18.129.1"
SERVICE_PORT = 80
BACKEND_PORT = 8080
#: room for 16,000 ClusterIPs
SERVICE_RANGE = "198.18.128.0/18"
#: what a node routes to its first Pod, which takes every address of it as its own
ENDPOINT_RANGE = "198.19.128.0/17"
#: the addresses of the client and of all Pods, on every node
POD_CIDR = "198.18.0.0/19"
CLIENT = "198.18.1.2"
#: the client's further addresses: more source ports than one address has
SOURCES = tuple(f"198.18.1.{64 + number}" for number in range(16))
PODS = tuple(f"198.18.2.{11 + number}" for number in range(3))
HUB = "198.18.64.1"

#: So that neither ports nor TIME_WAIT sockets nor backlogs are what is measured (names under /proc/sys/net). A bound on
#: TIME_WAIT would end half-closed sockets early: their kernel then answers by resets that no real node sees.
SYSCTLS: dict[str, object] = {
    "ipv4/ip_local_port_range": "1024 65000",
    "ipv4/tcp_tw_reuse": 1,
    "ipv4/tcp_max_syn_backlog": 4096,
    "core/somaxconn": 4096,
}
#: the first one that the kernel lets a namespace choose: senders without pacing, as on most nodes
_CONGESTION_CONTROLS = ("cubic", "reno")
#: an ordinary Debian node: a router whose reverse-path filter is loose
_NODE_SYSCTLS: dict[str, object] = {
    "ipv4/ip_forward": 1,
    "ipv4/conf/all/rp_filter": 2,
    "ipv4/conf/default/rp_filter": 2,
}
#: entries of ended connections would fill the table within a few rounds
_TRACKING: dict[str, object] = {"netfilter/nf_conntrack_tcp_timeout_time_wait": 1}

#: What a CNI plug-in's rule for traffic that leaves the cluster looks like. Because of it connections are tracked on
#: every node, as on a real one, also where no proxy asks for it.
_CNI = f"""table ip cni {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        ip saddr {POD_CIDR} ip daddr != 198.18.0.0/15 masquerade
    }}
}}"""

#: set in the process that runs in namespaces of its own
_MARK = "SPLICEWAY_BENCH_HUB"


def enter_hub() -> None:
    """Start over in a network and a mount namespace of the bench's own, which become the hub.

    Raises:
        BenchError: not root, or a program is missing.
    """
    if os.environ.get(_MARK):
        _choose_congestion_control()
        return
    if os.geteuid() != 0:
        raise BenchError("this bench makes network namespaces and packet rules: run it as root")
    missing = [name for name in ("unshare", "nsenter", "ip", "nft", "conntrack") if shutil.which(name) is None]
    if missing:
        raise BenchError(f"{', '.join(missing)} missing: apt-get install util-linux iproute2 nftables conntrack")
    os.environ[_MARK] = "1"
    os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, *sys.argv])


def _choose_congestion_control() -> None:
    for name in _CONGESTION_CONTROLS:
        with suppress(OSError):
            results.CONGESTION_CONTROL.write_text(name)
            return


class Stand:
    """One contestant's network. ``name`` is the Node object's, ``address`` the node's on the hub's network."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self.name = f"node{number + 1}"
        self.node = Namespace(self.name, folder, mounts=True)  # with an empty /run, so that no lock is shared
        self.client = Namespace(f"{self.name}-client", folder)
        self.pods = tuple(Namespace(f"{self.name}-pod{index + 1}", folder) for index in range(len(PODS)))
        self.address = f"198.18.64.{11 + number}"

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """All of the stand."""
        return (self.node, self.client, *self.pods)

    @property
    def backends(self) -> list[str]:
        """The three endpoints that `Stands.start_backends` serves by default, ADDR:PORT."""
        return [f"{pod}:{BACKEND_PORT}" for pod in PODS]

    def hold(self, *addresses: str) -> None:
        """Make Service addresses the node's own (on ``lo``), for proxies with ordinary sockets."""
        self.node.ip(*(f"address replace {address}/32 dev lo" for address in addresses))

    def manifest(self) -> dict[str, Any]:
        """The Node object, as a kubelet and the cluster's controllers would have written it."""
        addresses = [{"type": "InternalIP", "address": self.address}, {"type": "Hostname", "address": self.name}]
        return {
            "kind": "Node",
            "metadata": {"name": self.name, "labels": {"topology.kubernetes.io/zone": "zone-a"}},
            "spec": {"podCIDR": POD_CIDR, "podCIDRs": [POD_CIDR]},
            "status": {"addresses": addresses},
        }

    # --- wiring

    def wire(self) -> None:
        """Connect client and Pods to the node, which the hub has connected already. Raises NamespaceError."""
        for namespace in self.namespaces:
            namespace.sysctl({**SYSCTLS, "ipv4/tcp_congestion_control": results.congestion_control()})
        self.node.sysctl(_NODE_SYSCTLS)
        self.node.run("nft", "-f", "-", text=_CNI)
        with suppress(NamespaceError):  # not every kernel lets a namespace set it
            self.node.sysctl(_TRACKING)
        self.node.ip(
            f"address add {self.address}/24 dev hub",
            "link set hub up",
            f"route add default via {HUB}",  # some proxies look for the interface that it names
            f"link add client type veth peer name eth0 netns {self.client.pid}",
            "address add 198.18.1.1/24 dev client",
            "link set client up",
        )
        self.client.ip(
            *(f"address add {address}/24 dev eth0" for address in (CLIENT, *SOURCES)),
            "link set eth0 up",
            "route add default via 198.18.1.1",
        )
        for number, (pod, address) in enumerate(zip(self.pods, PODS, strict=True), 1):
            self._wire_pod(f"pod{number}", pod, address)
        self.pods[0].ip(f"route add local {ENDPOINT_RANGE} dev lo")
        self.node.ip(f"route add {ENDPOINT_RANGE} via {PODS[0]} dev pod1 onlink")

    def _wire_pod(self, interface: str, pod: Namespace, address: str) -> None:
        self.node.ip(
            f"link add {interface} type veth peer name eth0 netns {pod.pid}",
            f"address add 198.18.2.1/32 dev {interface}",
            f"link set {interface} up",
            f"route add {address}/32 dev {interface} src 198.18.2.1",
        )
        pod.ip(
            f"address add {address}/32 dev eth0",
            "link set eth0 up",
            "route add default via 198.18.2.1 dev eth0 onlink",
        )


@dataclass(frozen=True)
class Plane:
    """A running control plane on the hub. ``kubeconfig`` may do everything."""

    name: str
    control: ControlPlane
    api: Api

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of its administrator."""
        return self.control.kubeconfig


class Stands:
    """The stands of a bench. Use it as a context manager: leaving it ends all processes and removes all namespaces."""

    def __init__(self, load: LoadTool, count: int) -> None:
        self.load = load
        self.folder = Path()
        self.stands: tuple[Stand, ...] = ()
        self._count = count
        self._stack = ExitStack()
        self._children = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spliceway-bench-")))
            self.stands = tuple(Stand(number, self.folder) for number in range(self._count))
            namespaces = [namespace for stand in self.stands for namespace in stand.namespaces]
            stack.callback(lambda: each(namespaces, Namespace.stop))
            try:
                each(namespaces, Namespace.start)
                hub = stack.enter_context(Namespace("hub", self.folder, own=False))
                self._wire_hub(hub)
                stack.callback(output_of, ("ip", "link", "delete", "fabric"))  # also when the hub's worker is gone
                each(self.stands, Stand.wire)
            except NamespaceError as error:
                raise BenchError(str(error)) from error
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- processes

    def start(
        self, name: str, namespace: Namespace, command: Sequence[str], env: dict[str, str] | None = None
    ) -> Child:
        """Start a daemon that ends with the stands, at the latest."""
        return self._stack.enter_context(self.child(name, namespace, command, env))

    def child(
        self, name: str, namespace: Namespace, command: Sequence[str], env: dict[str, str] | None = None
    ) -> Child:
        """Start a daemon that the caller ends."""
        self._children += 1
        return Child(name, namespace.command(*command), self.folder / f"{self._children}-{name}.log", env)

    def start_backends(self, stand: Stand, ports: Sequence[int] = (BACKEND_PORT,)) -> list[Child]:
        """Start a backend in each Pod of the stand, at its address, and wait until it accepts."""
        listens = [[f"{address}:{port}" for port in ports] for address in PODS]
        return [self.start_backend(stand, number, own) for number, own in enumerate(listens)]

    def start_backend(self, stand: Stand, pod: int, listens: Sequence[str]) -> Child:
        """Start one backend process in a Pod (0 to 2) that listens at all of ``listens``, and wait until it accepts."""
        child = self.start("backend", stand.pods[pod], [str(self.load.path), "serve", "--listen", ",".join(listens)])
        child.wait_until(lambda: b"ready" in child.log.read_bytes(), "accepting")
        return child

    def load_command(self, arguments: Sequence[str], targets: Sequence[str]) -> list[str]:
        """The load tool's command line."""
        return [str(self.load.path), *arguments, "--target", ",".join(targets)]

    def measure(self, stand: Stand, arguments: Sequence[str], targets: Sequence[str], timeout: float = 60.0) -> Report:
        """Run the load tool in the stand's client against ``targets``; it must end within ``timeout`` seconds."""
        return Report.parse(output_of(stand.client.command(*self.load_command(arguments, targets)), timeout))

    def answers(self, stand: Stand, targets: Sequence[str], *, udp: bool = False) -> bool:
        """True when a request over TCP (``udp``: also one over UDP) gets its reply."""
        asked = [["crr", "--connections", "1"], *([["udp-new", "--clients", "1"]] if udp else [])]
        reports = (self.measure(stand, [*words, "--seconds", "0.01", "--warmup", "0"], targets) for words in asked)
        return all(report.requests and not report.errors for report in reports)

    def conntrack(self, stand: Stand) -> int:
        """Connections that the node tracks."""
        return int(stand.node.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count"))

    def forget(self, stand: Stand) -> None:
        """Remove all tracked connections of the node."""
        stand.node.run("conntrack", "--flush")

    # --- control planes

    def plane(self, name: str = "few", stands: Sequence[Stand] | None = None) -> Plane:
        """Start etcd and an API server on the hub with the Node objects of ``stands`` (default: all).

        Several may run, each with a name of its own; they end with the stands.

        Raises:
            BenchError: they are not built, or do not start.
        """
        folder = self.folder / f"plane-{name}"
        folder.mkdir()
        try:
            control = ControlPlane(folder, address=HUB, service_range=SERVICE_RANGE)
            self._stack.enter_context(control)
        except ControlPlaneError as error:
            raise BenchError(str(error)) from error
        api = self._stack.enter_context(Api(control.kubeconfig))
        each(self.stands if stands is None else stands, lambda stand: api.create(stand.manifest()))
        return Plane(name, control, api)

    # --- wiring

    def _wire_hub(self, hub: Namespace) -> None:
        if hub.run("ip", "route", "show", "default"):
            raise BenchError("the bench would change the machine's own network: run it by bench/run.py")
        hub.ip(
            "link set lo up", "link add fabric type bridge", f"address add {HUB}/24 dev fabric", "link set fabric up"
        )
        for stand in self.stands:
            port, node = f"to-{stand.name}", stand.node
            hub.ip(f"link add {port} type veth peer name hub netns {node.pid}", f"link set {port} master fabric up")
