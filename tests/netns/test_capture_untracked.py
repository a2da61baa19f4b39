"""Clients kept out of connection tracking (``--untracked-clients``): who is, beside which firewalls, and restarts."""

from __future__ import annotations

import pytest

from support.capturednode import INVALID_DROPPED, NEEDS_NODE, in_node

pytestmark = NEEDS_NODE

TRACKED_TCP = """
import re
def tracked_tcp():
    "(source, destination, destination port) of the first direction of each entry"
    lines = (run("conntrack -L -p tcp") + run("conntrack -L -p tcp -f ipv6")).splitlines()
    return {re.search(r" src=(\\S+) dst=(\\S+) sport=\\d+ dport=(\\d+)", line).groups() for line in lines}
ADDRESSES = {"pod": (POD4, POD6), "ext": (EXT4, EXT6), "node": (NODE4, NODE6)}
def legs(*names):
    return {(ADDRESSES[name][":" in host], host, str(port)) for name in names for host, port in TARGETS}
"""

ENTRIES = f"""{TRACKED_TCP}
build()
async def main():
    capture = await opened()
    await capture.change(everything(), ())
    clients = [Client(name, *target) for name in ADDRESSES for target in TARGETS]
    assert all(client.echoes() for client in clients)
    expected = legs("node") if UNTRACKED else legs("node", "pod", "ext")
    assert tracked_tcp() == expected, tracked_tcp() ^ expected
    servers = [backend("other", host, 8000, Protocol.TCP) for host in (OTHER4, OTHER6)]
    upstream = {{(POD4, OTHER4, "8000"), (EXT6, OTHER6, "8000")}}
    assert all(dial_as(host, to, 8000, Protocol.TCP).startswith("backend") for host, to, _ in upstream)
    for client in clients:
        client.close()
    await capture.change((), keys(everything()[:4]))
    assert tracked_tcp() == expected | upstream, tracked_tcp() ^ (expected | upstream)
trio.run(main)
"""


@pytest.mark.parametrize("untracked", [False, True])
def test_clients_leave_no_entry_and_all_else_is_tracked(untracked: bool) -> None:
    """A full table drops the packets of everybody, and firewalls know a backend's answers by its entries."""
    in_node(ENTRIES, untracked=untracked)


RESTARTED = """
build()
subprocess.run(["nft", "-f", "-"], check=True, text=True, input=FIREWALL)
async def main():
    capture = await opened()
    await capture.change(everything(), ())
    clients, kept = [], [capture]
    for flag in (not UNTRACKED, UNTRACKED):
        clients += [Client(name, *target) for name in ("pod", "ext", "node") for target in TARGETS]
        assert all(client.echoes() for client in clients)
        kept.append((await opened(untracked_clients=flag), opened.sockets))
        await kept[-1][0].change(everything(), ())
        assert all(client.echoes() for client in clients), flag
        for name in ("pod", "ext", "node"):
            for target in TARGETS:
                assert ask_tcp(name, *target).startswith(f"{name} "), (flag, name, target)
trio.run(main)
"""


@pytest.mark.parametrize("untracked", [False, True])
def test_connections_go_on_when_an_agent_with_the_other_setting_takes_over(untracked: bool) -> None:
    """Tracked connections that suddenly are not, or the other way round, would be cut by a firewall like this one."""
    in_node(f"FIREWALL = {INVALID_DROPPED!r}\n{RESTARTED}", untracked=untracked)


CLOSED_FIRST = """
from spliceway.capture.tproxy.arrivals import read_counters
build()
subprocess.run(["nft", "-f", "-"], check=True, text=True, input=FIREWALL)
def waiting(name):
    "connections of the place whose last FIN was not answered"
    with inside(name):
        return run("ss -tnH state last-ack") + run("ss -tnH state closing") + run("ss -tnH state fin-wait-1")
async def main():
    capture = TproxyCapture(settings(), 1)
    listeners = {
        (each.client_class, each.family): socket.socket(fileno=each.fd)
        for each in await capture.open() if each.protocol is Protocol.TCP
    }
    await capture.change(everything(), ())
    for name, kind in (("pod", ClientClass.POD), ("ext", ClientClass.EXT)):
        for host, port in TARGETS:
            listener = listeners[kind, "ipv6" if ":" in host else "ipv4"]
            listener.settimeout(2.0)
            client = make_socket(name, host, socket.SOCK_STREAM)
            client.connect((host, port))
            accepted, _ = listener.accept()
            accepted.close()
            assert client.recv(1) == b"", "the server ends first, so its socket is in FIN_WAIT or TIME_WAIT"
            client.close()
        eventually(lambda name=name: not waiting(name), "the client's FIN is answered", 2.0)
    counters = read_counters()
    for name in ("pod", "ext"):
        assert counters[f"led_{name}"] == counters[f"landed_{name}"] == len(TARGETS), counters
trio.run(main)
"""


@pytest.mark.parametrize("untracked", [False, True])
def test_what_the_server_closes_first_ends_at_the_client_as_well(untracked: bool) -> None:
    """A FIN that a firewall takes for invalid is sent for minutes, and clients' sockets pile up."""
    in_node(f"FIREWALL = {INVALID_DROPPED!r}\n{CLOSED_FIRST}", untracked=untracked)


#: as many hosts are set up: what stands, and new connections to the ports that are served
BY_PORT = """
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop
        iif "lo" accept
        ct state invalid drop
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
        STATE tcp dport { 80, 30080 } accept
    }
}
"""

BY_PORTS = """
build()
subprocess.run(["nft", "-f", "-"], check=True, text=True, input=FIREWALL)
async def main():
    capture = await opened()
    await capture.change(everything()[0::2], ())
    for name in ("pod", "ext"):
        for target in TARGETS:
            if SERVED:
                assert Client(name, *target).echoes(), (name, target)
            else:
                assert ask_tcp(name, *target, timeout=0.1) == "timeout", (name, target)
    assert ask_tcp("node", *TARGETS[0]).startswith("node ")
    await trio.to_thread.run_sync(capture._check)
    assert len(capture.problems()) == (0 if SERVED else 2), capture.problems()
trio.run(main)
"""


@pytest.mark.parametrize(
    ("state", "untracked", "served"),
    [
        ("", True, True),
        ("ct state new", False, True),
        ("ct state { new, untracked }", True, True),
        ("ct state new", True, False),
    ],
)
def test_firewalls_that_open_ports(state: str, untracked: bool, served: bool) -> None:
    """docs/capture.md, "Clients that are not tracked": where only new connections may enter, no client could."""
    firewall = BY_PORT.replace("STATE", state)
    in_node(f"FIREWALL, SERVED = {firewall!r}, {served}\n{BY_PORTS}", untracked=untracked)
