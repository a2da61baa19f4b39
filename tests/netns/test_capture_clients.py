"""Transparent capture in network namespaces: which clients are led to which listener."""

from __future__ import annotations

import pytest

from support.capturednode import NEEDS_NODE, in_node

pytestmark = NEEDS_NODE

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


@pytest.mark.parametrize("untracked", [False, True])
@pytest.mark.parametrize(("rp_filter", "src_valid_mark", "early_demux"), [(1, 0, 1), (2, 0, 1), (1, 1, 1), (0, 1, 0)])
def test_every_client_reaches_the_listener_of_its_class(
    rp_filter: int, src_valid_mark: int, early_demux: int, untracked: bool
) -> None:
    """Section 2.7: a wrong class means wrong backends or a lost source address. On hosts of any common set-up."""
    code = SERVED.format(rp_filter=rp_filter, src_valid_mark=src_valid_mark, early_demux=early_demux)
    in_node(code, untracked=untracked)


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
