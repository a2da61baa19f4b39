"""IP addresses in the canonical text form, parsed as sloppily as Kubernetes does (S-12). Pure."""

from __future__ import annotations

import ipaddress
import re

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
#: a canonical IPv4 address: the common case, decided without building an object for each of 100,000 endpoints
_CANONICAL_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII)
#: says of a text whether it is a canonical IPv4 address that is `dialable`: what nearly every endpoint has, in one step
is_plain_ipv4 = re.compile(rf"(?:22[0-3]|2[01]\d|1\d\d|[1-9]\d?)(?:\.{_OCTET}){{3}}", re.ASCII).fullmatch
_DOTTED_QUAD = re.compile(r"\d+(?:\.\d+){3}\Z", re.ASCII)
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)", re.ASCII)
#: the length of the network of all IPv4-mapped addresses
_MAPPED = 96
#: longer texts are no address; Python refuses to parse endless digits slowly
_LONGEST = 256


def canonical_address(text: str) -> str:
    """Return the canonical form of an IPv4 or IPv6 address; ``172.30.0.041`` is 172.30.0.41 (S-12).

    An IPv4-mapped IPv6 address is the IPv4 address, as Kubernetes sees it. Raises `ValueError` when ``text`` is none,
    or has a zone (``fe80::1%eth0``), which the Kubernetes API does not know either.
    """
    if _CANONICAL_IPV4.fullmatch(text):
        return text
    if len(text) > _LONGEST:
        raise ValueError("too long for an IP address")
    quad = _DOTTED_QUAD.search(text)
    if quad:
        text = text[: quad.start()] + _LEADING_ZEROS.sub("", quad.group())
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ValueError("an address with a zone")
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
    return str(address)


def canonical_network(text: str) -> str:
    """Return the canonical form of a CIDR, read as sloppily: ``203.0.113.007/025`` is 203.0.113.0/25 (S-12).

    An IPv4-mapped network is the IPv4 network. Raises `ValueError` when ``text`` is none.
    """
    address, slash, length = text.partition("/")
    if not (slash and len(length) <= _LONGEST and length.isascii() and length.isdigit()):
        raise ValueError("not ADDRESS/LENGTH")
    bits = int(length)
    base = canonical_address(address)
    if ":" in address and ":" not in base:
        if bits < _MAPPED:  # wider than all of IPv4: the network is one of IPv6
            base = f"::ffff:{base}"
        else:
            bits -= _MAPPED
    return str(ipaddress.ip_network(f"{base}/{bits}", strict=False))


def family(address: str) -> str:
    """Return the EndpointSlice addressType, ``IPv4`` or ``IPv6``, of a canonical address."""
    return "IPv6" if ":" in address else "IPv4"


def dialable(address: str) -> bool:
    """Say whether a canonical address can be a connection's destination: not unspecified, multicast or broadcast."""
    first = address.partition(".")[0]
    if first.isdigit():
        return 0 < int(first) < 224
    return not (address == "::" or address.startswith("ff"))
