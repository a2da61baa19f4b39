"""Changes elements of the table by netlink, in one transaction. Blocking; no other thread at the same time.

The program ``nft`` could do it as well, but closes its socket when it is done, and then the kernel makes it wait until
what it deleted is really gone (8 to 16 ms). Here the socket stays open, so a change takes well under a millisecond.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from itertools import groupby

from spliceway.capture.tproxy import netlink
from spliceway.capture.tproxy.elements import Element
from spliceway.capture.tproxy.layout import INET, TABLE

_BATCH_BEGIN, _BATCH_END = 16, 17
_NFTABLES = 10
_NEW_ELEMENTS, _DELETE_ELEMENTS = (_NFTABLES << 8) | 12, (_NFTABLES << 8) | 14
#: struct nfgenmsg of a batch: the subsystem that it is for
_FOR_NFTABLES = struct.pack("!BBH", 0, 0, _NFTABLES)
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ITEM = 1, 2, 3, 1
_KEY, _DATA, _KEY_END = 1, 2, 10
_DATA_VALUE, _DATA_VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 1, 2, 1, 2
_JUMP = struct.pack("!i", -3)
#: an attribute holds at most 64 KiB
_ELEMENTS_IN_MESSAGE = 250
_SO_SNDBUFFORCE = 32
#: holds the largest transaction, of some 100,000 elements; memory is used only while it is sent
_BUFFER = 64 << 20
_TIMEOUT = 5.0
_PROTOCOLS = {"tcp": bytes([socket.IPPROTO_TCP]), "udp": bytes([socket.IPPROTO_UDP])}


class ElementChanges:
    """Opened at the first change, and again after one that failed."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def commit(self, deleted: Iterable[Element], added: Iterable[Element]) -> None:
        """Delete and add elements of maps and of sets of concatenations; there is no moment between the two.

        Raises:
            OSError: the kernel refused, and nothing has changed, or did not answer within some seconds.
        """
        messages = [
            *_messages(_DELETE_ELEMENTS, 0, (each._replace(action="") for each in deleted)),
            *_messages(_NEW_ELEMENTS, netlink.NLM_F_CREATE, added),
        ]
        if messages:
            try:
                self._exchange(messages)
            except BaseException:
                self.close()  # what the kernel may still have to say is about this change
                raise

    def close(self) -> None:
        """Close the socket; this may take some milliseconds."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, messages: list[tuple[int, int, bytes]]) -> None:
        """The kernel answers errors when they occur and, when all holds, the last message."""
        if self._socket is None:
            self._socket = _connect()
        last = len(messages)
        parts = [netlink.message(_BATCH_BEGIN, 0, 0, _FOR_NFTABLES)]
        for number, (kind, flags, body) in enumerate(messages, 1):
            parts.append(netlink.message(kind, flags | (netlink.NLM_F_ACK if number == last else 0), number, body))
        parts.append(netlink.message(_BATCH_END, 0, last + 1, _FOR_NFTABLES))
        self._socket.sendto(b"".join(parts), (0, 0))
        while True:
            for answer in netlink.split(self._socket.recv(netlink.RECEIVE)):
                if netlink.check(answer) == last:
                    return


def _connect() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netlink.NETLINK_NETFILTER)
    try:
        made.settimeout(_TIMEOUT)
        made.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
        made.bind((0, 0))
    except BaseException:
        made.close()
        raise
    return made


def _messages(kind: int, flags: int, elements: Iterable[Element]) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and body of each message."""
    by_container = groupby(sorted(elements), key=lambda element: element.container)
    for container, group in by_container:
        encoded = [encode(element) for element in group]
        head = INET + netlink.attribute(_LIST_TABLE, TABLE.encode() + b"\0")
        head += netlink.attribute(_LIST_SET, container.encode() + b"\0")
        for start in range(0, len(encoded), _ELEMENTS_IN_MESSAGE):
            items = b"".join(encoded[start : start + _ELEMENTS_IN_MESSAGE])
            yield kind, flags, head + netlink.nested(_LIST_ELEMENTS, items)


def encode(element: Element) -> bytes:
    """The element as an item of a list: its key (or where it begins and ends), and what it leads to."""
    fields = [_field(word) for word in element.key.split(" . ")]
    first, last = (b"".join(bounds) for bounds in zip(*fields, strict=True))
    body = netlink.nested(_KEY, netlink.attribute(_DATA_VALUE, first))
    if "/" in element.key:
        body += netlink.nested(_KEY_END, netlink.attribute(_DATA_VALUE, last))
    if element.action:
        chain = element.action.removeprefix("jump ").encode() + b"\0"
        verdict = netlink.attribute(_VERDICT_CODE, _JUMP) + netlink.attribute(_VERDICT_CHAIN, chain)
        body += netlink.nested(_DATA, netlink.nested(_DATA_VERDICT, verdict))
    return netlink.nested(_LIST_ITEM, body)


def _field(word: str) -> tuple[bytes, bytes]:
    """The first and the last value that a word of a key stands for, each in whole registers of 4 bytes."""
    if word in _PROTOCOLS:
        first = last = _PROTOCOLS[word]
    elif word.isdigit():
        first = last = struct.pack("!H", int(word))
    elif "/" in word:
        network = ipaddress.ip_network(word)
        first, last = network[0].packed, network[-1].packed
    else:
        first = last = socket.inet_pton(socket.AF_INET6 if ":" in word else socket.AF_INET, word)
    padding = bytes(-len(first) % 4)
    return first + padding, last + padding
