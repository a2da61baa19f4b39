"""Tells which addresses belong to this machine."""

from __future__ import annotations

import socket
import time

#: seconds that an answer holds, and answers that are kept: addresses of a machine change seldom
LIFETIME = 5.0
CAPACITY = 4096

#: any port does: nothing is sent
_PORT = 9


class LocalAddresses:
    """Says whether a host is an address of this machine. Of loopback addresses it knows only 127.0.0.1 and ::1."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, bool]] = {}

    def __call__(self, host: str) -> bool:
        """Ask the kernel, at most once in `LIFETIME` seconds for each host; takes microseconds."""
        now = time.monotonic()
        expiry, local = self._known.get(host, (0.0, False))
        if now < expiry:
            return local
        if len(self._known) >= CAPACITY:
            self._known.clear()
        local = _ask_kernel(host)
        self._known[host] = (now + LIFETIME, local)
        return local


def _ask_kernel(host: str) -> bool:
    """The kernel dials its own addresses from themselves. (Binding would tell, but not with ip_nonlocal_bind set.)"""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.connect((host, _PORT))
            return bool(probe.getsockname()[0] == host)
    except OSError:
        return False
