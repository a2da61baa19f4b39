"""YAML text becomes plain values with the line of every entry, as Kubernetes reads YAML: like JSON in other clothes.

It works on the parser's events and not through `yaml.load`: nesting, aliases and duplicate keys are under control here
(the composer of PyYAML recurses in C and dies of deep nesting; aliases can expand to any size), no tag constructs an
object, and times, base-60 numbers and binary stay the text that they were written as.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from spliceway.source.salvage import Path as FieldPath

#: nesting of a document; Kubernetes objects stay below 20
MAX_DEPTH = 64
#: values that aliases may add to a document
MAX_ALIASED = 100_000

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_BASE_60 = re.compile(r"[^:]*:.*")
_TRUE = frozenset({"yes", "true", "on"})


class YamlError(Exception):
    """The text is not YAML, or not YAML that is accepted. ``line`` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class Document(NamedTuple):
    """One document: its value, its first line, and the lines of the entries of each mapping and list."""

    value: Any
    line: int
    #: by the id of a mapping or list that ``value`` holds: the line of each entry in order
    lines: dict[int, list[int]]
    #: keys that were written twice, with the line of the second: which of the two is meant cannot be known
    duplicates: tuple[tuple[int, str], ...]

    def line_of(self, path: FieldPath, start: FieldPath = ()) -> int:
        """Return the line of the field ``start + path``, or of the nearest thing around it that exists."""
        line, value = self.line, self.value
        for step in (*start, *path):
            marks = self.lines.get(id(value))
            if marks is None:
                break
            if isinstance(value, list) and isinstance(step, int) and step < len(value):
                line, value = marks[step], value[step]
            elif isinstance(value, dict) and step in value:
                line, value = marks[list(value).index(step)], value[step]
            else:
                break
        return line


class _Open:
    """A mapping or list whose end has not been read yet."""

    __slots__ = ("anchor", "key", "key_line", "lines", "merges", "size", "value")

    def __init__(self, value: dict[str, Any] | list[Any], anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.lines: list[int] = []
        #: values inside, those of aliases counted each time
        self.size = 1
        self.key: str | None = None
        self.key_line = 0
        self.merges: list[tuple[int, Any]] = []


def read_documents(text: str) -> Iterator[Document]:
    """Yield the documents of ``text``; an empty document has the value None. Raises `YamlError`."""
    loader = None
    try:
        loader = _Loader(text)
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.DocumentStartEvent):
                yield _Builder(loader).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(f"not valid YAML: {error.problem or error.context}", mark.line + 1 if mark else 1) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        raise YamlError(f"not valid YAML: {error.reason}", line) from None
    finally:
        if loader is not None:
            loader.dispose()


class _Builder:
    """Builds one document of the loader's events without recursion."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int] | None] = {}
        self._lines: dict[int, list[int]] = {}
        self._duplicates: list[tuple[int, str]] = []
        self._aliased = 0
        self._root: Any = None

    def document(self) -> Document:
        """Consume the events up to the end of the document. Raises `YamlError` and `yaml.YAMLError`."""
        first = 0
        while True:
            event = self._loader.get_event()
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentEndEvent):
                return Document(self._root, first or line, self._lines, tuple(self._duplicates))
            first = first or line
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event, line)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event.anchor, line)
            elif isinstance(event, yaml.MappingStartEvent):
                self._open({}, event.anchor, line)
            elif isinstance(event, yaml.SequenceStartEvent):
                self._open([], event.anchor, line)
            else:
                self._close(line)

    def _scalar(self, event: Any, line: int) -> None:
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            merge = event.implicit[0] and event.value == "<<"
            top.key, top.key_line = ("<<" if merge else event.value), line
            if merge:
                top.merges.append((line, None))
            elif event.value in top.value:
                self._duplicates.append((line, event.value))
            return
        value = self._resolve(event, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1)
        self._add(value, 1, line)

    def _resolve(self, event: Any, line: int) -> Any:
        """The JSON value of a scalar."""
        text: str = event.value
        tag = event.tag
        if tag is None or tag == "!":
            if not event.implicit[0]:
                return text
            tag = self._loader.resolve(yaml.ScalarNode, text, event.implicit)
        kind = tag.removeprefix(_TAG)
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return text.lower() in _TRUE
            if kind == "int" and not _BASE_60.fullmatch(text):
                return _integer(text.replace("_", ""))
            if kind == "float" and not _BASE_60.fullmatch(text):
                return float(re.sub(r"\.(?=inf|nan)", "", text.replace("_", "").lower()))
        except ValueError:
            raise YamlError(f"not valid YAML: {text[:64]!r} is no {kind}", line) from None
        return text

    def _alias(self, anchor: Any, line: int) -> None:
        if anchor not in self._anchors:
            raise YamlError(f"not valid YAML: alias *{anchor} has no anchor", line)
        found = self._anchors[anchor]
        if found is None:
            raise YamlError(f"alias *{anchor} stands inside of what it names", line)
        value, size = found
        self._aliased += size
        if self._aliased > MAX_ALIASED:
            raise YamlError(f"aliases expand to more than {MAX_ALIASED:,} values; write them out", line)
        self._add(value, size, line)

    def _open(self, value: dict[str, Any] | list[Any], anchor: str | None, line: int) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise YamlError(f"nested more than {MAX_DEPTH} levels deep", line)
        if self._stack and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None:
            raise YamlError("a key of a mapping must be a text", line)
        opened = _Open(value, anchor)
        opened.key_line = line
        if anchor is not None:
            self._anchors[anchor] = None
        self._stack.append(opened)

    def _close(self, line: int) -> None:
        closed = self._stack.pop()
        if closed.merges and isinstance(closed.value, dict):
            self._merge(closed, closed.value)
        self._lines[id(closed.value)] = closed.lines
        if closed.anchor is not None:
            self._anchors[closed.anchor] = (closed.value, closed.size)
        self._add(closed.value, closed.size, line)

    def _add(self, value: Any, size: int, line: int) -> None:
        if not self._stack:
            self._root = value
            return
        top = self._stack[-1]
        top.size += size
        if isinstance(top.value, list):
            # a block mapping of a list starts where its first key is
            own = self._lines.get(id(value))
            top.value.append(value)
            top.lines.append(min(own[0], line) if own and isinstance(value, dict | list) else line)
            return
        if top.key is None:
            raise YamlError("a key of a mapping must be a text", line)
        if top.merges and top.key == "<<" and top.merges[-1][1] is None:
            top.merges[-1] = (top.key_line, value)
        else:
            if top.key not in top.value:
                top.lines.append(top.key_line)
            top.value[top.key] = value
        top.key = None

    def _merge(self, closed: _Open, into: dict[str, Any]) -> None:
        """Apply the merge keys (``<<: *defaults``): what the mapping has itself wins, then the first merged."""
        for line, merged in closed.merges:
            for source in merged if isinstance(merged, list) else [merged]:
                if not isinstance(source, dict):
                    raise YamlError("a merge key (<<) needs a mapping", line)
                for key, value in source.items():
                    if key not in into:
                        into[key] = value
                        closed.lines.append(line)


def _integer(text: str) -> int:
    """Decimal, 0x, 0b, and octal as YAML 1.1 (017) and 1.2 (0o17) write it."""
    digits = text.lstrip("+-")
    sign = -1 if text.startswith("-") else 1
    if len(digits) > 64:
        raise ValueError("too long")
    if digits.startswith("0") and digits.isdigit():
        return sign * int(digits, 8)
    return sign * int(digits, 0)
