"""IP addresses in the canonical text form, parsed as sloppily as Kubernetes does (S-12). Pure."""

from __future__ import annotations

import ipaddress
import re

#: a canonical IPv4 address: the common case, decided without building an object for each of 100,000 endpoints
_CANONICAL_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!\Z)|\Z)){4}", re.ASCII)
_DOTTED_QUAD = re.compile(r"\d+(?:\.\d+){3}\Z", re.ASCII)
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)", re.ASCII)
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


def family(address: str) -> str:
    """Return the EndpointSlice addressType, ``IPv4`` or ``IPv6``, of a canonical address."""
    return "IPv6" if ":" in address else "IPv4"


def dialable(address: str) -> bool:
    """Say whether a canonical address can be a connection's destination: not unspecified, multicast or broadcast."""
    first = address.partition(".")[0]
    if first.isdigit():
        return 0 < int(first) < 224
    return not (address == "::" or address.startswith("ff"))
