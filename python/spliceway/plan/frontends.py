"""Which addresses a Service asks for. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from typing import NamedTuple

from spliceway.model import FrontendKind, Service

IPV4 = "IPv4"
IPV6 = "IPv6"

#: the node's address while none is known (T-19)
_LOOPBACK = {IPV4: "127.0.0.1", IPV6: "::1"}
#: a NodePort is on every address that the node accepts
_WILDCARD = {IPV4: "0.0.0.0", IPV6: "::"}


class Scope(NamedTuple):
    """Which addresses are served at all, and where."""

    kinds: Collection[FrontendKind]
    external_ips: bool
    #: the node IPs, at most one of each family
    node_addresses: tuple[str, ...]


class ExternalAddress(NamedTuple):
    """An address for clients from outside."""

    kind: FrontendKind
    host: str
    #: CIDRs that clients must come from; empty: all may come
    sources: tuple[str, ...] = ()


class FamilyAddresses(NamedTuple):
    """What a Service asks for in one family. Without a ClusterIP in it, the Service does not exist there (S-04)."""

    family: str
    cluster_ip: str
    #: external IPs and load balancers
    external: tuple[ExternalAddress, ...]
    #: the host of its NodePorts; empty: they are not served
    wildcard: str


def family_of(ip: str) -> str:
    """``IPv4`` or ``IPv6``, for an address or CIDR in canonical form."""
    return IPV6 if ":" in ip else IPV4


def usable_ips(service: Service) -> tuple[str, ...]:
    """The ClusterIPs, one for each family (S-03, S-04); empty for a headless Service."""
    first: dict[str, str] = {}
    for ip in service.cluster_ips:
        if ip not in ("", "None"):
            first.setdefault(family_of(ip), ip)
    return tuple(first.values())


def addresses_of(service: Service, scope: Scope) -> tuple[FamilyAddresses, ...]:
    """Every address that ``service`` asks for and ``scope`` admits, by family. Nothing for type ExternalName (S-03)."""
    if service.type == "ExternalName":
        return ()
    return tuple([_in_family(service, scope, family_of(ip), ip) for ip in usable_ips(service)])


def warnings_of(service: Service, found: Iterable[FamilyAddresses]) -> list[str]:
    """Load balancers that take everybody although source ranges are given.

    kube-proxy does not filter a family without a range of its own either (S-07), which few expect.
    """
    if not service.source_ranges:
        return []
    ranges = {family_of(each) for each in service.source_ranges}
    return [
        f"spec.loadBalancerSourceRanges has no {family} range, so everybody may reach {each.host}, as with kube-proxy; "
        f"add a range of that family"
        for family, _, external, _ in found
        if family not in ranges
        for each in external
        if each.kind is FrontendKind.LOAD_BALANCER
    ]


def _in_family(service: Service, scope: Scope, family: str, cluster_ip: str) -> FamilyAddresses:
    kinds = scope.kinds
    wildcard = _WILDCARD[family] if FrontendKind.NODE_PORT in kinds else ""
    if not (service.ingress_ips or service.external_ips):
        return FamilyAddresses(family, cluster_ip, (), wildcard)
    external: dict[str, ExternalAddress] = {}
    # An address that is both counts as the load balancer's, whose sources may be restricted.
    for ip in service.ingress_ips:
        if family_of(ip) == family and FrontendKind.LOAD_BALANCER in kinds:
            external[ip] = ExternalAddress(FrontendKind.LOAD_BALANCER, ip, _sources(service, scope, family, ip))
    for ip in service.external_ips:
        if family_of(ip) == family and FrontendKind.EXTERNAL_IP in kinds and scope.external_ips:
            external.setdefault(ip, ExternalAddress(FrontendKind.EXTERNAL_IP, ip))
    return FamilyAddresses(family, cluster_ip, tuple(external.values()), wildcard)


def _sources(service: Service, scope: Scope, family: str, vip: str) -> tuple[str, ...]:
    """The source ranges of the family (S-07). A range of everybody, or none of the family: no filter."""
    ranges = tuple(each for each in service.source_ranges if family_of(each) == family)
    if not ranges or any(each.endswith("/0") for each in ranges):
        return ()
    own = next((ip for ip in scope.node_addresses if family_of(ip) == family), _LOOPBACK[family])
    node = ipaddress.ip_address(own)
    if any(node in ipaddress.ip_network(each) for each in ranges):
        # The node's own packets to a VIP that is bound here come from the VIP (T-19).
        itself = str(ipaddress.ip_network(vip))
        ranges = ranges if itself in ranges else (*ranges, itself)
    return ranges
