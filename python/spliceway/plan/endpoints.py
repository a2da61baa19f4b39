"""Brings the endpoints of all slices of a Service together, by service port and family. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from spliceway.model import EndpointSlice, ObjectKey, Protocol, SliceEndpoint

#: host and port of an endpoint
Location = tuple[str, int]
#: address type, port name and protocol: ports match by name and protocol, never by number (E-03)
PortKey = tuple[str, str, Protocol]


class PortEndpoints(NamedTuple):
    """The endpoints of one service port in one family."""

    members: dict[Location, SliceEndpoint]
    #: of those that have another weight than 1
    weights: dict[Location, int]


#: what a service port has that no slice tells of
NO_ENDPOINTS = PortEndpoints({}, {})


def merge_endpoints(slices: Sequence[EndpointSlice], weights: Mapping[ObjectKey, int]) -> dict[PortKey, PortEndpoints]:
    """The union of all slices (E-03, E-09, E-13); ``weights`` are those of slices that have one.

    Of two entries with one address the more usable one counts: ready, then serving while it terminates, then any other;
    of two that are alike, the one of the newest slice, with its node, hints and weight (E-09).
    """
    merged: dict[PortKey, PortEndpoints] = {}
    for piece in _oldest_first(slices):
        weight = weights.get(piece.key, 1)
        for port in piece.ports:
            number = port.port
            key = (piece.address_type, port.name, port.protocol)
            held = merged.get(key)
            if held is None:
                held = merged[key] = PortEndpoints({}, {})
            members = held.members
            for each in piece.endpoints:
                location = (each.address, number)
                known = members.setdefault(location, each)
                if known is not each:
                    if _rank(each) < _rank(known):
                        continue
                    members[location] = each
                if weight != 1:
                    held.weights[location] = weight
                elif held.weights:
                    held.weights.pop(location, None)
    return merged


def is_fallback(endpoint: SliceEndpoint) -> bool:
    """Not ready, but it still serves while it terminates: used when no endpoint is ready (T-01.3, T-04)."""
    return not endpoint.ready and endpoint.serving and endpoint.terminating


def _rank(endpoint: SliceEndpoint) -> int:
    return 2 if endpoint.ready else int(is_fallback(endpoint))


def _oldest_first(slices: Sequence[EndpointSlice]) -> Sequence[EndpointSlice]:
    """Resource versions are whole numbers, so the longer one is the later one; files have none."""
    if len(slices) < 2:
        return slices
    return sorted(slices, key=lambda piece: (len(piece.resource_version), piece.resource_version))
