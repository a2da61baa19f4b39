"""A node with Pods and a client outside, in network namespaces: run it under ``unshare --net --mount`` only.

The calling process is the node. Pods hang on veth pairs as ordinary CNIs lay them (a route for each, a gateway that
answers ARP for everything, forwarding and strict reverse-path filters on). Sockets of all namespaces can live in this
one process, because a socket stays in the namespace it was made in.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spliceway.capture.tproxy.sockets import IP_TRANSPARENT, IPV6_TRANSPARENT, TransparentListener
from spliceway.model import ClientClass, Protocol

NODE4, EXT4, POD4, OTHER4 = "198.18.0.1", "198.18.0.100", "198.19.1.2", "198.19.1.3"
NODE6, EXT6, POD6, OTHER6 = "fd00:18::1", "fd00:18::100", "fd00:19:1::2", "fd00:19:1::3"
BRIDGED4, SIBLING4 = "198.19.2.2", "198.19.2.3"
PODS = ("198.19.0.0/17", "fd00:19::/32")
VIP4, VIP6 = "198.19.128.10", "fd00:1a::10"

UPSTREAM_MARK = 1 << 5
_CLONE_NEWNET = 0x40000000
_IP_RECVORIGDSTADDR, _IPV6_RECVORIGDSTADDR = 20, 74
_libc = ctypes.CDLL(None, use_errno=True)
_namespaces: dict[str, int] = {}


def run(command: str) -> str:
    """Run one command and return what it prints."""
    done = subprocess.run(command.split(), check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def build(*, rp_filter: int = 1) -> None:
    """Make the namespaces ``pod``, ``other`` (a second Pod) and ``ext``; this process is the node."""
    run("mount -t tmpfs none /run")
    _namespaces["node"] = os.open("/proc/self/ns/net", os.O_RDONLY)
    run("ip link set lo up")
    for key in ("all", "default", "lo"):
        _sysctl(f"net/ipv4/conf/{key}/rp_filter", rp_filter)
    _sysctl("net/ipv4/ip_forward", 1)
    _sysctl("net/ipv6/conf/all/forwarding", 1)
    _sysctl("net/ipv6/conf/default/accept_dad", 0)
    _sysctl("net/ipv6/conf/all/accept_dad", 0)
    for name, four, six in (("ext", EXT4, EXT6), ("pod", POD4, POD6), ("other", OTHER4, OTHER6)):
        run(f"ip netns add {name}")
        _namespaces[name] = os.open(f"/run/netns/{name}", os.O_RDONLY)
        run(f"ip link add {name} type veth peer name eth0 netns {name}")
        with inside(name):
            _sysctl("net/ipv6/conf/eth0/accept_dad", 0)
            run("ip link set lo up")
            run("ip link set eth0 up")
        run(f"ip link set {name} up")
        _wire(name, four, six)


def _wire(name: str, four: str, six: str) -> None:
    if name == "ext":
        run(f"ip addr add {NODE4}/24 dev ext")
        run(f"ip addr add {NODE6}/64 dev ext nodad")
        with inside(name):
            run(f"ip addr add {four}/24 dev eth0")
            run(f"ip addr add {six}/64 dev eth0 nodad")
            run(f"ip route add default via {NODE4}")
            run(f"ip -6 route add default via {NODE6}")
        run(f"ip route add default via {four}")
        run(f"ip -6 route add default via {six}")
        return
    run("ip addr add 169.254.1.1/32 dev " + name)
    run(f"ip addr add fe80::1/64 dev {name} nodad")
    run(f"ip route add {four}/32 dev {name}")
    run(f"ip -6 route add {six}/128 dev {name}")
    with inside(name):
        run(f"ip addr add {four}/32 dev eth0")
        run(f"ip addr add {six}/128 dev eth0 nodad")
        run("ip route add 169.254.1.1 dev eth0")
        run("ip route add default via 169.254.1.1")
        run("ip -6 route add default via fe80::1 dev eth0")


def add_bridge() -> None:
    """Two more Pods, ``bridged`` and ``sibling``, on a Linux bridge, as the CNI plugin of that name lays them."""
    run("ip link add cni0 type bridge")
    run("ip addr add 198.19.2.1/24 dev cni0")
    run("ip link set cni0 up")
    for name, host in (("bridged", BRIDGED4), ("sibling", SIBLING4)):
        run(f"ip netns add {name}")
        _namespaces[name] = os.open(f"/run/netns/{name}", os.O_RDONLY)
        run(f"ip link add {name} type veth peer name eth0 netns {name}")
        run(f"ip link set {name} up master cni0")
        with inside(name):
            run("ip link set lo up")
            run("ip link set eth0 up")
            run(f"ip addr add {host}/24 dev eth0")
            run("ip route add default via 198.19.2.1")


def _sysctl(key: str, value: int) -> None:
    Path("/proc/sys", key).write_text(str(value))


@contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread is in the namespace meanwhile."""
    _enter(_namespaces[name])
    try:
        yield
    finally:
        _enter(_namespaces["node"])


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def repeated_syns(name: str) -> int:
    """SYNs that the kernel has sent again in the namespace, because nothing answered the first one for a second."""
    with inside(name):
        lines = Path("/proc/thread-self/net/netstat").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("TcpExt:"))
    return int(values[names.index("TCPSynRetrans")])


