"""A Node of the wire becomes a Node of the model (T-10, H-09, W-22 to W-24). Pure."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from spliceway.model import Node, ObjectKey
from spliceway.source import wire
from spliceway.source.address import canonical_address, canonical_network, dialable, family
from spliceway.source.salvage import (
    Fault,
    convert_parts,
    convert_whole,
    lift,
    mapping_of,
    optional_mapping_of,
)

#: key of the taint that the cluster autoscaler puts on a node that it is about to remove
_TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"
#: the types of address that count, the better first
_ADDRESS_TYPES = ("InternalIP", "ExternalIP")


class Parts(NamedTuple):
    """The parts of a Node of which each may be bad on its own, with their indices."""

    addresses: list[tuple[int, wire.NodeAddress]]
    pod_cidrs: list[tuple[int, str]]
    taints: list[tuple[int, wire.Taint]]


def parts_of(found: wire.Node) -> Parts:
    """The parts of a Node that decoded as a whole."""
    spec, status = found.spec, found.status
    return Parts(
        list(enumerate((status.addresses if status else None) or ())),
        list(enumerate((spec.pod_cidrs if spec else None) or ())),
        list(enumerate((spec.taints if spec else None) or ())),
    )


def salvage(value: dict[Any, Any], faults: list[Fault]) -> tuple[wire.Node, Parts]:
    """Convert a Node that does not decode as a whole: itself, and what is good of its parts.

    Raises `spliceway.source.salvage.UnusableError` when its metadata is bad.
    """
    metadata, _ = lift(mapping_of(value, "metadata"), "annotations")
    spec, cidrs = lift(optional_mapping_of(value, ("spec",), faults), "podCIDRs")
    spec, taints = lift(spec, "taints")
    status = optional_mapping_of(value, ("status",), faults)
    found = wire.Node(
        convert_whole(metadata, wire.Metadata, ("metadata",), faults),
        spec=convert_whole(spec, wire.NodeSpec, ("spec",), faults, ("podCIDR",)),
    )
    return found, Parts(
        convert_parts(status.get("addresses"), wire.NodeAddress, ("status", "addresses"), faults),
        convert_parts(cidrs, str, ("spec", "podCIDRs"), faults),
        convert_parts(taints, wire.Taint, ("spec", "taints"), faults),
    )


def make(key: ObjectKey, found: wire.Node, parts: Parts, faults: list[Fault]) -> Node:
    """Return the Node; add faults for what of it cannot be used."""
    meta = found.metadata
    doomed = meta.deletion_timestamp is not None or any(taint.key == _TO_BE_DELETED for _, taint in parts.taints)
    return Node(
        key=key,
        zone=sys.intern((meta.labels.zone if meta.labels else None) or ""),
        addresses=_addresses(parts.addresses, faults),
        pod_cidrs=_pod_cidrs(found.spec, parts.pod_cidrs, faults),
        eligible=not doomed,
        resource_version=meta.resource_version or "",
    )


def _addresses(given: list[tuple[int, wire.NodeAddress]], faults: list[Fault]) -> tuple[str, ...]:
    """The first address by type, then by place, and the first of the other family (W-23)."""
    found: list[tuple[str, str]] = []
    for index, entry in given:
        if entry.type not in _ADDRESS_TYPES:
            continue
        try:
            address = canonical_address(entry.address)
        except ValueError:
            address = ""
        if address and dialable(address):
            found.append((entry.type, address))
        else:
            message = f"{entry.address[:64]!r} is not the address of a node; it is left out"
            faults.append(Fault(("status", "addresses", index, "address"), message))
    found.sort(key=lambda one: _ADDRESS_TYPES.index(one[0]))
    chosen: dict[str, str] = {}
    for _, address in found:
        chosen.setdefault(family(address), address)
    return tuple(chosen.values())


def _pod_cidrs(spec: wire.NodeSpec | None, given: list[tuple[int, str]], faults: list[Fault]) -> tuple[str, ...]:
    """``podCIDRs``, or ``podCIDR`` of an old object, canonical."""
    texts: list[tuple[tuple[str | int, ...], str]] = [(("spec", "podCIDRs", index), text) for index, text in given]
    if not texts and spec and spec.pod_cidr:
        texts = [(("spec", "podCIDR"), spec.pod_cidr)]
    networks: dict[str, None] = {}
    for path, text in texts:
        try:
            networks[canonical_network(text)] = None
        except ValueError:
            faults.append(Fault(path, f"{text[:64]!r} is not a CIDR; it is left out"))
    return tuple(networks)
