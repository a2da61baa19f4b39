"""Cuts a JSON file of any size into its objects, reading a piece at a time: memory stays near the largest object.

``kubectl get -o json`` writes one `List` of tens of thousands of objects. A rolling buffer is read (and the file not
mapped: a mapped file that somebody truncates kills the process). The end of each item is guessed by its indentation,
and the caller's decoding proves or disproves the guess, since no proper prefix of a JSON object is a JSON object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO, Generic, NamedTuple, TypeVar

import msgspec

_CHUNK = 1 << 20
#: bytes of one object; the API server refuses objects above 3 MiB
MAX_OBJECT = 64 << 20

_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(rb"[ \t\r\n]*")
_INDENT = re.compile(rb"\n([ \t]*)\Z")
#: everything up to the next brace, or bracket of any kind, outside of strings
_TO_BRACE = re.compile(rb'(?:[^{}"]++|"(?:[^"\\]++|\\.)*+")*+[{}]', re.DOTALL)
_TO_BRACKET = re.compile(rb'(?:[^][{}"]++|"(?:[^"\\]++|\\.)*+")*+[][{}]', re.DOTALL)
_STRING = re.compile(rb'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_PLAIN = re.compile(rb"[-+.\w]+(?=[\s,\]}])")
_BYTE = re.compile(r" \(byte (\d+)\)$")
_T = TypeVar("_T")


class JsonError(Exception):
    """The text is not JSON. ``line`` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class Item(NamedTuple, Generic[_T]):
    """One object: an item of a list (``listed``), or a whole document."""

    decoded: _T
    data: bytes
    line: int
    listed: bool


class ListEnd(NamedTuple):
    """The items before belonged to this list: its ``kind``, ``apiVersion`` and first line."""

    kind: str
    api_version: str
    line: int


def read_json(file: BinaryIO, decode: Callable[[bytes], _T | None]) -> Iterator[Item[_T] | ListEnd]:
    """Yield the objects of a file of JSON documents: items of a list and then `ListEnd`, or whole documents.

    ``decode`` returns None when its argument is not a JSON object. Raises `JsonError` when nothing else can be said of
    the text, `OSError` when the file cannot be read.
    """
    text = _Text(file)
    while text.next_byte():
        yield from _document(text, decode)


class _Text:
    """A window on the file. ``at`` is the next byte, ``line`` its line."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.buffer = file.read(_CHUNK)
        self.at = len(_BOM) if self.buffer.startswith(_BOM) else 0
        self.line = 1
        self._kept: int | None = None

    def keep(self) -> None:
        """Keep everything from here on, for `kept`."""
        self._kept = self.at

    def kept(self) -> bytes:
        """Return what was passed since `keep`, and keep it no longer."""
        start, self._kept = self._kept, None
        return self.buffer[start : self.at]

    def drop(self) -> None:
        """Keep nothing."""
        self._kept = None

    def fill(self) -> None:
        """Read more of the file. Raises `JsonError` at its end, or when an object is too big."""
        if not self._more():
            raise JsonError("not valid JSON: the file ends in the middle of what begins here", self.line)

    def _more(self) -> bool:
        start = self.at if self._kept is None else self._kept
        size = len(self.buffer) - start
        if size > MAX_OBJECT:
            raise JsonError(f"an object of more than {MAX_OBJECT >> 20} MiB begins here", self.line)
        more = self._file.read(max(_CHUNK, size))
        self.buffer = self.buffer[start:] + more
        self.at -= start
        if self._kept is not None:
            self._kept = 0
        return bool(more)

    def advance(self, end: int) -> bytes:
        """Pass everything up to ``end`` and return it."""
        passed = self.buffer[self.at : end]
        self.line += passed.count(b"\n")
        self.at = end
        return passed

    def next_byte(self) -> bytes:
        """Pass white space and return the byte after it, which is not passed; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.buffer, self.at)
            self.advance(match.end() if match else self.at)
            if self.at < len(self.buffer):
                return self.buffer[self.at : self.at + 1]
            if not self._more():
                return b""

    def expect(self, byte: bytes) -> None:
        """Pass ``byte``. Raises `JsonError` when something else comes."""
        found = self.next_byte()
        if found != byte:
            shown = f"{found.decode(errors='replace')!r}" if found else "the end of the file"
            raise JsonError(f"not valid JSON: expected {byte.decode()!r}, not {shown}", self.line)
        self.advance(self.at + 1)

    def string(self) -> bytes:
        """Pass a string and return what is between its quotes."""
        if self.next_byte() != b'"':
            raise JsonError("not valid JSON: expected a text in double quotes", self.line)
        while (match := _STRING.match(self.buffer, self.at)) is None:
            self.fill()
        self.advance(match.end())
        return match[1]

    def value(self) -> None:
        """Pass a value of any type."""
        first = self.next_byte()
        if first in (b"{", b"["):
            self.advance(self.bracketed(_TO_BRACKET))
        elif first == b'"':
            self.string()
        else:
            while (match := _PLAIN.match(self.buffer, self.at)) is None:
                if len(self.buffer) - self.at > _CHUNK or not re.match(rb"[-+.\w]*$", self.buffer[self.at :]):
                    raise JsonError("not valid JSON: expected a value", self.line)
                self.fill()
            self.advance(match.end())

    def bracketed(self, to_bracket: re.Pattern[bytes]) -> int:
        """Return where the object or list that begins here ends, by counting brackets."""
        depth, end = 0, self.at
        while True:
            match = to_bracket.match(self.buffer, end)
            if match is None:
                done = end - self.at
                self.fill()
                end = self.at + done
                continue
            end = match.end()
            depth += 1 if self.buffer[end - 1] in b"{[" else -1
            if depth == 0:
                return end


