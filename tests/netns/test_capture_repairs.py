"""Transparent capture in network namespaces: what others damage, and what fails, is made good."""

from __future__ import annotations

from support.capturednode import NEEDS_NODE, in_node

pytestmark = NEEDS_NODE

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
