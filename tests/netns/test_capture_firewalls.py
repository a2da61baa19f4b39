"""Transparent capture in network namespaces: beside a host's firewall."""

from __future__ import annotations

import shutil

import pytest

from support.capturednode import NEEDS_NODE, in_node

pytestmark = NEEDS_NODE

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
        meta mark and 0x30 != 0 accept
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


@pytest.mark.parametrize("untracked", [False, True])
def test_a_firewall_that_drops_by_default_needs_the_two_rules_of_the_documentation(untracked: bool) -> None:
    """docs/capture.md, "Beside other software": captured packets pass input, which many hosts close."""
    in_node(FIREWALL, untracked=untracked)


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
