"""Transparent capture in network namespaces: who is led where, refused or dropped, and what survives."""

from __future__ import annotations

import os
import shutil

import pytest

from support.child import run_child

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces; run the tests as root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs the program nft (package nftables)"),
]

# Common to all: the node's rules are changed by `change`, and each listener answers with its class.
PREAMBLE = """
import trio
from support.captureworld import *
from spliceway.capture.tproxy import TproxyCapture
from spliceway.model import *
from spliceway.settings import CaptureSettings, DetectLocal
SERVE, REJECT, DROP = FrontendVerdict.SERVE, FrontendVerdict.REJECT, FrontendVerdict.DROP
BOTH = (Protocol.TCP, Protocol.UDP)
VIPS = (VIP4, VIP6)
def frontend(host, port, verdict=SERVE, protocol=Protocol.TCP, **more):
    return Frontend(Address(host, port), "default/shop:http", verdict, protocol, **more)
def everything(verdict=SERVE, **more):
    "the VIPs and a NodePort, in both families, for TCP and UDP"
    return [
        frontend(host, port, verdict, protocol, **more)
        for host, port in ((VIP4, 80), (VIP6, 80), ("0.0.0.0", 30080), ("::", 30080))
        for protocol in BOTH
    ]
def keys(frontends):
    return [each.key for each in frontends]
def settings(**more):
    return CaptureSettings(**({"cluster_cidrs": PODS, "localhost_node_ports": True} | more))
async def opened(**more):
    capture = TproxyCapture(settings(**more), 2)
    opened.sockets = serve_listeners(await capture.open())
    return capture
TARGETS = ((VIP4, 80), (VIP6, 80), (NODE4, 30080), (NODE6, 30080))
"""


def in_node(code: str, *, timeout: float = 60.0) -> str:
    return run_child(PREAMBLE + code, prefix=("unshare", "--net", "--mount"), timeout=timeout)


SERVED = """
build(rp_filter={rp_filter})
for key in ("all", "ext", "pod"):
    Path("/proc/sys/net/ipv4/conf", key, "src_valid_mark").write_text("{src_valid_mark}")
Path("/proc/sys/net/ipv4/ip_early_demux").write_text("{early_demux}")
addresses = {{"pod": (POD4, POD6), "ext": (EXT4, EXT6), "node": (NODE4, NODE6)}}
async def main():
    capture = await opened()
    await capture.change(everything(), ())
    assert capture.problems() == (), capture.problems()
    for client in ("pod", "ext", "node"):
        for host, port in TARGETS:
            peer = addresses[client][":" in host]
            expected = f"{{client}} {{peer}} {{host}} {{port}}"
            assert ask_tcp(client, host, port) == expected, (expected, ask_tcp(client, host, port))
            answer = ask_udp(client, host, port, payload=bytes(9000))
            assert answer == f"{{expected}} 9000", (expected, answer)
    for host in ("127.0.0.1", "::1"):
        assert ask_tcp("node", host, 30080) == f"node {{host}} {{host}} 30080"
        assert ask_udp("node", host, 30080) == f"node {{host}} {{host}} 30080 5"
    assert "sport" not in tracked(), tracked()
    # Nobody reaches the listeners but by the rules.
    port = capture._wanted.ports[ClientClass.POD, Protocol.TCP, 4]
    assert ask_tcp("ext", NODE4, port) == "refused"
trio.run(main)
"""


@pytest.mark.parametrize(("rp_filter", "src_valid_mark", "early_demux"), [(1, 0, 1), (2, 0, 1), (1, 1, 1), (0, 1, 0)])
def test_every_client_reaches_the_listener_of_its_class(rp_filter: int, src_valid_mark: int, early_demux: int) -> None:
    """Section 2.7: a wrong class means wrong backends or a lost source address. On hosts of any common set-up."""
    in_node(SERVED.format(rp_filter=rp_filter, src_valid_mark=src_valid_mark, early_demux=early_demux))


