"""Bytes of lists and watch streams become decoded events. Runs in the reading thread; pure but for the mailbox."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from spliceway.model import Kind
from spliceway.source import wire
from spliceway.source.api import Client
from spliceway.source.decode import Decoded, decode_json
from spliceway.source.mailbox import ClosedError, Mailbox

#: bytes of one line of a watch; the API server refuses objects above 3 MiB
_LONGEST_LINE = 64 << 20

#: lines that are parsed before the waiting task hears of them
_BATCH = 64

_WATCH_LINE = msgspec.json.Decoder(wire.WatchLine)
_LIST_PAGE = msgspec.json.Decoder(wire.ListPage)


class GarbageError(Exception):
    """The API server, or something in front of it, sent what is not its language."""


class Page(msgspec.Struct, frozen=True):
    """One page of a list."""

    resource_version: str
    continue_token: str
    objects: tuple[Decoded, ...]


class Opened(msgspec.Struct, frozen=True):
    """The API server accepted the watch."""


class Changed(msgspec.Struct, frozen=True):
    """An object was added, modified or (``deleted``) deleted."""

    decoded: Decoded
    deleted: bool


class Bookmarked(msgspec.Struct, frozen=True):
    """Everything up to this resource version was told."""

    resource_version: str


class Failed(msgspec.Struct, frozen=True):
    """The API server ends the watch with an error."""

    status: wire.Status


class Unknown(msgspec.Struct, frozen=True):
    """An event of a type that did not exist when this was written."""

    type: str


Event = Opened | Changed | Bookmarked | Failed | Unknown


def fetch_page(client: Client, path: str, query: dict[str, str], kind: Kind) -> Page:
    """Request one page of a list. Raises what `Client.get` raises, and `GarbageError`."""
    body = client.get(path, query)
    try:
        page = _LIST_PAGE.decode(body)
    except (ValueError, RecursionError) as error:
        raise GarbageError(f"what should be a list is not one: {error}") from error
    objects = tuple(decode_json(item, kind) for item in page.items or ())
    return Page(page.metadata.resource_version, page.metadata.continue_token, objects)


def read_watch(
    client: Client, path: str, query: dict[str, str], silence: float, kind: Kind, mailbox: Mailbox[Event]
) -> None:
    """Read one watch stream into ``mailbox`` until it ends; finish the mailbox, with the reason if it is a bad one."""
    try:
        rest = b""
        for piece in client.stream(path, query, silence):
            if not piece:
                mailbox.put([Opened()])
                continue
            *lines, rest = (rest + piece).split(b"\n") if b"\n" in piece else (rest + piece,)
            if len(rest) > _LONGEST_LINE:
                raise GarbageError("a line of the watch does not end")
            for batch in _batches(lines):
                mailbox.put([parse_line(line, kind) for line in batch])
        if rest.strip():
            raise GarbageError("the watch was cut in the middle of a line")
        mailbox.finish()
    except ClosedError:
        return
    except Exception as error:  # whatever it is, the task that waits must learn of it
        mailbox.finish(error)


def _batches(lines: list[bytes]) -> Iterator[list[bytes]]:
    """The lines that say something, a few at a time."""
    said = [line for line in lines if line.strip()]
    for start in range(0, len(said), _BATCH):
        yield said[start : start + _BATCH]


def parse_line(line: bytes, kind: Kind) -> Event:
    """Parse one line of a watch. Raises `GarbageError`."""
    try:
        found = _WATCH_LINE.decode(line)
        if found.type == "BOOKMARK":
            return Bookmarked(msgspec.json.decode(found.object, type=wire.Bookmark).metadata.resource_version)
        if found.type == "ERROR":
            return Failed(msgspec.json.decode(found.object, type=wire.Status))
    except (ValueError, RecursionError) as error:
        raise GarbageError(f"a line of the watch is garbage: {error}") from error
    if found.type not in ("ADDED", "MODIFIED", "DELETED"):
        return Unknown(found.type[:64])
    decoded = decode_json(found.object, kind)
    if decoded.malformed:
        raise GarbageError(f"an object of the watch is garbage: {decoded.faults[0].message}")
    return Changed(decoded, found.type == "DELETED")
