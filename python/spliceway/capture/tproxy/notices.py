"""Notices of the kernel: who changed our table, our ip rules or our routes?

nf_tables tells of each transaction, and ends it with the number of the new generation of the ruleset. Each of our own
transactions is told of as well, exactly once; what is told of beyond that is somebody else's. Of ip rules and routes it
is enough to know that something happened: to look costs less than to find out what.
"""

from __future__ import annotations

import ctypes
import errno
import select
import socket
import struct
import sys
from typing import NamedTuple

from spliceway.capture.tproxy import netlink
from spliceway.capture.tproxy.layout import TABLE
from spliceway.capture.tproxy.routing import PROTOCOL

_NFTABLES_GROUP = 7
_NEW_GENERATION = (10 << 8) | 15
_KIND = struct.Struct("=4xH")
#: holds the notices of our own largest transactions; memory is used only while they wait
_BUFFER = 64 << 20
_ROUTING_BUFFER = 1 << 20
_SO_RCVBUFFORCE = 33
_NAME = TABLE.encode() + b"\0"

#: multicast groups of rtnetlink: routes and ip rules of IPv4, then of IPv6
_ROUTE_GROUPS = (7, 8, 11, 19)
_NEW_ROUTE, _DELETED_ROUTE = 24, 25
_SO_ATTACH_FILTER = 26
#: where a message has its type (the byte that tells), and a route its protocol number
_TYPE_AT, _PROTOCOL_AT = 4 + (sys.byteorder == "big"), 21
_LOAD_BYTE, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x15, 0x06
#: A node may learn thousands of routes a second that are nothing to us, so the kernel sorts: of routes, only that one
#: of ours was deleted (they carry our protocol number); of ip rules, everything. Instructions of the classic packet
#: filter: (code, skip if true, skip if false, value).
_OURS = (
    (_LOAD_BYTE, 0, 0, _TYPE_AT),
    (_JUMP_IF_EQUAL, 4, 0, _NEW_ROUTE),
    (_JUMP_IF_EQUAL, 0, 2, _DELETED_ROUTE),
    (_LOAD_BYTE, 0, 0, _PROTOCOL_AT),
    (_JUMP_IF_EQUAL, 0, 1, PROTOCOL),
    (_RETURN, 0, 0, 0xFFFF),
    (_RETURN, 0, 0, 0),
)


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
        self.socket = _listen(netlink.NETLINK_NETFILTER, (_NFTABLES_GROUP,), _BUFFER)
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


class RoutingNotices:
    """Tells that ip rules changed or that a route of ours went. Listens from construction on; `drain` never blocks.

    Raises:
        OSError: the kernel refused the socket.
    """

    def __init__(self) -> None:
        self.socket = _listen(netlink.NETLINK_ROUTE, _ROUTE_GROUPS, _ROUTING_BUFFER)
        instructions = b"".join(struct.pack("=HBBI", *each) for each in _OURS)
        program = ctypes.create_string_buffer(instructions, len(instructions))
        described = struct.pack("HP", len(_OURS), ctypes.addressof(program))
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
        except BaseException:
            self.socket.close()
            raise

    def drain(self) -> None:
        """Forget what waits. (Whoever is woken looks at the rules, so a lost notice is as good as a read one.)"""
        while True:
            try:
                self.socket.recv(netlink.RECEIVE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise


class Notices:
    """Both, to be waited for as one: readable when there is something to `drain`."""

    def __init__(self) -> None:
        self.table = TableNotices()
        try:
            self.routing = RoutingNotices()
        except BaseException:
            self.table.socket.close()
            raise
        self._both = select.epoll()
        for each in (self.table.socket, self.routing.socket):
            self._both.register(each, select.EPOLLIN)

    def fileno(self) -> int:
        """The file descriptor to wait for."""
        return self._both.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._both.close()
        self.table.socket.close()
        self.routing.socket.close()


def _listen(protocol: int, groups: tuple[int, ...], buffer: int) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    made = socket.socket(socket.AF_NETLINK, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
        made.bind((0, sum(1 << (group - 1) for group in groups)))
    except BaseException:
        made.close()
        raise
    return made