# What firewalls begin with: an answer that conntrack does not know is dropped, coming or going.
INVALID_DROPPED = """
table inet filter {
    chain input { type filter hook input priority 0; policy accept; ct state invalid drop; }
    chain output { type filter hook output priority 0; policy accept; ct state invalid drop; }
}
"""

REFUSED = """
build()
subprocess.run(["nft", "-f", "-"], check=True, text=True, input=FIREWALL)
for key in ("ipv4/fwmark_reflect", "ipv6/fwmark_reflect"):
    Path("/proc/sys/net", key).write_text(FWMARK_REFLECT)
async def main():
    capture = await opened()
    await capture.change(everything(REJECT), ())
    for client in ("pod", "ext", "node"):
        for host, port in TARGETS:
            began = time.monotonic()
            for _ in range(10):  # more than the kernel's limit on ICMP errors lets pass
                assert ask_tcp(client, host, port) == "refused"
            assert ask_udp(client, host, port) == ("not permitted" if client == "node" else "refused")
            assert time.monotonic() - began < 1.0, "refused, but not at once"
    await capture.change(everything(DROP), ())
    for client in ("pod", "ext", "node"):
        for host, port in TARGETS:
            assert ask_tcp(client, host, port, timeout=0.2) == "timeout"
            assert ask_udp(client, host, port, timeout=0.2) == ("not permitted" if client == "node" else "timeout")
    await capture.change(everything(external=ExternalRoute("default/shop:http@local", DROP)), ())
    for host, port in TARGETS:
        assert ask_tcp("pod", host, port).startswith("pod ")
        assert ask_tcp("node", host, port).startswith("node ")
        assert ask_udp("node", host, port).startswith("node ")
        assert ask_tcp("ext", host, port, timeout=0.2) == "timeout"
        assert ask_udp("ext", host, port, timeout=0.2) == "timeout"
    assert "sport" not in tracked(), tracked()
    await capture.change((), keys(everything()))
    assert ask_udp("pod", NODE4, 30080) == "refused", "the node's own kernel answers again"
    assert ask_udp("pod", VIP4, 80, timeout=0.2) != f"pod {POD4} {VIP4} 80 5"
    assert capture.statistics().elements == 0
trio.run(main)
"""


@pytest.mark.parametrize(("firewall", "fwmark_reflect"), [("", "0"), (INVALID_DROPPED, "1")])
def test_reject_is_an_error_at_once_and_drop_is_silence(firewall: str, fwmark_reflect: str) -> None:
    """T-15, N-01, N-02: a client must fail at once without endpoints, and only local policies may cost it a wait.

    Beside a firewall as well, and where the kernel gives its answers the mark of what they answer.
    """
    in_node(f"FIREWALL, FWMARK_REFLECT = {firewall!r}, {fwmark_reflect!r}\n{REFUSED}")


STANDING = """
build()
async def main():
    capture = await opened()
    await capture.change(everything(), ())
    clients = [Client(name, *target) for name in ("pod", "ext", "node") for target in TARGETS]
    clients.append(Client("node", "127.0.0.1", 30080))
    for state in (everything(REJECT), everything(DROP), ()):
        await capture.change(state, () if state else keys(everything()))
        assert all(client.echoes() for client in clients), state
    # A restarted agent has other listeners; what it no longer knows is told so, and does not hang.
    await capture.change(everything(), ())
    again = await opened()
    sockets = opened.sockets
    await again.change(everything(), ())
    assert all(client.echoes() for client in clients)
    assert ask_tcp("pod", VIP4, 80).startswith("pod ")
trio.run(main)
"""


def test_connections_survive_whatever_becomes_of_their_frontend() -> None:
    """N-03, C-01: a Service that is deleted, or loses its endpoints, must not cut what runs, nor may a restart."""
    in_node(STANDING)


