"""At which of the node's own addresses NodePorts are served (D-06 to D-09). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from spliceway.capture.tproxy.layout import FAMILIES, FAMILY, TABLE
from spliceway.settings import CaptureSettings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LOOPBACK: Mapping[int, Network] = {4: ipaddress.ip_network("127.0.0.0/8"), 6: ipaddress.ip_network("::1/128")}
_KEYWORDS = {"localhost": ("127.0.0.0/8", "::1/128"), "all": ("0.0.0.0/0", "::/0")}
_PRIMARY = "primary"


class Accepted(NamedTuple):
    """At which of the node's own addresses of one family NodePorts are served (D-06 to D-08)."""

    #: None: all of them, whatever they are when the packet comes
    addresses: tuple[str, ...] | None
    #: on loopback addresses, for the node's own processes only (D-09)
    loopback: bool = False


def follows_interfaces(settings: CaptureSettings) -> bool:
    """Some CIDR restricts the addresses, so `accepted_addresses` depends on what addresses the machine has."""
    return any(entry.strip() != "all" for entry in settings.node_port_addresses)


def accepted_addresses(
    settings: CaptureSettings, node_addresses: Sequence[str] | None, present: Iterable[str]
) -> dict[int, Accepted]:
    """The accepted addresses of each IP version.

    ``node_addresses`` are the Node's own (None: not known yet, then the word primary stands for none), ``present`` all
    addresses of the machine's interfaces. A family without any CIDR is unrestricted (D-07).
    """
    networks = _networks(settings.node_port_addresses, node_addresses)
    waiting = node_addresses is None and _PRIMARY in settings.node_port_addresses
    addresses = [ipaddress.ip_address(each) for each in dict.fromkeys(present)]
    accepted: dict[int, Accepted] = {}
    for version in (4, 6):
        cidrs = [network for network in networks if network.version == version]
        match_all = (not cidrs and not waiting) or any(network.prefixlen == 0 for network in cidrs)
        loopback = settings.localhost_node_ports and (
            match_all or any(network.overlaps(_LOOPBACK[version]) for network in cidrs)
        )
        inside = (
            str(address)
            for address in addresses
            if address.version == version and not address.is_loopback and any(address in network for network in cidrs)
        )
        accepted[version] = Accepted(None if match_all else tuple(sorted(inside)), loopback)
    return accepted


def accepts(accepted: Mapping[int, Accepted], host: str, is_local: Callable[[str], bool]) -> bool:
    """Whether NodePorts are served at ``host``, as `node_address_body` has it."""
    address = ipaddress.ip_address(host)
    addresses, loopback = accepted[address.version]
    if address.is_loopback:
        return loopback
    return is_local(host) if addresses is None else str(address) in addresses


def node_address_body(accepted: Mapping[int, Accepted]) -> str:
    """Rules of chain ``node_address``: on to the NodePorts, for the addresses at which they are served."""
    lines: list[str] = []
    for version, loopback in ((4, "127.0.0.0/8"), (6, "::1")):
        word, (addresses, with_loopback) = FAMILIES[version][0], accepted[version]
        lines.append(f"{word} daddr {loopback} {'goto nodeports' if with_loopback else 'return'}")
        if addresses is None:
            lines.append(f"meta nfproto ipv{version} goto nodeports")
        elif addresses:
            lines.append(f"{word} daddr {{ {', '.join(addresses)} }} goto nodeports")
    return "\n".join(lines)


def node_address_text(accepted: Mapping[int, Accepted]) -> str:
    """Commands that write chain ``node_address`` anew."""
    lines = node_address_body(accepted).splitlines()
    chain = f"{FAMILY} {TABLE} node_address"
    return f"flush chain {chain}\n" + "".join(f"add rule {chain} {line}\n" for line in lines)


def _networks(entries: Iterable[str], node_addresses: Sequence[str] | None) -> list[Network]:
    networks: list[Network] = []
    for entry in entries:
        word = entry.strip()
        if word == _PRIMARY:
            own = [ipaddress.ip_address(address) for address in node_addresses or ()]
            networks += [ipaddress.ip_network(address) for address in own if not address.is_loopback]
        else:
            networks += [ipaddress.ip_network(cidr, strict=False) for cidr in _KEYWORDS.get(word, (word,))]
    return networks