def _document(text: _Text, decode: Callable[[bytes], _T | None]) -> Iterator[Item[_T] | ListEnd]:
    """One document. Its members are passed one by one until ``items`` shows that it is a list."""
    line, listed = text.line, False
    header = {b"kind": "", b"apiVersion": ""}
    text.keep()
    text.expect(b"{")
    first = text.next_byte()
    while first != b"}":
        name = text.string()
        text.expect(b":")
        if name == b"items" and text.next_byte() == b"[":
            listed = True
            text.drop()
            yield from _items(text, decode)
        elif name in header and text.next_byte() == b'"':
            header[name] = text.string().decode(errors="replace")
        else:
            text.value()
        first = text.next_byte()
        if first != b"}":
            text.expect(b",")
    text.expect(b"}")
    if listed:
        yield ListEnd(header[b"kind"], header[b"apiVersion"], line)
    else:
        data = text.kept()
        decoded = decode(data)
        if decoded is None:
            raise _malformed(data, line)
        yield Item(decoded, data, line, listed=False)


def _items(text: _Text, decode: Callable[[bytes], _T | None]) -> Iterator[Item[_T]]:
    text.expect(b"[")
    first = text.next_byte()
    while first != b"]":
        if first != b"{":
            raise JsonError("not valid JSON: expected an item of the list, which is an object", text.line)
        yield _item(text, decode)
        first = text.next_byte()
        if first != b"]":
            text.expect(b",")
            first = text.next_byte()
    text.expect(b"]")


def _item(text: _Text, decode: Callable[[bytes], _T | None]) -> Item[_T]:
    line = text.line
    end = _end_by_indent(text)
    data = text.buffer[text.at : end] if end else b""
    decoded = decode(data) if end else None
    if decoded is None:
        end = text.bracketed(_TO_BRACE)
        data = text.buffer[text.at : end]
        decoded = decode(data)
    if decoded is None or end is None:
        raise _malformed(data, line)
    text.advance(end)
    return Item(decoded, data, line, listed=True)


def _end_by_indent(text: _Text) -> int | None:
    """Guess the item's end: a closing brace on its own line, as deep as the item. A line break is never in a string."""
    indent = _INDENT.search(text.buffer, max(0, text.at - 256), text.at)
    if indent is None:
        return None
    closing = b"\n" + indent[1] + b"}"
    found = text.buffer.find(closing, text.at)
    return None if found < 0 else found + len(closing)


def _malformed(data: bytes, line: int) -> JsonError:
    """Return the error with the line where ``data``, which begins at ``line``, ceases to be JSON."""
    try:
        msgspec.json.decode(data)
        text = ""
    except RecursionError:
        text = "nested too deeply"
    except UnicodeDecodeError:
        text = "not UTF-8"
    except ValueError as error:
        text = str(error).removeprefix("JSON is malformed: ")
    byte = _BYTE.search(text)
    if byte:
        line += data.count(b"\n", 0, int(byte[1]))
        text = text[: byte.start()]
    return JsonError(f"not valid JSON: {text.lower()}", line)