FLIPS = """
import collections
build()
async def main():
    capture = await opened()
    await capture.change(everything(), ())
    seen, over = collections.Counter(), threading.Event()
    def ask(client, host, port):
        while not over.is_set():
            seen[client, ask_tcp(client, host, port).split()[0]] += 1
    async with trio.open_nursery() as nursery:
        for client, target in (("pod", TARGETS[0]), ("ext", TARGETS[3]), ("node", TARGETS[0]), ("pod", TARGETS[1])):
            nursery.start_soon(trio.to_thread.run_sync, ask, client, *target)
        for turn in range(60):
            await capture.change(everything(REJECT if turn % 2 else SERVE), ())
        over.set()
    for client, own in (("pod", "pod"), ("ext", "ext"), ("node", "node")):
        assert seen[client, "refused"] and seen[client, own], seen
    assert {answer for _, answer in seen} == {"pod", "ext", "node", "refused"}, seen
    assert capture.statistics().failures == 0 and capture.problems() == ()
trio.run(main)
"""


def test_a_changing_verdict_never_shows_anything_else() -> None:
    """N-07: a gap of a microsecond between two verdicts would be a connection to the wrong place, or a time-out."""
    in_node(FLIPS)


KEPT = """
build()
async def main():
    capture = await opened()
    await capture.change(everything(), ())
    cases = (
        (POD4, "other", OTHER4), (POD6, "other", OTHER6), (EXT4, "other", OTHER4), (EXT6, "other", OTHER6),
        (POD4, "node", NODE4), (POD6, "node", NODE6), (EXT4, "node", NODE4), (EXT6, "node", NODE6),
        (NODE4, "node", NODE4), (NODE4, "other", OTHER4), (NODE6, "other", OTHER6),
    )
    for number, (client, place, host) in enumerate(cases):
        for protocol in BOTH:
            server = backend(place, host, 8000 + number, protocol)
            answer = dial_as(client, host, 8000 + number, protocol)
            assert answer.split()[:2] == ["backend", client], (client, host, protocol, answer)
            assert dial_as(client, host, 9000, protocol, timeout=1.0) == "refused", (client, host, protocol)
    # UDP to a backend on the node is tracked (its replies could not be known otherwise); nothing else is.
    assert all(" dst=198.18.0.1 " in line or " dst=fd00:18::1 " in line for line in tracked().splitlines()), tracked()
trio.run(main)
"""


def test_replies_come_home_to_upstream_sockets_with_the_clients_address() -> None:
    """M-09: without it a backend would see only the node's address, or its replies would go to the client unasked.

    A backend on the node itself is the hard case, and its refusal must arrive as well, or a retry comes late.
    """
    in_node(KEPT)


SOURCES = """
build()
async def main():
    capture = await opened()
    def balancer(*sources):
        return [
            frontend(host, 80, SERVE, protocol, kind=FrontendKind.LOAD_BALANCER, sources=sources)
            for host in VIPS for protocol in BOTH
        ]
    await capture.change([*balancer("198.19.0.0/17", "198.19.1.0/24", f"{EXT6}/128"), *everything()[4:]], ())
    assert ask_tcp("pod", VIP4, 80).startswith("pod ") and ask_udp("pod", VIP4, 80).startswith("pod ")
    assert ask_tcp("ext", VIP6, 80).startswith("ext ") and ask_udp("ext", VIP6, 80).startswith("ext ")
    for client, host in (("ext", VIP4), ("node", VIP4), ("pod", VIP6), ("node", VIP6)):
        assert ask_tcp(client, host, 80, timeout=0.2) == "timeout"
    assert ask_udp("ext", VIP4, 80, timeout=0.2) == "timeout"
    assert ask_tcp("ext", NODE4, 30080).startswith("ext "), "NodePorts know no ranges (D-11)"
    await capture.change(balancer(f"{EXT4}/32", "::/0"), ())
    assert ask_tcp("ext", VIP4, 80).startswith("ext ") and ask_tcp("pod", VIP6, 80).startswith("pod ")
    assert ask_tcp("pod", VIP4, 80, timeout=0.2) == "timeout"
    await capture.change(balancer(), ())
    assert ask_tcp("node", VIP4, 80).startswith("node ")
    assert capture.statistics().failures == 0
trio.run(main)
"""


