"""How objects, protocols and addresses are named."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import NamedTuple


class ObjectKey(NamedTuple):
    """Namespace and name of a Kubernetes object; the namespace of one that is in none, as a Node, is ""."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Kind(StrEnum):
    """The kinds of object that are read."""

    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    NODE = "Node"


class Protocol(StrEnum):
    """Transport protocols that Kubernetes knows for a Service port."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class Address(NamedTuple):
    """An IP address in its canonical text form and a port (1 to 65535; 0 asks the kernel for one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``10.0.0.1:80`` or ``[fd00::1]:80`` and return it in canonical form.

        An IPv4-mapped IPv6 address is the IPv4 address, which is where it leads.

        Raises:
            ValueError: it is not an IP address and a port, or has a zone; the text says what is wrong.
        """
        host, separator, port = text.strip().rpartition(":")
        if not separator or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ValueError(f"{text!r} is not ADDRESS:PORT with a port of 0 to 65535")
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
        except ValueError:
            raise ValueError(f"{text!r} is not ADDRESS:PORT: {host!r} is not an IP address") from None
        if bracketed != (ip.version == 6):
            raise ValueError(f"{text!r} is not ADDRESS:PORT: write IPv6 addresses, and only them, in [brackets]")
        if isinstance(ip, ipaddress.IPv6Address):
            if ip.scope_id is not None:
                raise ValueError(f"{text!r} has a zone, which is not supported; use an address without one")
            ip = ip.ipv4_mapped or ip
        return cls(str(ip), int(port))
