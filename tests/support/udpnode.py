"""A node with transparent UDP capture in network namespaces: a client and a backend on veth pairs, an engine between.

The rules are the least that the engine needs: what `--capture tproxy` installs is tested with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from spliceway._engine import Engine
from support.namespace import CLONE_NEWNET, Namespace
from support.rig import PATIENCE, Address

T = TypeVar("T")
CLIENT = {4: "198.18.1.2", 6: "fd00:18:1::2"}
BACKEND = {4: "198.18.2.2", 6: "fd00:18:2::2"}
#: addresses of nobody
VIP = {4: "198.18.9.1", 6: "fd00:18:9::1"}
#: the node towards the client, and towards the backend
NODE = {4: "198.18.1.1", 6: "fd00:18:1::1"}
INNER = {4: "198.18.2.1", 6: "fd00:18:2::1"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
CLASSES = ("pod", "node", "ext")
CAPTURED, UPSTREAM = 0x10, 0x20
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75

RULES = """
table inet t {{
    chain in {{
        type filter hook prerouting priority raw
        meta l4proto udp socket mark {upstream} notrack
        socket wildcard 0 socket transparent 1 meta mark set {captured} accept
        {diverts}
    }}
    chain own {{
        type filter hook output priority raw
        meta mark {upstream} meta l4proto udp notrack accept
        ip daddr {vip4} meta l4proto udp notrack
        ip6 daddr {vip6} meta l4proto udp notrack
    }}
    chain out {{
        type route hook output priority mangle
        meta mark {upstream} accept
        ip daddr {vip4} meta l4proto udp meta mark set {captured}
        ip6 daddr {vip6} meta l4proto udp meta mark set {captured}
    }}
    chain tracked {{
        type filter hook input priority filter
        ct state established counter
    }}
}}
"""


def inside(space: Namespace, call: Callable[[], T]) -> T:
    """Call in a thread that has entered ``space``: threads and sockets made there stay there."""
    made: Future[T] = Future()

    def enter_and_call() -> None:
        try:
            with Path(f"/proc/{space.pid}/ns/net").open("rb") as net:
                assert ctypes.CDLL(None).setns(net.fileno(), CLONE_NEWNET) == 0
            made.set_result(call())
        except BaseException as error:
            made.set_exception(error)

    threading.Thread(target=enter_and_call, daemon=True).start()
    return made.result(PATIENCE)


class UdpNode:
    """The namespaces, and an engine in that of the node with a UDP socket per class, family and worker."""

    def __init__(self, node: Namespace, client: Namespace, backend: Namespace) -> None:
        self.node, self.client, self.backend = node, client, backend
        node.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1, "ipv4/conf/all/rp_filter": 1})
        for number, space in ((1, client), (2, backend)):
            node.ip(f"link add p{number} type veth peer name eth0 netns {space.pid}", f"link set p{number} up")
            space.ip("link set eth0 up")
            for net, length, flags in ((f"198.18.{number}.", 24, ""), (f"fd00:18:{number}::", 64, "nodad")):
                node.ip(f"addr add {net}1/{length} dev p{number} {flags}")
                space.ip(f"addr add {net}2/{length} dev eth0 {flags}", f"route add default via {net}1 dev eth0")
        for family in ("-4", "-6"):
            node.run("ip", family, "rule", "add", "fwmark", f"{CAPTURED}/{CAPTURED}", "lookup", "107")
            node.run("ip", family, "route", "add", "local", "default", "dev", "lo", "table", "107")
            # A node has a route to the service range; the default one is enough.
            node.run("ip", family, "route", "add", "default", "dev", "p2")
        self.engine = Engine(workers=2, mark=UPSTREAM, udp_stream_timeout=60.0)
        inside(node, self.engine.start)
        ports = {(family, name): self._listen(family, name) for family in (4, 6) for name in CLASSES}
        node.run("nft", "-f", "-", text=self._rules(ports))

    def _listen(self, family: int, client_class: str) -> int:
        """Open and hand over a socket for each worker; all have one port."""
        port = 0
        for _ in range(self.engine.counters().workers):
            sock = self.node.open_socket(FAMILY[family], socket.SOCK_DGRAM)
            level, option = (socket.SOL_IP, IP_TRANSPARENT) if family == 4 else (socket.IPPROTO_IPV6, IPV6_TRANSPARENT)
            sock.setsockopt(level, option, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1" if family == 4 else "::1", port))
            port = sock.getsockname()[1]
            self.engine.add_transparent_listener(sock.detach(), client_class)
        return port

    def _rules(self, ports: dict[tuple[int, str], int]) -> str:
        lines = []
        for family, ip, target in ((4, "ip", "127.0.0.1"), (6, "ip6", "[::1]")):
            for name, match in (("node", "iifname lo"), ("pod", "iifname p1"), ("ext", "iifname p2")):
                divert = f"tproxy {ip} to {target}:{ports[family, name]} meta mark set {CAPTURED} notrack accept"
                node_port = f"meta nfproto ipv{family} fib daddr type local udp dport 31000"
                for where in (f"{ip} daddr {VIP[family]}", node_port):
                    lines.append(f"{match} meta mark != {UPSTREAM} {where} meta l4proto udp {divert}")  # noqa: PERF401
        diverts = "\n        ".join(lines)
        return RULES.format(captured=CAPTURED, upstream=UPSTREAM, diverts=diverts, vip4=VIP[4], vip6=VIP[6])

    def serve(self, space: Namespace, address: Address) -> None:
        """Answer each datagram at ``address`` with the sender's address as seen there, a space, and the datagram."""
        sock = space.open_socket(FAMILY[6 if ":" in address[0] else 4], socket.SOCK_DGRAM)
        sock.bind(address)

        def answer() -> None:
            with sock, contextlib.suppress(OSError):
                while True:
                    datagram, peer = sock.recvfrom(1 << 16)
                    sock.sendto(peer[0].encode() + b" " + datagram, peer)

        threading.Thread(target=answer, daemon=True).start()

    def dial(self, space: Namespace, address: Address, source: Address | None = None) -> socket.socket:
        """A client's socket that takes answers from ``address`` only."""
        sock = space.open_socket(FAMILY[6 if ":" in address[0] else 4], socket.SOCK_DGRAM)
        sock.settimeout(PATIENCE)
        if source is not None:
            sock.bind(source)
        sock.connect(address)
        return sock


@contextlib.contextmanager
def udp_node(folder: Path) -> Iterator[UdpNode]:
    """A node that is taken down in the end, and whose workers never panicked."""
    with contextlib.ExitStack() as stack:
        node, client, backend = (stack.enter_context(Namespace(name, folder)) for name in ("node", "client", "backend"))
        made = UdpNode(node, client, backend)
        stack.callback(made.engine.close)
        yield made
        assert made.engine.counters().worker_panics == 0