def test_source_ranges_drop_everybody_else() -> None:
    """T-17, T-18: a range that does not hold opens a load balancer to the world."""
    in_node(SOURCES)


NODE_PORTS = """
build()
run("ip addr add 198.18.0.7/24 dev ext")
async def main():
    capture = await opened(node_port_addresses=("primary",), localhost_node_ports=False)
    await capture.change(everything(), ())
    assert ask_tcp("ext", NODE4, 30080) == "refused", "the Node is not known yet"
    await capture.update_node(Node(ObjectKey("", "n1"), addresses=(NODE4, NODE6)))
    for client in ("ext", "pod", "node"):
        assert ask_tcp(client, NODE4, 30080).startswith(f"{client} ")
        assert ask_tcp(client, NODE6, 30080).startswith(f"{client} ")
        assert ask_tcp(client, "198.18.0.7", 30080) == "refused"
    assert ask_tcp("node", "127.0.0.1", 30080) == "refused"
    assert ask_tcp("node", "::1", 30080) == "refused"
    every = (NODE4, NODE6, "198.18.0.7", "127.0.0.1", "::1", EXT4)
    assert [host for host in every if capture.serves_node_port(host)] == [NODE4, NODE6], "explain says the same"
    await capture.remove()
    capture = await opened(node_port_addresses=("198.18.1.0/24",))
    await capture.change(everything(), ())
    assert ask_tcp("ext", NODE4, 30080) == "refused"
    assert ask_tcp("ext", NODE6, 30080).startswith("ext "), "a family without CIDR is unrestricted (D-07)"
    assert [host for host in (NODE4, NODE6, EXT6) if capture.serves_node_port(host)] == [NODE6]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(capture.watch)
        run("ip addr add 198.18.1.7/32 dev lo")
        with trio.fail_after(5):
            while not ask_tcp("pod", "198.18.1.7", 30080).startswith("pod "):
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    assert capture.statistics().restored == 0
trio.run(main)
"""


def test_node_ports_answer_at_the_accepted_addresses_only() -> None:
    """D-06 to D-10: a NodePort on an address that was not named is a hole; an address that appears must serve."""
    in_node(NODE_PORTS)


DETECTORS = """
build()
async def main():
    node = Node(ObjectKey("", "n1"), addresses=(NODE4,), pod_cidrs=("198.19.1.0/24", "fd00:19:1::/64"))
    capture = await opened(detect_local=DetectLocal.NODE_CIDR)
    await capture.change(everything(), ())
    assert ask_tcp("pod", VIP4, 80).startswith("ext ") and capture.classify(POD4) is ClientClass.EXT
    await capture.update_node(node)
    assert ask_tcp("pod", VIP4, 80).startswith("pod ") and capture.classify(POD4) is ClientClass.POD
    assert ask_tcp("pod", VIP6, 80).startswith("pod ") and capture.classify(POD6) is ClientClass.POD
    assert ask_tcp("ext", VIP4, 80).startswith("ext ") and capture.classify(EXT4) is ClientClass.EXT
    assert capture.classify(NODE4) is ClientClass.NODE and capture.classify("127.0.0.5") is ClientClass.NODE
    await capture.remove()
    for mode, name in ((DetectLocal.INTERFACE_NAME_PREFIX, "po"), (DetectLocal.BRIDGE_INTERFACE, "pod")):
        capture = await opened(detect_local=mode, local_interface=name)
        await capture.change(everything(), ())
        for client, host in (("pod", POD4), ("ext", EXT4), ("node", NODE4)):
            assert ask_tcp(client, VIP4, 80).startswith(f"{client} ")
            assert ask_udp(client, VIP6, 80).startswith(f"{client} ")
            assert capture.classify(host).name.lower() == client
        await capture.remove()
    capture = await opened(cluster_cidrs=())
    await capture.change(everything(), ())
    assert ask_tcp("pod", VIP4, 80).startswith("ext "), "without a detector nobody is a Pod (M-01)"
trio.run(main)
"""


