"""Capture by ordinary sockets. Needs no privileges beyond those of the addresses and ports asked for."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from spliceway.errors import FrontendError
from spliceway.model import Address, FrontendKey, Protocol

_REASONS = {
    errno.EADDRINUSE: "address already in use by another process; stop that one (ss -lntup tells) or change the port",
    errno.EADDRNOTAVAIL: "the address is not local to this machine; add it (ip addr add {host} dev lo) or use another",
    errno.EACCES: "not permitted; ports below net.ipv4.ip_unprivileged_port_start need root or CAP_NET_BIND_SERVICE",
    errno.EPERM: "not permitted; ports below net.ipv4.ip_unprivileged_port_start need root or CAP_NET_BIND_SERVICE",
    errno.EMFILE: "out of file descriptors; raise the limit (ulimit -n)",
    errno.ENFILE: "the machine is out of file descriptors; raise fs.file-max",
    errno.EAFNOSUPPORT: "this machine has no support for this address family (is IPv6 disabled?)",
}


class BindCapture:
    """Opens frontends, and keeps addresses that were reserved before their frontend opens."""

    def __init__(self) -> None:
        self._reserved: dict[FrontendKey, socket.socket] = {}
        self._backlog = listen_backlog()

    def reserve(self, address: Address, protocol: Protocol = Protocol.TCP) -> Address:
        """Bind ``address`` without listening, and return it with its real port.

        TCP clients are refused until `open`, datagrams wait. A port that was 0 stays the same from here on.

        Raises:
            FrontendError: the address cannot be bound.
        """
        reserved = _bind(address, protocol)
        real = Address(address.host, int(reserved.getsockname()[1]))
        self._reserved[FrontendKey(real, protocol)] = reserved
        return real

    def release(self, key: FrontendKey) -> None:
        """Give up a reservation that was not opened. Does nothing when there is none."""
        if reserved := self._reserved.pop(key, None):
            reserved.close()

    def open(self, address: Address, protocol: Protocol = Protocol.TCP) -> int:
        """Open a socket at ``address``, and return its file descriptor, which belongs to the caller.

        A TCP socket listens; a UDP socket is bound, and takes every datagram that comes to the address.

        Raises:
            FrontendError: the socket cannot be opened; the text says why and what to do.
        """
        listener = self._reserved.pop(FrontendKey(address, protocol), None) or _bind(address, protocol)
        if protocol is Protocol.UDP:
            return listener.detach()
        try:
            listener.listen(self._backlog)
        except OSError as error:
            listener.close()
            raise _refusal(address, error) from None
        return listener.detach()

    def close(self) -> None:
        """Give up all reservations."""
        for key in tuple(self._reserved):
            self.release(key)


def listen_backlog() -> int:
    """Connections that may wait to be accepted: the kernel's limit, at most 4096."""
    try:
        return min(4096, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    except (OSError, ValueError):
        return socket.SOMAXCONN


def _bind(address: Address, protocol: Protocol) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol is Protocol.UDP else socket.SOCK_STREAM
    try:
        bound = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise _refusal(address, error) from None
    try:
        if protocol is Protocol.TCP:
            # A port whose old connections are in TIME_WAIT can be bound again; two listeners still exclude each other.
            # (For UDP there is no TIME_WAIT, and with this option two sockets would share a port, one of them deaf.)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # The IPv6 wildcard serves both families, whatever net.ipv6.bindv6only says.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.host != "::")
        bound.bind((address.host, address.port))
    except OSError as error:
        bound.close()
        raise _refusal(address, error) from None
    return bound


def _refusal(address: Address, error: OSError) -> FrontendError:
    number = error.errno or 0
    reason = _REASONS.get(number, os.strerror(number)).format(host=address.host)
    refusal = FrontendError(f"cannot listen: {reason}")
    refusal.errno = error.errno
    return refusal
