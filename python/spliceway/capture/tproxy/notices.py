"""Notices of nf_tables: who changed our table?

The kernel tells of each transaction, and ends it with the number of the new generation of the ruleset. Each of our own
transactions is told of as well, exactly once; what is told of beyond that is somebody else's.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from spliceway.capture.tproxy import netlink
from spliceway.capture.tproxy.layout import TABLE

_NFTABLES_GROUP = 7
_NEW_GENERATION = (10 << 8) | 15
_KIND = struct.Struct("=4xH")
#: holds the notices of our own largest transactions; memory is used only while they wait
_BUFFER = 64 << 20
_SO_RCVBUFFORCE = 33
_NAME = TABLE.encode() + b"\0"


class Seen(NamedTuple):
    """What `TableNotices.drain` found: transactions that touched our table, and whether notices were lost."""

    touches: int
    lost: bool


class TableNotices:
    """Listens from construction on. Not thread-safe; `drain` never blocks.

    Raises:
        OSError: the kernel refused the socket.
    """

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self.socket = socket.socket(socket.AF_NETLINK, kind, netlink.NETLINK_NETFILTER)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            self.socket.bind((0, 1 << (_NFTABLES_GROUP - 1)))
        except BaseException:
            self.socket.close()
            raise
        self._touched = False

    def drain(self) -> Seen:
        """Read all that waits. Costs microseconds for each datagram, whatever is in it."""
        touches, lost = 0, False
        while True:
            try:
                data = self.socket.recv(netlink.RECEIVE)
            except BlockingIOError:
                return Seen(touches, lost)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            # The name of the table in each message is the first attribute; nobody else's rules name our table.
            self._touched = self._touched or _NAME in data
            if _KIND.unpack_from(data)[0] == _NEW_GENERATION:
                touches += self._touched
                self._touched = False

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()
