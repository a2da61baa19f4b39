"""The vocabulary of the nftables table: its name, marks, listeners and detector, and how rules are written. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from spliceway.model import ClientClass, Protocol

TABLE = "spliceway"
FAMILY = "inet"

#: takes the table away, whether it is there or not
REMOVAL = f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n"

#: suffixes of maps and sets by IP version, with the nftables words for it
FAMILIES: Mapping[int, tuple[str, str]] = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}

#: struct nfgenmsg of netlink for this family
INET = bytes([1, 0, 0, 0])

NEW_TCP = "tcp flags & (fin | syn | rst | ack) == syn"
RUNNING_TCP = "tcp flags & (fin | syn | rst | ack) != syn"


class Marks(NamedTuple):
    """The two bits of the packet mark that are ours. Other bits are never touched.

    ``capture`` alone is a packet from outside that is to be led to one of our sockets (and, when clients are not
    tracked, what such a socket sends), ``upstream`` alone one that the engine sends (never to be captured), and both a
    packet of the node's own processes that is to be captured. That one differs so that reverse-path checks, which look
    up routes as if the node sent the packet, can be kept out of our routing table (`spliceway.capture.tproxy.routing`).

    What is left over is for packets that are to be refused, on their short way from the hooks at priority raw to those
    behind conntrack: `refused_arriving` in prerouting, `refused_leaving` in output.
    """

    capture: int
    upstream: int

    @classmethod
    def of_bit(cls, bit: int) -> Marks:
        """The marks of ``CaptureSettings.mark_bit``."""
        return cls(1 << bit, 1 << (bit + 1))

    @property
    def both(self) -> int:
        """Both bits."""
        return self.capture | self.upstream

    @property
    def refused_arriving(self) -> int:
        """A packet in prerouting that is to be refused."""
        return self.both

    @property
    def refused_leaving(self) -> int:
        """A packet in output that is to be refused."""
        return self.capture

    def equal(self, mark: int) -> str:
        """The condition that the packet has exactly this mark."""
        return f"meta mark & {self.both:#010x} == {mark:#010x}"

    def clear(self) -> str:
        """Take our bits away."""
        return f"meta mark set meta mark & {~self.both & 0xFFFFFFFF:#010x}"


class PortKey(NamedTuple):
    """Which listener: class of client, protocol, IP version."""

    client_class: ClientClass
    protocol: Protocol
    version: int


class Detector(NamedTuple):
    """How packets of Pods are known: by the sets of CIDRs, or (when not empty) by an interface name or prefix."""

    interface: str = ""
    prefix: bool = False

    def conditions(self) -> tuple[str, ...]:
        """What holds for a Pod's packet; any one of them is enough."""
        if self.interface:
            return (f'iifname "{self.interface}{"*" if self.prefix else ""}"',)
        return ("ip saddr @pods4", "ip6 saddr @pods6")


def set_mark(mark: int) -> str:
    """Give the packet these bits."""
    return f"meta mark set meta mark | {mark:#010x}"


def chain(name: str, body: str) -> str:
    """One chain of the table's text, a rule in each line of ``body``."""
    return f"\tchain {name} {{\n" + "".join(f"\t\t{line}\n" for line in body.splitlines()) + "\t}\n"
