"""Looks for set-ups of the machine that capture cannot serve fully."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import Path

from spliceway.capture.tproxy.layout import Detector
from spliceway.model import Problem

_BRIDGE_FILTERING = Path("/proc/sys/net/bridge")


def filters_bridges(bridges: Sequence[str]) -> bool:
    """Packets meet the rules of the IP layer inside bridges already (module br_netfilter)."""
    return bool(bridges) and _BRIDGE_FILTERING.exists()


def bridge_problems(
    bridges: Sequence[str], addresses: Iterable[tuple[str, str]], cidrs: Sequence[str], detector: Detector
) -> tuple[Problem, ...]:
    """A warning for each Linux bridge that Pods hang on.

    Two Pods of one bridge talk past the node's IP layer, so a backend's reply to the address of a client on its own
    bridge never comes to the upstream socket that has this address. The engine notices it of TCP and dials again from
    the node's address; UDP has no handshake by which to notice. ``addresses`` are (interface, address).
    """
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
    names = {
        name for name, address in addresses if any(ipaddress.ip_address(address) in network for network in networks)
    }
    if detector.interface and not detector.prefix:
        names.add(detector.interface)
    return tuple(
        Problem(
            "Capture",
            f"Pods hang on the Linux bridge {name}, where a Pod's reply to another Pod of this node passes by the "
            "node: where the client's address is kept, backends on the client's own bridge see this node's address "
            "instead (TCP), or their answers are lost (UDP); use --masquerade-all, or a CNI plugin that routes (such "
            "as ptp)",
            warning=True,
        )
        for name in bridges
        if name in names
    )
