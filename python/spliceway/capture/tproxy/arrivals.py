"""Notices when a firewall of the host drops what is led to our listeners. Reading is blocking, judging is pure.

Captured packets pass the hook *input*, which many hosts close. Whatever closes it (nftables, iptables, firewalld, ufw,
a reverse-path filter), new TCP connections are counted when they are led to a listener and again at the very end of
input, for Pods and for clients from outside. (The node's own come through lo, which nobody closes.)
"""

from __future__ import annotations

from collections.abc import Mapping

from spliceway.capture.tproxy import netlink
from spliceway.capture.tproxy.layout import INET, NEW_TCP, TABLE, Detector, Marks, chain
from spliceway.model import ClientClass, Problem

_GET_OBJECTS = (10 << 8) | 19
_OBJECT_TABLE, _OBJECT_NAME, _OBJECT_DATA, _PACKETS = 1, 2, 4, 2
#: struct nfgenmsg
_FAMILY_HEADER = 4
_WORDS = {ClientClass.POD: "pod", ClientClass.EXT: "ext"}
_CLIENTS = {ClientClass.POD: "Pods", ClientClass.EXT: "clients from outside"}
#: new connections of which none arrives
_ENOUGH = 3


def led_counter(client: ClientClass) -> str:
    """The name of the counter of what was led to a listener; empty for a class that is not counted."""
    return f"led_{_WORDS[client]}" if client in _WORDS else ""


def _landed_counter(client: ClientClass) -> str:
    return f"landed_{_WORDS[client]}"


def arrival_text(marks: Marks, detector: Detector) -> str:
    """The counters, and the chain at the end of input, after all that might drop."""
    names = [counter(client) for client in _CLIENTS for counter in (led_counter, _landed_counter)]
    counters = "".join(f"\tcounter {name} {{ packets 0 bytes 0 }}\n" for name in names)
    lines = [
        "type filter hook input priority 2147483646; policy accept;",
        f"meta mark & {marks.both:#010x} != {marks.capture:#010x} return",
        'iif "lo" return',
        *(f"{NEW_TCP} {each} counter name {_landed_counter(ClientClass.POD)} return" for each in detector.conditions()),
        f"{NEW_TCP} counter name {_landed_counter(ClientClass.EXT)}",
    ]
    return counters + chain("landed", "\n".join(lines))


def read_counters() -> dict[str, int]:
    """Packets of each counter of our table. Raises `OSError` when the kernel does not tell."""
    body = INET + netlink.attribute(_OBJECT_TABLE, TABLE.encode() + b"\0")
    found: dict[str, int] = {}
    for answer in netlink.request(netlink.NETLINK_NETFILTER, _GET_OBJECTS, body, netlink.NLM_F_DUMP):
        values = netlink.attributes(answer.body, _FAMILY_HEADER)
        data = netlink.attributes(values.get(_OBJECT_DATA, b""), 0)
        found[values[_OBJECT_NAME].rstrip(b"\0").decode()] = int.from_bytes(data.get(_PACKETS, b""), "big")
    return found


class Arrivals:
    """Judges the counters from time to time."""

    def __init__(self, mark_bits: int) -> None:
        self._mark_bits = mark_bits
        self._before: Mapping[str, int] = {}
        self._lost: set[ClientClass] = set()

    def problems(self, counters: Mapping[str, int]) -> tuple[Problem, ...]:
        """A warning for each class of clients of whom none arrived since the last call; it holds until one does."""
        for client in _CLIENTS:
            if self._since(counters, _landed_counter(client)):
                self._lost.discard(client)
            elif self._since(counters, led_counter(client)) >= _ENOUGH:
                self._lost.add(client)
        self._before = counters
        return tuple(
            Problem(
                "Capture",
                f"new connections of {who} are captured, but none reaches the agent's sockets: a firewall's chain "
                "input drops them, or a reverse-path filter does; let packets pass input whose mark has a bit of "
                f"{self._mark_bits:#x} (docs/capture.md has the commands)",
                warning=True,
            )
            for client, who in _CLIENTS.items()
            if client in self._lost
        )

    def _since(self, counters: Mapping[str, int], name: str) -> int:
        """How many more there are than before. When the table was written anew, all counters began at 0."""
        now, before = counters.get(name, 0), self._before.get(name, 0)
        return now - before if now >= before else now
