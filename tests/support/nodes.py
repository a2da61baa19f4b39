"""A small cluster network in namespaces: nodes with Pods behind them, a client outside, and a router between all.

    with Rig(folder) as rig:
        rig.node(1).pod(1).namespace.serve("a", rig.node(1).pod(1).hosts, 8080)
        rig.external.namespace.probe([Probe("TCP", rig.node(1).pod(1).ipv4, 8080)])

The network namespace of the test's own process is the router, and what would be outside of the cluster: an API server
that runs there is reached from everywhere at any of its addresses. It must not be the machine's (`unshare --net`).

    router (hub)  198.18.32.1/24 --+-- node1  198.18.32.11 --+-- node1-1  198.18.65.11 (Pod: veth, /32 route)
                                   |                         +-- node1-2  198.18.65.12
                                   +-- node2  198.18.32.12 ----- ...
                                   +-- external  198.18.32.200 (routes to Services and load balancers by node1)

Pods are wired as usual CNI plug-ins do: a veth pair each, its end on the node has no IPv4 address and answers for the
gateway 169.254.1.1 (IPv6: is fe80::1), a host route leads to the Pod, nodes forward and have reverse-path filters.
Everything has an address of either family: of 198.18.0.0/15, kept by RFC 2544 for tests, and of fdc6:12::/32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

from support.namespace import Namespace, NamespaceError

#: of all Pods, of either family (for ``--cluster-cidr``)
CLUSTER_CIDRS = ("198.18.64.0/18", "fdc6:12:4::/48")
#: of ClusterIPs (for the API server)
SERVICE_CIDRS = ("198.18.128.0/20", "fdc6:12:8::/112")
#: of external IPs and load balancers' IPs that nodes capture: the external client's route leads to a node, and the
#: router drops what nobody captured
VIP_CIDRS = ("198.19.0.0/18", "fdc6:12:9::/48")
#: of the router: a load balancer that is somewhere else
OUTSIDE = ("198.19.64.1", "fdc6:12:a::1")

_HUB = ("198.18.32.1", "fdc6:12:1::1")
#: of the nodes' second addresses
_OTHERS = ("198.18.33.0/24", "fdc6:12:2::/64")
_EXTERNAL = ("198.18.32.200", "fdc6:12:1::200")

#: ICMP errors are limited for each destination, and a test has the same few clients for hundreds of refusals
_UNLIMITED = {
    "ipv4/icmp_ratelimit": 0,
    "ipv4/icmp_msgs_per_sec": 1_000_000,
    "ipv4/icmp_msgs_burst": 1_000_000,
    "ipv6/icmp/ratelimit": 0,
}
#: an address is usable at once
_NO_DAD = {"ipv6/conf/all/accept_dad": 0, "ipv6/conf/default/accept_dad": 0, "ipv6/conf/default/accept_ra": 0}
#: A node that captures nothing sends a packet for a Service back to the router, and tells its sender to go there
#: himself. He would never come back for those addresses.
_NO_REDIRECTS = {f"{ip}/conf/{name}/accept_redirects": 0 for ip in ("ipv4", "ipv6") for name in ("all", "eth0")}

_T = TypeVar("_T")
_R = TypeVar("_R")


class Host:
    """A place with one address of each family."""

    def __init__(self, name: str, namespace: Namespace, ipv4: str, ipv6: str) -> None:
        self.name = name
        self.namespace = namespace
        self.ipv4 = ipv4
        self.ipv6 = ipv6

    @property
    def hosts(self) -> tuple[str, str]:
        """Both addresses."""
        return self.ipv4, self.ipv6

    def host(self, family: int) -> str:
        """The address of family 4 or 6."""
        return self.ipv4 if family == 4 else self.ipv6

    def __repr__(self) -> str:
        return self.name


class Pod(Host):
    """A Pod of a node."""

    def __init__(self, name: str, folder: Path, node: Node, number: int) -> None:
        ipv4, ipv6 = (cidr.rpartition("0/")[0] if "." in cidr else cidr.partition("/")[0] for cidr in node.pod_cidrs)
        super().__init__(name, Namespace(name, folder), f"{ipv4}{10 + number}", f"{ipv6}{10 + number}")
        self.node = node
        #: the node's end of the veth pair
        self.interface = f"veth{number}"

    def wire(self) -> None:
        """Connect the Pod to its node, as a CNI plug-in does."""
        node, pod, end = self.node.namespace, self.namespace, self.interface
        node.ip(
            f"link add {end} type veth peer name eth0 netns {pod.pid}",
            f"link set {end} addrgenmode none",
            f"address add fe80::1/64 dev {end} nodad",
            f"link set {end} up",
            f"route add {self.ipv4}/32 dev {end}",
            f"route add {self.ipv6}/128 dev {end}",
        )
        node.sysctl({f"ipv4/conf/{end}/proxy_arp": 1, f"ipv4/neigh/{end}/proxy_delay": 0})
        pod.sysctl(_NO_DAD)
        pod.ip(
            f"address add {self.ipv4}/32 dev eth0",
            f"address add {self.ipv6}/128 dev eth0 nodad",
            "link set eth0 up",
            "route add 169.254.1.1 dev eth0 scope link",
            "route add default via 169.254.1.1 dev eth0",
            "route add default via fe80::1 dev eth0",
        )


class Node(Host):
    """A node: forwarding on, an address of each family and a second one (``others``), Pods behind it."""

    def __init__(self, folder: Path, number: int, pods: int, zone: str, rp_filter: int) -> None:
        name = f"node{number}"
        namespace = Namespace(name, folder, mounts=True)
        super().__init__(name, namespace, f"198.18.32.{10 + number}", f"fdc6:12:1::{10 + number}")
        self.number = number
        self.zone = zone
        self.others = (f"198.18.33.{10 + number}", f"fdc6:12:2::{10 + number}")
        self.pod_cidrs = (f"198.18.{64 + number}.0/24", f"fdc6:12:4:{number}::/64")
        self.pods = tuple(Pod(f"{name}-{index}", folder, self, index) for index in range(1, pods + 1))
        self._rp_filter = rp_filter

    def pod(self, number: int) -> Pod:
        """The Pod of this number; the first one is 1."""
        return self.pods[number - 1]

    def prepare(self) -> None:
        """Make the node a router with the settings of an ordinary Debian (its systemd sets rp_filter)."""
        self.namespace.sysctl(
            {
                "ipv4/conf/all/rp_filter": self._rp_filter,
                "ipv4/conf/default/rp_filter": self._rp_filter,
                "ipv4/conf/all/src_valid_mark": 0,
                "ipv4/ip_forward": 1,
                "ipv6/conf/all/forwarding": 1,
                **_NO_DAD,
                **_UNLIMITED,
            }
        )

    def wire_pods(self) -> None:
        """Connect the node's Pods."""
        for pod in self.pods:
            pod.wire()

    def manifest(self) -> dict[str, Any]:
        """The Node object, as a kubelet and the cluster's controllers would have written it."""
        addresses = [{"type": "InternalIP", "address": host} for host in self.hosts]
        return {
            "kind": "Node",
            "metadata": {"name": self.name, "labels": {"topology.kubernetes.io/zone": self.zone}},
            "spec": {"podCIDR": self.pod_cidrs[0], "podCIDRs": list(self.pod_cidrs)},
            "status": {"addresses": [*addresses, {"type": "Hostname", "address": self.name}]},
        }


