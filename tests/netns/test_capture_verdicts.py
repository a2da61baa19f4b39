"""Transparent capture in network namespaces: refused, dropped or served, and what survives a change of it."""

from __future__ import annotations

import pytest

from support.capturednode import INVALID_DROPPED, NEEDS_NODE, in_node

pytestmark = NEEDS_NODE

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
            before = repeated_syns(client)
            for _ in range(10):  # more than the kernel's limit on ICMP errors lets pass
                assert ask_tcp(client, host, port) == "refused"
            assert ask_udp(client, host, port) == ("not permitted" if client == "node" else "refused")
            assert repeated_syns(client) == before, "refused, but not at once"
    await capture.change(everything(DROP), ())
    before = repeated_syns("pod")
    assert ask_tcp("pod", VIP4, 80, timeout=1.5) == "timeout"
    assert repeated_syns("pod") > before, "the count above would prove nothing"
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


@pytest.mark.parametrize("untracked", [False, True])
@pytest.mark.parametrize(("firewall", "fwmark_reflect"), [("", "0"), (INVALID_DROPPED, "1")])
def test_reject_is_an_error_at_once_and_drop_is_silence(firewall: str, fwmark_reflect: str, untracked: bool) -> None:
    """T-15, N-01, N-02: a client must fail at once without endpoints, and only local policies may cost it a wait.

    Beside a firewall as well, and where the kernel gives its answers the mark of what they answer.
    """
    in_node(f"FIREWALL, FWMARK_REFLECT = {firewall!r}, {fwmark_reflect!r}\n{REFUSED}", untracked=untracked)


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


@pytest.mark.parametrize("untracked", [False, True])
def test_connections_survive_whatever_becomes_of_their_frontend(untracked: bool) -> None:
    """N-03, C-01: a Service that is deleted, or loses its endpoints, must not cut what runs, nor may a restart."""
    in_node(STANDING, untracked=untracked)


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


@pytest.mark.parametrize("untracked", [False, True])
def test_replies_come_home_to_upstream_sockets_with_the_clients_address(untracked: bool) -> None:
    """M-09: without it a backend would see only the node's address, or its replies would go to the client unasked.

    A backend on the node itself is the hard case, and its refusal must arrive as well, or a retry comes late.
    """
    in_node(KEPT, untracked=untracked)
