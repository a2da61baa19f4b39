"""Transparent capture in network namespaces: Pods on a Linux bridge."""

from __future__ import annotations

import pytest

from support.capturednode import NEEDS_NODE, in_node

pytestmark = NEEDS_NODE

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


@pytest.mark.parametrize("untracked", [False, True])
def test_pods_on_a_bridge_are_captured_as_well(untracked: bool) -> None:
    """With br_netfilter (which Kubernetes asks for) their packets lose the socket that TPROXY found, once."""
    in_node(BRIDGED, untracked=untracked)


UNFILTERED = """
from spliceway.capture.tproxy import hostchecks
build()
add_bridge()
for key in Path("/proc/sys/net/bridge").glob("bridge-nf-call-ip*tables"):
    key.write_text("0")
hostchecks._BRIDGE_FILTERING = Path("/nowhere")  # as without the module
async def main():
    capture = await opened()
    await capture.change(everything(), ())
    assert "chain bridged" not in run("nft list table inet spliceway")
    assert ask_tcp("bridged", VIP4, 80) == f"pod {BRIDGED4} {VIP4} 80"
    assert ask_udp("bridged", VIP4, 80, payload=bytes(9000)) == f"pod {BRIDGED4} {VIP4} 80 9000"
    assert ask_udp("bridged", NODE4, 30080) == f"pod {BRIDGED4} {NODE4} 30080 5"
trio.run(main)
"""


@pytest.mark.parametrize("untracked", [False, True])
def test_pods_on_a_bridge_that_is_not_filtered_need_no_hook_of_their_own(untracked: bool) -> None:
    """Without br_netfilter they come through prerouting once, after the bridge, as everybody does."""
    in_node(UNFILTERED, untracked=untracked)


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