class Rig:
    """The whole network. Use it as a context manager; nothing of it is left when it ends, or its process does."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 2,
        pods: int = 3,
        zones: Sequence[str] = ("zone-a", "zone-b", "zone-c"),
        rp_filter: int = 2,
    ) -> None:
        """Prepare; nothing runs before start().

        ``folder`` takes logs. Node number N is in the N-th zone. ``rp_filter``: 2 as systemd sets it (loose), or 1.
        """
        self.nodes = tuple(Node(folder, number, pods, zones[number - 1], rp_filter) for number in range(1, nodes + 1))
        #: a client outside of the cluster, on the nodes' network
        self.external = Host("external", Namespace("external", folder), *_EXTERNAL)
        #: the router; `OUTSIDE` are addresses of its as well
        self.hub = Host("hub", Namespace("hub", folder, own=False), *_HUB)
        self._stack = ExitStack()

    def node(self, number: int) -> Node:
        """The node of this number; the first one is 1."""
        return self.nodes[number - 1]

    @property
    def pods(self) -> tuple[Pod, ...]:
        """The Pods of all nodes."""
        return tuple(pod for node in self.nodes for pod in node.pods)

    @property
    def hosts(self) -> tuple[Host, ...]:
        """All places that have a namespace of their own."""
        return (*self.nodes, *self.pods, self.external)

    def start(self) -> None:
        """Make everything. Raises NamespaceError, also when this network namespace leads somewhere."""
        with ExitStack() as stack:
            stack.enter_context(self.hub.namespace)
            if self.hub.namespace.run("ip", "route", "show", "default"):
                raise NamespaceError("the rig makes its network namespace a router: run it under `unshare --net`")
            stack.callback(self._unwire_hub)
            self._wire_hub()
            stack.callback(lambda: each(self.hosts, lambda host: host.namespace.stop()))
            each(self.hosts, lambda host: host.namespace.start())
            each(self.nodes, lambda node: node.prepare())
            for host in (*self.nodes, self.external):
                self._plug(host)
            each(self.nodes, lambda node: node.wire_pods())
            each(self.nodes, self._route_between_nodes)
            self._route_external()
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """Remove everything. May be called more than once."""
        self._stack.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def route_external(self, node: Node) -> None:
        """The external client's way to Services and to load balancers' and external IPs leads by this node."""
        self.external.namespace.ip(
            *(
                f"route replace {cidr} via {host}"
                for cidrs in (SERVICE_CIDRS, VIP_CIDRS)
                for cidr, host in zip(cidrs, node.hosts, strict=True)
            )
        )

    # --- wiring

    def _wire_hub(self) -> None:
        hub = self.hub.namespace
        hub.sysctl({**_NO_DAD, "ipv4/ip_forward": 0, "ipv6/conf/all/forwarding": 0})
        hub.ip(
            "link set lo up",
            "link add fabric type bridge",
            f"address add {self.hub.ipv4}/24 dev fabric",
            f"address add {self.hub.ipv6}/64 dev fabric nodad",
            *(f"address add {host} dev fabric nodad" for host in OUTSIDE if ":" in host),
            *(f"address add {host}/32 dev fabric" for host in OUTSIDE if ":" not in host),
            "link set fabric up",
            *(f"route add {cidr} dev fabric" for cidr in _OTHERS),
            *(f"route add blackhole {cidr}" for cidr in (*SERVICE_CIDRS, *VIP_CIDRS)),
            *(
                f"route add {cidr} via {host}"
                for node in self.nodes
                for cidr, host in zip(node.pod_cidrs, node.hosts, strict=True)
            ),
        )

    def _unwire_hub(self) -> None:
        lost = (f"route delete blackhole {cidr}" for cidr in (*SERVICE_CIDRS, *VIP_CIDRS))
        self.hub.namespace.ip("link delete fabric", *lost)

    def _plug(self, host: Host) -> None:
        """Connect a node or the external client to the router's bridge."""
        port = f"to-{host.name}"
        self.hub.namespace.ip(
            f"link add {port} type veth peer name eth0 netns {host.namespace.pid}",
            f"link set {port} master fabric up",
        )
        if not isinstance(host, Node):
            host.namespace.sysctl({**_NO_DAD, **_NO_REDIRECTS})
        others = host.others if isinstance(host, Node) else ()
        host.namespace.ip(
            f"address add {host.ipv4}/24 dev eth0",
            f"address add {host.ipv6}/64 dev eth0 nodad",
            *(f"address add {other}/24 dev eth0" for other in others if ":" not in other),
            # Deprecated: never chosen as a source, as a second IPv4 address is not.
            *(f"address add {other}/64 dev eth0 nodad preferred_lft 0" for other in others if ":" in other),
            "link set eth0 up",
            f"route add default via {self.hub.ipv4}",
            f"route add default via {self.hub.ipv6}",
        )

    def _route_between_nodes(self, node: Node) -> None:
        node.namespace.ip(
            *(
                f"route add {cidr} via {host}"
                for other in self.nodes
                if other is not node
                for cidr, host in zip(other.pod_cidrs, other.hosts, strict=True)
            )
        )

    def _route_external(self) -> None:
        self.external.namespace.ip(*(f"route add {cidr} dev eth0" for cidr in _OTHERS))
        self.route_external(self.node(1))


def each(items: Iterable[_T], do: Callable[[_T], _R], *, at_once: int = 32) -> list[_R]:
    """Call ``do`` with every item, many at once, and return the results in order; the first error is raised."""
    listed = list(items)
    with ThreadPoolExecutor(max(1, min(at_once, len(listed)))) as pool:
        return list(pool.map(do, listed))
