"""Transparent capture in network namespaces: changes by netlink, removal, and missing privileges."""

from __future__ import annotations

from support.capturednode import NEEDS_NODE, PREAMBLE, in_node
from support.child import run_child

pytestmark = NEEDS_NODE

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
