"""The transparent listeners: one for each class of client, protocol and family, and for UDP one for each worker."""

from __future__ import annotations

import errno
import os
import socket
from typing import NamedTuple

from spliceway.capture.bind import listen_backlog
from spliceway.capture.tproxy.layout import Marks, PortKey
from spliceway.errors import FrontendError
from spliceway.model import ClientClass, Protocol

#: of linux/in.h and linux/in6.h; the socket module has no names for them
IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75

_HOSTS = {4: "127.0.0.1", 6: "::1"}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
#: what the kernel says where IPv6 is compiled out or disabled
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENODEV)


class TransparentListener(NamedTuple):
    """A socket to which packets are led. ``fd`` belongs to whoever gets it; ``family`` is ``ipv4`` or ``ipv6``."""

    fd: int
    client_class: ClientClass
    protocol: Protocol
    family: str


def open_listeners(
    workers: int, marks: Marks, *, untracked_clients: bool
) -> tuple[tuple[TransparentListener, ...], dict[PortKey, int]]:
    """Open all of them, and tell their ports. IPv6 is left out where the machine has none.

    They are bound to loopback addresses, so nobody reaches them but by the rules; what they send has a mark by which
    the rules know it, for TCP another one if ``untracked_clients``.

    Raises:
        FrontendError: not permitted, or out of descriptors or ports; the text says what to do.
    """
    listeners: list[TransparentListener] = []
    ports: dict[PortKey, int] = {}
    of_tcp = marks.capture if untracked_clients else marks.upstream
    try:
        for version in (4, 6):
            for client in ClientClass:
                for protocol, count in ((Protocol.TCP, 1), (Protocol.UDP, max(1, workers))):
                    key, mark = (
                        PortKey(client, protocol, version),
                        of_tcp if protocol is Protocol.TCP else marks.upstream,
                    )
                    for _ in range(count):
                        opened = _open(key, ports.get(key, 0), mark)
                        if opened is None:
                            break
                        ports[key] = opened.getsockname()[1]
                        listeners.append(TransparentListener(opened.detach(), client, protocol, f"ipv{version}"))
    except BaseException:
        for listener in listeners:
            os.close(listener.fd)
        raise
    return tuple(listeners), ports


def _open(key: PortKey, port: int, mark: int) -> socket.socket | None:
    """One socket; None where the machine does not have the family."""
    kind = socket.SOCK_STREAM if key.protocol is Protocol.TCP else socket.SOCK_DGRAM
    try:
        opened = socket.socket(_FAMILIES[key.version], kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        if key.version == 6 and error.errno in _NO_FAMILY:
            return None
        raise _refusal(error) from None
    try:
        if key.version == 6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        # Accepted sockets inherit it, so that what we answer is never captured either.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if key.protocol is Protocol.UDP:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind((_HOSTS[key.version], port))
        if key.protocol is Protocol.TCP:
            opened.listen(listen_backlog())
    except OSError as error:
        opened.close()
        if key.version == 6 and error.errno in _NO_FAMILY:
            return None
        raise _refusal(error) from None
    return opened


def _refusal(error: OSError) -> FrontendError:
    if error.errno in (errno.EPERM, errno.EACCES):
        reason = (
            "not permitted; --capture tproxy needs CAP_NET_ADMIN in the node's network namespace "
            "(run as root, or in a Pod with hostNetwork and capability NET_ADMIN)"
        )
    else:
        reason = error.strerror or str(error)
    refusal = FrontendError(f"cannot open the transparent listeners: {reason}")
    refusal.errno = error.errno
    return refusal
