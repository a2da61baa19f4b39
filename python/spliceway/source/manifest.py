"""Manifests: files of Kubernetes objects in YAML or JSON become objects and problems, each with its line. Blocking.

`read_manifest` is what ``spliceway check``, the demo and the file source use. A file that is not YAML or JSON at all is
a `ManifestError`; in a file that is, one bad object spoils only itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from spliceway.errors import ManifestError
from spliceway.model import Kind, KubernetesObject, ObjectKey, Problem
from spliceway.source.decode import Decoded, decode_json, decode_value
from spliceway.source.jsonitems import Item, JsonError, ListEnd, read_json
from spliceway.source.salvage import Path as FieldPath
from spliceway.source.yamltext import Document, YamlError, read_documents

#: bytes of a JSON file; it is read in pieces
MAX_JSON = 512 << 20
#: bytes of a YAML file; YAML is read thirty times slower than JSON, and as a whole
MAX_YAML = 64 << 20
#: bad JSON objects of a file whose problems get the line of the field; the others get the line of the object
_MAX_LOCATED = 100

_LineOf = Callable[[FieldPath], int | None]
_LIST_KINDS: dict[tuple[Any, Any], Kind | None] = {
    ("v1", "List"): None,
    ("v1", "ServiceList"): Kind.SERVICE,
    ("v1", "NodeList"): Kind.NODE,
    ("discovery.k8s.io/v1", "EndpointSliceList"): Kind.ENDPOINT_SLICE,
}


class Manifest(msgspec.Struct, frozen=True):
    """What a file says. ``lines`` has the line of each object; problems are in the order of the file."""

    path: Path
    objects: tuple[KubernetesObject, ...]
    lines: tuple[int, ...]
    problems: tuple[Problem, ...]
    #: objects of kinds that are not read, as ``Deployment default/shop``; each has a warning in ``problems``
    ignored: tuple[str, ...]
    #: objects of which nothing can be used, so far as they can be named
    rejected: tuple[tuple[Kind, ObjectKey], ...]
    #: those of ``objects`` of which something bad was left out
    salvaged: tuple[tuple[Kind, ObjectKey], ...]

    @property
    def sound(self) -> bool:
        """Nothing is wrong with it: what is not in it is not meant to exist."""
        return all(problem.warning for problem in self.problems)


def read_manifest(path: Path) -> Manifest:
    """Read one file. Blocks: seconds for tens of thousands of objects, or for megabytes of YAML.

    Raises `ManifestError` (``file:line: what is wrong``) when the file cannot be read, is not UTF-8, not YAML or JSON,
    or too big.
    """
    manifest = try_manifest(path)
    if isinstance(manifest, Problem):
        raise ManifestError(str(manifest))
    return manifest


def try_manifest(path: Path) -> Manifest | Problem:
    """Do as `read_manifest`, but return what is wrong with the file as a whole instead of raising it.

    A problem without a line is not one of the text: the file could not be read, which may pass.
    """
    reader = _Reader(path)
    try:
        _check_regular(path.stat())  # before opening: that would start a device, or wait for a FIFO's writer
        with open(path, "rb", opener=_open_at_once) as file:
            reader.read(file)
    except OSError as error:
        reason = error.strerror or str(error)
        return reader.broken(f"cannot be read: {reason[:1].lower()}{reason[1:]}")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return reader.broken("is not UTF-8 text: save it as UTF-8", line)
    except (JsonError, YamlError) as error:
        return reader.broken(error.message, error.line)
    return reader.manifest()


class _Reader:
    """Collects what one file says."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._origin = str(path)
        self._reset()

    def _reset(self) -> None:
        self._objects: list[KubernetesObject] = []
        self._lines: list[int] = []
        self._problems: list[Problem] = []
        self._ignored: list[str] = []
        self._rejected: list[tuple[Kind, ObjectKey]] = []
        self._salvaged: list[tuple[Kind, ObjectKey]] = []
        self._seen: dict[tuple[Kind, ObjectKey], int] = {}
        self._located = 0

    def broken(self, message: str, line: int | None = None) -> Problem:
        """Return the problem of the whole file."""
        return Problem(subject="", message=message, origin=self._origin, line=line)

    def manifest(self) -> Manifest:
        """Return everything that was read."""
        return Manifest(
            self._path,
            tuple(self._objects),
            tuple(self._lines),
            tuple(self._problems),
            tuple(self._ignored),
            tuple(self._rejected),
            tuple(self._salvaged),
        )

    def read(self, file: BinaryIO) -> None:
        """Read the file. Raises `OSError`, `UnicodeDecodeError`, `JsonError` and `YamlError`."""
        status = os.fstat(file.fileno())
        _check_regular(status)
        if status.st_size > MAX_JSON:
            raise OSError(0, f"it is larger than {MAX_JSON >> 20} MiB; split it")
        named_json = self._path.suffix == ".json"
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        if named_json or head.startswith(b"{"):
            try:
                self._read_json(file)
            except JsonError:
                if named_json:
                    raise
                self._reset()  # YAML may begin with a brace, too
                file.seek(0)
            else:
                return
        if status.st_size > MAX_YAML:
            raise OSError(0, f"it is larger than {MAX_YAML >> 20} MiB, too large for YAML; write it as JSON")
        self._read_yaml(file.read(MAX_YAML + 1).decode("utf-8-sig"))

    def _read_json(self, file: BinaryIO) -> None:
        kindless: list[Item[Decoded]] = []  # a list may say its kind after its items
        for found in read_json(file, _decode_item):
            if isinstance(found, ListEnd):
                self._end_json_list(found, kindless)
                kindless.clear()
            elif found.listed and found.decoded.kind is None and not found.decoded.ignored:
                kindless.append(found)
            else:
                self._add(found.decoded, found.line, self._json_lines(found))

    def _end_json_list(self, end: ListEnd, kindless: list[Item[Decoded]]) -> None:
        name = (end.api_version, end.kind)
        if name not in _LIST_KINDS:
            self._add(decode_value({"apiVersion": end.api_version or None, "kind": end.kind or None}), end.line)
            return
        for item in kindless:
            self._add(decode_json(item.data, _LIST_KINDS[name], manifest=True), item.line, self._json_lines(item))

    def _json_lines(self, item: Item[Decoded]) -> _LineOf | None:
        """Return what finds the lines of an object's fields: JSON is YAML, and the YAML reader knows lines."""
        if not item.decoded.faults or self._located >= _MAX_LOCATED:
            return None
        self._located += 1
        try:
            document = next(read_documents(item.data.decode()))
        except YamlError:  # JSON with tabs is not YAML
            return None
        return lambda path: item.line - 1 + document.line_of(path)

    def _read_yaml(self, text: str) -> None:
        for document in read_documents(text):
            value = document.value
            if value is None:
                continue
            if not isinstance(value, dict) or not isinstance(value.get("items"), list):
                self._add_yaml(document, value, (), None, document.line, None)
                continue
            name = (value.get("apiVersion"), value.get("kind"))
            if name not in _LIST_KINDS:
                self._add_yaml(document, value, (), None, document.line, None)
                continue
            lines = document.lines[id(value["items"])]
            for index, item in enumerate(value["items"]):
                after = lines[index + 1] if index + 1 < len(lines) else None
                self._add_yaml(document, item, ("items", index), _LIST_KINDS[name], lines[index], after)

    def _add_yaml(
        self, document: Document, value: Any, start: FieldPath, kind: Kind | None, line: int, after: int | None
    ) -> None:
        """Add an object of a document that occupies the lines from ``line`` to before ``after``."""
        decoded = decode_value(value, kind, manifest=True)
        if not decoded.ignored:
            for twice, key in document.duplicates:
                if line <= twice and (after is None or twice < after):
                    message = f"key {key[:64]!r} is written twice; the object is not used"
                    self._problems.append(Problem(decoded.subject, message, self._origin, twice))
                    decoded = msgspec.structs.replace(decoded, object=None)
        self._add(decoded, line, lambda path: document.line_of(path, start))

    def _add(self, decoded: Decoded, line: int, line_of: _LineOf | None = None) -> None:
        """Take a decoded object, its problems, or both."""
        if decoded.faults:
            self._problems.extend(decoded.problems(self._origin, line_of or (lambda _: line)))
        if decoded.ignored:
            self._ignored.append(decoded.subject)
            return
        if decoded.kind is None or decoded.key is None:
            return
        name = (decoded.kind, decoded.key)
        if decoded.object is None:
            self._rejected.append(name)
        elif name in self._seen:
            message = f"is defined already at line {self._seen[name]} of this file; the first one is used"
            self._problems.append(Problem(decoded.subject, message, self._origin, line))
        else:
            self._seen[name] = line
            self._objects.append(decoded.object)
            self._lines.append(line)
            if not all(fault.warning for fault in decoded.faults):
                self._salvaged.append(name)


def _check_regular(status: os.stat_result) -> None:
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # opening a folder says that it is one
        raise OSError(0, "it is not a regular file")


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for anybody, if the file was replaced by a FIFO just now."""
    return os.open(path, flags | os.O_NONBLOCK)


def _decode_item(data: bytes) -> Decoded | None:
    decoded = decode_json(data, manifest=True)
    return None if decoded.malformed else decoded
