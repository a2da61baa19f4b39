"""Netlink messages: enough of the kernel's interface for what capture needs. Blocking, bounded.

A few requests is all that capture needs, so no library is worth its 0.15 s of import and 20 MB.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
NLM_F_DUMP = 0x300

_SOL_NETLINK, _STRICT_CHECK = 270, 12
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR, _DONE = 2, 3
#: struct nlmsgerr: an errno, and the header of the request
_REFUSAL = struct.Struct("=i8xI4x")
#: type bits without the flags "nested" and "network byte order"
_TYPE_BITS = 0x3FFF
_NESTED = 0x8000
#: bytes to receive at once: the kernel makes no larger datagrams
RECEIVE = 1 << 18
_TIMEOUT = 5.0


class Message(NamedTuple):
    """One message: its type, and all that comes after the netlink header."""

    type: int
    body: bytes


def request(protocol: int, kind: int, body: bytes, flags: int = 0) -> list[Message]:
    """Send one request and return the answers: of a dump, all of them; else none.

    Raises:
        OSError: the kernel refused it, or did not answer within some seconds.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as sock:
        sock.settimeout(_TIMEOUT)
        # With it the kernel heeds the filters of a dump instead of telling everything.
        sock.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
        sock.bind((0, 0))
        sock.sendto(message(kind, flags | NLM_F_ACK, 1, body), (0, 0))
        answers: list[Message] = []
        while True:
            for answer in split(sock.recv(RECEIVE)):
                if answer.type == _DONE or check(answer) is not None:
                    return answers
                answers.append(answer)


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One request, padded."""
    length = _HEADER.size + len(body)
    return _HEADER.pack(length, kind, flags | NLM_F_REQUEST, sequence, 0) + body + bytes(-length % 4)


def check(answer: Message) -> int | None:
    """The sequence number of the request that the kernel acknowledges; None when the answer is something else.

    Raises:
        OSError: the kernel refused it.
    """
    if answer.type != _ERROR:
        return None
    refusal, sequence = _REFUSAL.unpack_from(answer.body)
    if refusal:
        raise OSError(-refusal, os.strerror(-refusal))
    return int(sequence)


def split(data: bytes) -> Iterator[Message]:
    """The messages of one datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield Message(kind, data[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, attributes: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | _NESTED, attributes)


def number(kind: int, value: int) -> bytes:
    """An attribute that holds 32 bits in the machine's order."""
    return attribute(kind, struct.pack("=I", value))


def attributes(body: bytes, offset: int) -> Attributes:
    """The attributes behind a fixed header of ``offset`` bytes."""
    found: dict[int, bytes] = {}
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_BITS] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


Attributes = Mapping[int, bytes]


def to_number(value: bytes | None) -> int:
    """The 8 or 32 bits of an attribute; 0 without one."""
    return int.from_bytes(value, "little" if _little else "big") if value else 0


_little = struct.pack("=H", 1)[0] == 1