def test_pods_are_known_in_every_mode_of_detection() -> None:
    """M-01: a Pod taken for a client from outside is sent to local endpoints only, and its address is lost."""
    in_node(DETECTORS)


FIREWALL = """
build()
subprocess.run(["nft", "-f", "-"], check=True, text=True, input='''
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
        meta mark and 0x30 != 0 accept
    }
    chain output {
        type filter hook output priority 0; policy drop
        oif "lo" accept
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
        meta mark and 0x20 == 0x20 accept
    }
}
''')
async def main():
    capture = await opened()
    await capture.change(everything(), ())
    for client in ("pod", "ext", "node"):
        for host, port in TARGETS:
            assert ask_tcp(client, host, port).startswith(f"{client} "), (client, host)
            assert ask_udp(client, host, port).startswith(f"{client} "), (client, host)
    for number, (client, host) in enumerate(((POD4, OTHER4), (EXT6, OTHER6), (NODE4, OTHER4), (NODE6, OTHER6))):
        for protocol in BOTH:
            server = backend("other", host, 8000 + number, protocol)
            answer = dial_as(client, host, 8000 + number, protocol)
            assert answer.split()[:2] == ["backend", client], (client, host, protocol, answer)
    await capture.change((), keys(everything()))
    assert ask_tcp("ext", NODE4, 22, timeout=0.2) == "timeout", "the firewall is there"
trio.run(main)
"""


def test_a_firewall_that_drops_by_default_needs_the_two_rules_of_the_documentation() -> None:
    """docs/capture.md, "Beside other software": captured packets pass input, which many hosts close."""
    in_node(FIREWALL)


CLOSED = """
build()
subprocess.run(["nft", "-f", "-"], check=True, text=True, input=FIREWALL)
async def main():
    capture = await opened(check_interval=0.1)
    await capture.change(everything(), ())
    async def expect(client, problems, served=False):
        for _ in range(3):
            answer = ask_tcp(client, VIP4, 80, timeout=0.1)
            assert answer.startswith(client) == served, answer
        capture._next_host_look = 0.0
        with trio.fail_after(5):
            while len(capture.problems()) != problems:
                await trio.sleep(0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(capture.watch)
        await expect("ext", 1)
        assert "clients from outside are captured, but none reaches" in capture.problems()[0].message
        assert ask_tcp("node", VIP4, 80).startswith("node ")
        await expect("pod", 2)
        await capture.change((), keys(everything()[1:]))
        capture._replace()  # counters begin anew
        for command in OPENING:
            run(command)
        await expect("pod", 1, served=True)
        await expect("ext", 0, served=True)
        nursery.cancel_scope.cancel()
trio.run(main)
"""
CLOSED_BY_NFT = """
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop
        iif "lo" accept
        ct state established,related accept
    }
}
"""
CLOSED_BY_IPTABLES = """
table ip filter {
    chain INPUT {
        type filter hook input priority 0; policy drop
        iif "lo" accept
        ct state established,related accept
    }
}
"""


@pytest.mark.parametrize(
    ("firewall", "opening"),
    [
        (CLOSED_BY_NFT, "nft insert rule inet filter input meta mark and 0x30 != 0 accept"),
        (CLOSED_BY_IPTABLES, "iptables-nft -I INPUT -m mark ! --mark 0/0x30 -j ACCEPT"),
    ],
    ids=["nft", "iptables"],
)
def test_a_host_that_closes_input_is_told_what_to_open(firewall: str, opening: str) -> None:
    """docs/capture.md, "Beside other software": every Service would be dead, and nothing would say why."""
    if shutil.which(opening.split()[0]) is None:
        pytest.skip("needs iptables of the nft kind")
    in_node(f"FIREWALL, OPENING = {firewall!r}, ({opening!r},)\n{CLOSED}")


