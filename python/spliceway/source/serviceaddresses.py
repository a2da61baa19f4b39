"""The addresses of a Service, and those that its clients must have: canonical, and the bad ones named. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from spliceway.source import wire
from spliceway.source.address import canonical_address, canonical_network, dialable, is_plain_ipv4
from spliceway.source.salvage import Fault
from spliceway.source.salvage import Path as FieldPath

_RANGES = "loadBalancerSourceRanges"
_NO_RANGE = "has no usable entry; clients from everywhere may come, as with kube-proxy, and the list is not used"
#: an ingress address of any other mode is the load balancer's own business (S-06)
_VIP = "VIP"
_PROXY = "Proxy"


def cluster_ips(spec: wire.ServiceSpec, faults: list[Fault]) -> tuple[str, ...]:
    """``clusterIPs``, or ``clusterIP`` of an old object (S-04)."""
    if spec.cluster_ips:
        return _addresses(((("spec", "clusterIPs", i), ip) for i, ip in enumerate(spec.cluster_ips)), faults)
    return _addresses([(("spec", "clusterIP"), spec.cluster_ip)], faults) if spec.cluster_ip else ()


def external_ips(given: list[tuple[int, str]], faults: list[Fault]) -> tuple[str, ...]:
    """``spec.externalIPs`` (S-05)."""
    return _addresses(((("spec", "externalIPs", i), ip) for i, ip in given), faults) if given else ()


def ingress_ips(given: list[tuple[int, wire.Ingress]], faults: list[Fault]) -> tuple[str, ...]:
    """``status.loadBalancer.ingress[].ip`` where packets arrive with that destination: ipMode unset or VIP (S-06)."""
    if not given:
        return ()
    found: list[tuple[FieldPath, str]] = []
    for index, ingress in given:
        path: FieldPath = ("status", "loadBalancer", "ingress", index)
        mode = ingress.ip_mode or _VIP
        if mode == _VIP and ingress.ip:
            found.append(((*path, "ip"), ingress.ip))
        elif mode not in (_VIP, _PROXY):
            faults.append(Fault((*path, "ipMode"), f"{mode[:64]!r} is none of VIP, Proxy; this address is left out"))
    return _addresses(found, faults)


def source_ranges(given: list[tuple[int, str]], faults: list[Fault]) -> tuple[str, ...]:
    """``spec.loadBalancerSourceRanges`` (S-07)."""
    if not given:
        return ()
    ranges: dict[str, None] = {}
    for index, text in given:
        try:
            ranges[canonical_network(text.strip())] = None
        except ValueError:
            faults.append(Fault(("spec", _RANGES, index), f"{text[:64]!r} is not a CIDR; it is left out"))
    if not ranges:
        faults.append(Fault(("spec", _RANGES), _NO_RANGE))
    return _shared(tuple(ranges))


def _addresses(given: Iterable[tuple[FieldPath, str]], faults: list[Fault]) -> tuple[str, ...]:
    """The addresses that clients can dial, each once; empty texts are none."""
    addresses: list[str] = []
    for path, text in given:
        if not text:
            continue
        if is_plain_ipv4(text):
            if text not in addresses:
                addresses.append(text)
            continue
        try:
            address = canonical_address(text)
        except ValueError:
            faults.append(Fault(path, f"{text[:64]!r} is not an IP address; it is left out"))
            continue
        if not dialable(address):
            faults.append(Fault(path, f"{address} is not an address that clients can dial; it is left out"))
        elif address not in addresses:
            addresses.append(address)
    return tuple(addresses)


@lru_cache(maxsize=1024)
def _shared(ranges: tuple[str, ...]) -> tuple[str, ...]:
    """Equal tuples become one: the ranges of an office, on hundreds of Services."""
    return ranges
