"""Transparent listeners and upstream sockets: backends see the client's own address where a route says so (M-09)."""

from __future__ import annotations

import os

import pytest

from support.child import run_child

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace; run the tests as root"),
]

# The child is a node with strict reverse-path filters; a client and a backend hang on veth pairs, and reach each other
# through it only. Its rules are what `--capture tproxy` needs at least.
KEEP_SOURCE = """
import ctypes, os, subprocess
from concurrent.futures import Future
from pathlib import Path
from support.rig import *
from spliceway._engine import Engine

CLIENT, BACKEND = {4: "198.18.1.2", 6: "fd00:18:1::2"}, {4: "198.18.2.2", 6: "fd00:18:2::2"}
VIP, NODE = {4: "198.18.9.1", 6: "fd00:18:9::1"}, {4: "198.18.2.1", 6: "fd00:18:2::1"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
CAPTURED, UPSTREAM = 0x10, 0x20

def run(*command, text=None):
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout

class Space:
    # a network namespace beside the node's
    def __init__(self, name):
        self.name = name
        self.process = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)  # until its input ends
        self.net, own = f"/proc/{self.process.pid}/ns/net", os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(self.net) != own, "the namespace")
        self.ip("link set lo up")

    def ip(self, *lines):
        run("nsenter", f"--net={self.net}", "ip", "-batch", "-", text="\\n".join(lines))

    def socket(self, family):
        made = Future()
        threading.Thread(target=self._make, args=(family, made)).start()
        return made.result(PATIENCE)

    def _make(self, family, made):
        # A thread that has entered stays inside, and so does the socket that it makes.
        with open(self.net) as net:
            assert ctypes.CDLL(None).setns(net.fileno(), 0) == 0
        made.set_result(socket.socket(family))

    def close(self):
        self.process.communicate()

def wire(space, number):
    run("ip", "link", "add", space.name, "type", "veth", "peer", "name", "eth0", "netns", str(space.process.pid))
    run("ip", "link", "set", space.name, "up")
    space.ip("link set eth0 up")
    for net, length, six in ((f"198.18.{number}.", 24, ()), (f"fd00:18:{number}::", 64, ("nodad",))):
        run("ip", "addr", "add", f"{net}1/{length}", "dev", space.name, *six)
        space.ip(f"addr add {net}2/{length} dev eth0 {' '.join(six)}", f"route add default via {net}1 dev eth0")

def transparent(family, client_class):
    sock = socket.socket(FAMILY[family])
    level, option = (socket.SOL_IP, 19) if family == 4 else (socket.IPPROTO_IPV6, 75)
    sock.setsockopt(level, option, 1)
    sock.bind(("127.0.0.1" if family == 4 else "::1", 0))
    sock.listen(100)
    port = sock.getsockname()[1]
    engine.add_transparent_listener(sock.detach(), client_class)
    return port

def peer(connection):
    # what the backend sees of a client, then what it sends
    connection.sendall(connection.getpeername()[0].encode() + b" ")
    echo(connection)

def server(space, host, port):
    sock = space.socket(FAMILY[6 if ":" in host else 4])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    sock.listen(100)
    def accept():
        while True:
            connection, _ = sock.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()
    def serve(connection):
        with connection:
            peer(connection)
    threading.Thread(target=accept, daemon=True).start()

def ask(space, host, port):
    # the client's address as the backend saw it, after half a megabyte went both ways
    made = space.socket(FAMILY[6 if ":" in host else 4]) if space else socket.socket(FAMILY[4])
    with made as client:
        client.settimeout(PATIENCE)
        try:
            client.connect((host, port))
            seen = b""
            while not seen.endswith(b" "):
                seen += client.recv(1)
            sent = bytes(range(256)) * 2048
            threading.Thread(target=client.sendall, args=(sent,)).start()
            assert read_exactly(client, len(sent)) == sent
        except ConnectionResetError:
            return "reset"
        return seen.decode().strip()

run("ip", "link", "set", "lo", "up")
for name, value in (("ipv4/ip_forward", 1), ("ipv6/conf/all/forwarding", 1), ("ipv4/conf/all/rp_filter", 1),
                    ("ipv4/conf/default/rp_filter", 1)):
    Path("/proc/sys/net", name).write_text(str(value))
engine = Engine(workers=2, mark=UPSTREAM)
engine.start()
with contextlib.closing(Space("client")) as client, contextlib.closing(Space("backend")) as backend:
    wire(client, 1)
    wire(backend, 2)
    tentative = ("ip", "-6", "address", "show", "tentative")
    for inside in ((), *(("nsenter", f"--net={space.net}") for space in (client, backend))):
        wait_until(lambda: not run(*inside, *tentative), "IPv6 addresses")
    pod, ext = ({family: transparent(family, name) for family in (4, 6)} for name in ("pod", "ext"))
    rules = "".join(
        f"ip{'' if family == 4 else '6'} daddr {VIP[family]} tcp dport {port}"
        f" tproxy ip{'' if family == 4 else '6'} to {'127.0.0.1' if family == 4 else '[::1]'}:{target[family]}"
        f" meta mark set {CAPTURED} accept;"
        for family in (4, 6) for port, target in ((80, pod), (81, ext), (82, pod), (83, pod))
    )
    run("nft", "-f", "-", text=f'''table inet t {{
        chain in {{ type filter hook prerouting priority -300;
            socket wildcard 0 socket transparent 1 meta mark set {CAPTURED} accept; {rules}
            fib daddr type local tcp dport 31000 tproxy ip to 127.0.0.1:{ext[4]} meta mark set {CAPTURED} accept; }}
        counter marked {{}}; counter unmarked {{}};
        chain out {{ type filter hook output priority 0;
            tcp dport {{ 8080, 8081 }} meta mark {UPSTREAM} counter name marked;
            tcp dport {{ 8080, 8081 }} meta mark != {UPSTREAM} counter name unmarked; }}
    }}''')
    for family in ("-4", "-6"):
        run("ip", family, "rule", "add", "fwmark", f"{CAPTURED}/{CAPTURED}", "lookup", "107")
        run("ip", family, "route", "add", "local", "default", "dev", "lo", "table", "107")
    pools, routes = [], []
    for family in (4, 6):
        server(backend, BACKEND[family], 8080)
        server(client, CLIENT[family], 8081)
        # Of each pair one is dead, so that retries are seen as well.
        pools.append(record(f"p{family}", [(BACKEND[family], 8080), (BACKEND[family], 9)]))
        pools.append(record(f"hairpin{family}", [(CLIENT[family], 8081)]))
        pair = ((f"p{family}", True), None, (f"p{family}", False))
        routes += [("tcp", VIP[family], port, pair) for port in (80, 81)]
        routes.append(("tcp", VIP[family], 82, ((f"hairpin{family}", True), None, None)))
    routes.append(("tcp", "0.0.0.0", 31000, (None, None, ("p4", True))))
    routes.append(("tcp", "127.0.0.1", pod[4], (("p4", True), None, None)))
    engine.apply(pools, [], 1, routes)
    for family in (4, 6):
        for _ in range(6):
            assert ask(client, VIP[family], 80) == CLIENT[family]
            assert ask(client, VIP[family], 81) == NODE[family]
        # A backend that got a packet from its own address would answer itself (M-05).
        assert ask(client, VIP[family], 82) == {4: "198.18.1.1", 6: "fd00:18:1::1"}[family]
        assert ask(client, VIP[family], 83) == "reset"
    assert engine.counters().unrouted == 2
    # A NodePort on each of the node's addresses.
    assert {ask(client, host, 31000) for host in ("198.18.1.1", NODE[4])} == {CLIENT[4]}
    # A loopback address means another machine to the backend.
    assert ask(None, "127.0.0.1", pod[4]) == NODE[4]
    counts = {name: run("nft", "list", "counter", "inet", "t", name) for name in ("marked", "unmarked")}
    assert "packets 0 " in counts["unmarked"], counts
    assert "packets 0 " not in counts["marked"], counts
    four = engine.pool_counters("p4")
    assert four.saved > 0 and four.failed == 0, four
    # A client that goes through the same frontend many times never meets a port of an earlier flow that is in use.
    for _ in range(100):
        assert ask(client, VIP[4], 80) == CLIENT[4]
    wait_until(lambda: engine.counters().flows == 0, "flows to end")
    assert engine.counters().worker_panics == 0
engine.close()
print("kept")
"""


def test_backends_see_the_clients_address() -> None:
    """Logs, allow lists and rate limits of backends work on the client's address; a wrong one locks out the node."""
    assert run_child(KEEP_SOURCE, prefix=("unshare", "--net")) == "kept\n"