BRIDGED = """
build()
async def main():
    capture = await opened()
    await capture.change(everything(), ())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(capture.watch)
        assert ask_tcp("pod", VIP4, 80).startswith("pod ")
        add_bridge()  # as the CNI plugin does when the first Pod comes, long after the agent started
        with trio.fail_after(10):
            while not ask_tcp("bridged", VIP4, 80, timeout=0.5).startswith("pod "):
                await trio.sleep(0.02)
        capture._next_host_look = 0.0
        with trio.fail_after(5):
            while not capture.problems():
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    assert ask_tcp("bridged", VIP4, 80) == f"pod {BRIDGED4} {VIP4} 80"
    assert ask_udp("bridged", VIP4, 80, payload=bytes(9000)) == f"pod {BRIDGED4} {VIP4} 80 9000"
    assert ask_udp("bridged", NODE4, 30080) == f"pod {BRIDGED4} {NODE4} 30080 5"
    client = Client("bridged", VIP4, 80)
    await capture.change(everything(REJECT), ())
    assert client.echoes()
    assert ask_tcp("bridged", VIP4, 80) == "refused" and ask_udp("bridged", VIP4, 80) == "refused"
    [problem] = capture.problems()
    assert problem.warning and "Linux bridge cni0" in problem.message, problem
trio.run(main)
"""


def test_pods_on_a_bridge_are_captured_as_well() -> None:
    """With br_netfilter (which Kubernetes asks for) their packets lose the socket that TPROXY found, once."""
    in_node(BRIDGED)


SIBLINGS = """
from spliceway._engine import Engine
from support.rig import record
build()
add_bridge()
server = backend("sibling", SIBLING4, 8080, Protocol.TCP)
async def main():
    capture = TproxyCapture(settings(), 1)
    engine = Engine(workers=1, mark=UPSTREAM_MARK)
    engine.start()
    for listener in await capture.open():
        engine.add_transparent_listener(listener.fd, listener.client_class.name.lower())
    engine.apply([record("p", [(SIBLING4, 8080)])], [], 1, [("tcp", VIP4, 80, (("p", True), None, None))])
    await capture.change(everything(), ())
    for flows in (1, 2):
        assert ask_tcp("bridged", VIP4, 80).split()[:2] == ["backend", "198.19.2.1"]
        assert engine.pool_counters("p").source_not_kept == flows
    engine.close()
trio.run(main)
"""


def test_two_pods_of_one_bridge_reach_each_other_by_tcp() -> None:
    """Their answers to each other's addresses pass the node by: the engine must fall back to the node's own (M-09)."""
    in_node(SIBLINGS)


DAMAGE = """
build()
DAMAGES = (
    "nft delete table inet spliceway", "nft flush ruleset", "nft flush chain inet spliceway arriving",
    "nft flush map inet spliceway frontends4", "nft flush set inet spliceway pods4",
    "nft delete element inet spliceway frontends4 { 198.19.128.10 . tcp . 80 }",
    "ip rule del pref 108", "ip rule del pref 107", "ip route flush table 1070",
)
async def main():
    capture = await opened(check_interval=0.5)
    await capture.change(everything(), ())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(capture.watch)
        for number, command in enumerate(DAMAGES, 1):
            run(command)
            with trio.fail_after(2):
                while capture.statistics().restored < number:
                    await trio.sleep(0.01)
            assert ask_tcp("pod", VIP4, 80).startswith("pod "), command
            assert ask_tcp("node", VIP6, 80).startswith("node "), command
        # Neither what others do in their own tables, nor our own changes, are taken for damage.
        run("nft add table inet other")
        run("nft delete table inet other")
        await capture.change(everything(REJECT), ())
        await capture.change(everything(), ())
        # Notices were lost: everything is compared, and only what differs is written.
        capture._doubtful, capture._next_compare = True, 0.0
        with trio.fail_after(5):
            while capture._doubtful:
                await trio.sleep(0.01)
        assert capture.statistics().restored == len(DAMAGES), capture.statistics()
        assert capture.problems() == ()
        nursery.cancel_scope.cancel()
    # The same with a real difference that no notice told of.
    capture._notices.table.drain()
    for command in ("nft flush map inet spliceway nodeports6", "nft flush chain inet spliceway sessions"):
        run(command)
        capture._notices.table.drain()
        capture._doubtful, capture._next_compare, before = True, 0.0, capture.statistics().restored
        capture._check()
        assert capture.statistics().restored == before + 1, command
    assert ask_tcp("pod", NODE6, 30080).startswith("pod ")
trio.run(main)
"""