def make_socket(name: str, host: str, kind: int) -> socket.socket:
    """A socket in the namespace, of the family of ``host``."""
    with inside(name):
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    made.settimeout(2.0)
    return made


def make_transparent(made: socket.socket) -> None:
    """As the engine's upstream and reply sockets are."""
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, UPSTREAM_MARK)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


class Client:
    """One TCP connection of a client, opened on construction."""

    def __init__(self, name: str, host: str, port: int, *, timeout: float = 2.0, source: str = "") -> None:
        self.socket = make_socket(name, host, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        try:
            if source:
                self.socket.bind((source, 0))
            self.socket.connect((host, port))
            self.greeting = self.socket.recv(200).decode()
        except BaseException:
            self.socket.close()
            raise

    def echoes(self) -> bool:
        """What is sent comes back."""
        self.socket.sendall(b"ping")
        return self.socket.recv(10) == b"ping"

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def ask_tcp(name: str, host: str, port: int, *, timeout: float = 2.0, source: str = "") -> str:
    """Connect and return the server's greeting, or ``refused``, ``timeout`` or the error's name."""
    try:
        client = Client(name, host, port, timeout=timeout, source=source)
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return os.strerror(error.errno or 0)
    client.close()
    return client.greeting


def ask_udp(name: str, host: str, port: int, *, timeout: float = 2.0, payload: bytes = b"hello") -> str:
    """Send a datagram from a connected socket and return the answer; errors as words, as `ask_tcp` gives them."""
    with make_socket(name, host, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        try:
            client.connect((host, port))
            client.send(payload)
            return client.recv(65536).decode()
        except PermissionError:
            return "not permitted"
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "timeout"


def serve_tcp(listener: socket.socket, label: str) -> None:
    """Greet each connection with label, peer and own name, and echo what it sends."""
    listener.settimeout(None)

    def accept() -> None:
        while True:
            try:
                accepted, peer = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(accepted, peer[0]), daemon=True).start()

    def echo(accepted: socket.socket, peer: str) -> None:
        with accepted, suppress(OSError):
            host, port = accepted.getsockname()[:2]
            accepted.sendall(f"{label} {peer} {host} {port}".encode())
            while data := accepted.recv(65536):
                accepted.sendall(data)

    threading.Thread(target=accept, daemon=True).start()


def serve_udp(bound: socket.socket, label: str) -> None:
    """Answer each datagram with label, peer, original destination and size, from that destination."""
    six = bound.family == socket.AF_INET6
    bound.setsockopt(
        socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP, _IPV6_RECVORIGDSTADDR if six else _IP_RECVORIGDSTADDR, 1
    )
    bound.settimeout(None)

    def answer() -> None:
        while True:
            try:
                data, control, _, peer = bound.recvmsg(65536, 200)
            except OSError:
                return
            host, port = _original(control[0][2], six)
            with socket.socket(bound.family, socket.SOCK_DGRAM) as reply, suppress(OSError):
                make_transparent(reply)
                reply.bind((host, port))
                reply.sendto(f"{label} {peer[0]} {host} {port} {len(data)}".encode(), peer)

    threading.Thread(target=answer, daemon=True).start()


def _original(control: bytes, six: bool) -> tuple[str, int]:
    port = struct.unpack("!H", control[2:4])[0]
    if six:
        return socket.inet_ntop(socket.AF_INET6, control[8:24]), port
    return socket.inet_ntop(socket.AF_INET, control[4:8]), port


def serve_listeners(listeners: tuple[TransparentListener, ...]) -> list[socket.socket]:
    """Stand in for the engine: every listener answers with its class in lower case."""
    names = {ClientClass.POD: "pod", ClientClass.NODE: "node", ClientClass.EXT: "ext"}
    sockets = [socket.socket(fileno=listener.fd) for listener in listeners]
    for opened, listener in zip(sockets, listeners, strict=True):
        (serve_tcp if listener.protocol is Protocol.TCP else serve_udp)(opened, names[listener.client_class])
    return sockets


def backend(name: str, host: str, port: int, protocol: Protocol) -> socket.socket:
    """An ordinary server in a namespace; answers ``backend`` and the peer it sees."""
    made = make_socket(name, host, socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, port))
    made.settimeout(None)
    if protocol is Protocol.TCP:
        made.listen()
        serve_tcp(made, "backend")
        return made

    def answer() -> None:
        while True:
            try:
                _, peer = made.recvfrom(65536)
                made.sendto(f"backend {peer[0]}".encode(), peer)
            except OSError:
                return

    threading.Thread(target=answer, daemon=True).start()
    return made


def dial_as(client: str, host: str, port: int, protocol: Protocol, *, timeout: float = 2.0) -> str:
    """Dial a backend from the node with the client's address, as the engine does, and return its answer."""
    with make_socket("node", host, socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM) as upstream:
        make_transparent(upstream)
        upstream.settimeout(timeout)
        upstream.bind((client, 0))
        try:
            upstream.connect((host, port))
            if protocol is Protocol.UDP:
                upstream.send(b"hello")
            return upstream.recv(200).decode()
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "timeout"


def tracked() -> str:
    """The conntrack entries of UDP on the node."""
    return run("conntrack -L -p udp") + run("conntrack -L -p udp -f ipv6")


def eventually(condition: Callable[[], bool], what: str, seconds: float = 5.0) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)