def test_what_others_flush_is_restored_within_two_seconds() -> None:
    """W-20: a firewall that reloads flushes everything; without this no Service would work until a restart."""
    in_node(DAMAGE)


NOTICED = """
import logging
build()
lines = []
class Lines(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logging.getLogger("spliceway").addHandler(Lines())
DAMAGES = {
    "ip rule del pref 108": "IPv4 rule 108", "ip rule del pref 107": "IPv4 rule 107",
    "ip -6 rule del pref 109": "IPv6 rule 109", "ip route flush table 1070": "IPv4 route in table 1070",
    "ip -6 route del local default dev lo table 1070": "IPv6 route in table 1070",
    "nft flush ruleset": "table inet spliceway",
}
async def main():
    capture = await opened(check_interval=600.0)  # so that only notices lead to a look
    await capture.change(everything(), ())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(capture.watch)
        for number, (command, what) in enumerate(DAMAGES.items(), 1):
            run(command)
            with trio.fail_after(2):
                while capture.statistics().restored < number:
                    await trio.sleep(0.01)
            assert lines[-1].startswith(f"restored what another program had changed or removed: {what} "), lines
            assert ask_tcp("pod", VIP4, 80).startswith("pod "), command
            assert ask_tcp("node", VIP6, 80).startswith("node "), command
        assert not capture.problems() and len(lines) == len(DAMAGES)
        nursery.cancel_scope.cancel()
    # What a routing daemon does is not even heard.
    notices = capture._notices.routing
    notices.drain()
    for command in ("add {} dev lo proto bird", "del {}", "add {} dev lo proto 107"):
        run("ip route " + command.format("203.0.113.0/24"))
    try:
        raise SystemExit(f"heard {notices.socket.recv(1000)}")
    except BlockingIOError:
        pass
    run("ip route del 203.0.113.0/24")
    assert notices.socket.recv(1000), "one with our number is ours"
trio.run(main)
"""


def test_what_others_remove_is_noticed_and_named() -> None:
    """Clients of a node would wait for a second, and nobody could find out which program takes what away."""
    in_node(NOTICED)


CHANGES = """
import json
build()
SOURCES = ("198.19.0.0/17", "198.18.0.0/24", "198.18.1.7/32", "fd00:19::/32", "fd00:18::7/128")
def elements():
    found = {}
    for item in json.loads(run("nft -j list table inet spliceway"))["nftables"]:
        for kind in ("map", "set"):
            if kind in item:
                found[item[kind]["name"]] = sorted(map(json.dumps, item[kind].get("elem", ())))
    return found
async def main():
    capture = await opened()
    await capture.change((), ())
    path, os.environ["PATH"] = os.environ["PATH"], "/run"  # where there is no nft: it is needed no more
    many = [frontend(f"198.19.{200 + n // 250}.{n % 250}", 80, REJECT, BOTH[n % 2]) for n in range(1600)]
    balancers = [
        frontend(host, 81, SERVE, protocol, kind=FrontendKind.LOAD_BALANCER, sources=SOURCES)
        for host in VIPS for protocol in BOTH
    ]
    await capture.change([*everything(REJECT), *balancers, *many], ())
    await capture.change([*everything(), *balancers[:2]], ())
    await capture.change(
        [frontend(VIP4, 81, REJECT, sources=SOURCES[1:2]), *everything(external=ExternalRoute("x", DROP))[:3]],
        keys([*balancers[1:2], *many[1500:]]),
    )
    assert capture.problems() == () and capture.statistics().failures == 0
    os.environ["PATH"] = path
    by_netlink = elements()
    assert len(by_netlink["frontends4"]) == 1500 + 4 - 1 and len(by_netlink["sources4"]) == 1, by_netlink
    capture._replace()
    assert elements() == by_netlink
    assert capture._wanted.matches(run("nft -j list table inet spliceway").encode())
    # What somebody else removed cannot be deleted: all is written anew, and the next change goes the short way again.
    run("nft delete element inet spliceway frontends4 { 198.19.200.0 . tcp . 80 }")
    await capture.change((), keys(many))
    assert capture.statistics().failures == 1 and capture.problems() == () and len(elements()["frontends4"]) == 3
    capture._check()  # its notice comes late, so this looks like damage
    os.environ["PATH"] = "/run"
    await capture.change(many, ())
    os.environ["PATH"] = path
    assert capture.statistics().failures == 1 and len(elements()["frontends4"]) == 1603
    await capture.remove()
trio.run(main)
"""


def test_changes_by_netlink_give_what_nft_gives() -> None:
    """A Service's change takes one message to the kernel; one wrong byte would lead its clients to another Service."""
    in_node(CHANGES)


FAILURE = """
build()
tools = Path("/run/tools")
tools.mkdir()
broken = tools / "nft"
broken.write_text("#!/bin/sh\\necho 'Error: Could not process rule: Out of memory' >&2; exit 1\\n")
broken.chmod(0o755)
path = os.environ["PATH"]
async def main():
    capture = await opened(check_interval=0.1)
    os.environ["PATH"] = f"{tools}:{path}"
    await capture.change(everything(), ())
    [problem] = capture.problems()
    assert "Out of memory" in problem.message and capture.statistics().failures == 1
    await capture.change(everything(REJECT), ())
    os.environ["PATH"] = path
    async with trio.open_nursery() as nursery:
        nursery.start_soon(capture.watch)
        with trio.fail_after(5):
            while capture.problems():
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert ask_tcp("pod", VIP4, 80) == "refused"
    # One transaction that the kernel refuses: everything is written anew, at once.
    run("nft delete table inet spliceway")
    await capture.change(everything(), ())
    assert capture.problems() == () and ask_tcp("pod", NODE4, 30080).startswith("pod ")
    os.environ["PATH"] = str(tools / "none")
    try:
        await TproxyCapture(settings(), 1).open()
    except OSError as error:
        assert "install the package nftables" in str(error), error
    else:
        raise AssertionError("opened without nft")
trio.run(main)
"""


def test_failed_changes_are_told_and_repeated_until_they_hold() -> None:
    """A transaction that fails once must not leave a Service unreachable for ever."""
    in_node(FAILURE)


REMOVED = """
build()
run("ip rule add pref 50 fwmark 0x8000/0x8000 lookup 999")
run("nft add table inet other")
before = run("ip rule") + run("ip -6 rule") + run("ip route show table all") + run("nft list ruleset")
async def main():
    capture = await opened()
    assert run("ip rule") + run("ip -6 rule") + run("ip route show table all") + run("nft list ruleset") == before
    await capture.change(everything(), ())
    second = await opened()  # an agent that fails at start, as a second one on a node does
    await second.remove()
    assert ask_tcp("pod", VIP4, 80).startswith("pod ")
    with trio.CancelScope() as scope:
        scope.cancel()
        await capture.remove()
    after = run("ip rule") + run("ip -6 rule") + run("ip route show table all") + run("nft list ruleset")
    assert after == before, after
    await capture.watch()
trio.run(main)
"""


def test_removal_leaves_nothing_and_opening_changes_nothing() -> None:
    """A rule left behind would swallow Services' packets after the agent is gone; another's must stay."""
    in_node(REMOVED)


PRIVILEGES = """
async def main():
    try:
        await TproxyCapture(settings(), 1).open()
    except OSError as error:
        print(error)
trio.run(main)
"""


def test_missing_privileges_are_named() -> None:
    output = run_child(PREAMBLE + PRIVILEGES, prefix=("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"))
    assert "CAP_NET_ADMIN" in output
