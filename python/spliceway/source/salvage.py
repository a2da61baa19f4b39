"""Decoding piece by piece an object that does not decode as a whole, so that only the bad pieces are lost. Pure.

The fast path decodes a whole object at once. When that fails, the parts of which an object may have many (ports,
endpoints, annotations) and the fields that it can do without are converted one by one here: the bad ones become
faults, the good ones keep their index.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NamedTuple, TypeVar

import msgspec

Path = tuple[str | int, ...]
_Part = TypeVar("_Part")

_LOCATED = re.compile(r"(?P<text>.*?)(?: - at (?:`key` in )?`\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_MISSING = re.compile(r"Object missing required field `(.+)`")
_TYPE_NAME = re.compile(r"`(\w+(?: \| \w+)*)`")
_LOSS = re.compile(r"; [^;]* is (?:left out|not used|used)\Z")
_WORDS = {
    "int": "a whole number",
    "float": "a number with a fraction",
    "str": "a text",
    "bool": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "nothing",
}


class Fault(NamedTuple):
    """Something is wrong in an object: where (keys and indices from its root), and one clear sentence without it.

    The sentence may end with what comes of it, as in ``; this port is left out``: see `mistake`.
    """

    path: Path
    message: str
    warning: bool = False


class UnusableError(Exception):
    """Nothing of an object can be used, because of ``fault``."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def mistake(message: str) -> str:
    """Return what is wrong without what comes of it: nothing does, when the last good version is kept."""
    return _LOSS.sub("", message)


def path_text(path: Path) -> str:
    """Return a path as Kubernetes writes it: ``spec.ports[0].port``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def fault_of(error: msgspec.ValidationError, prefix: Path = ()) -> Fault:
    """Translate msgspec's message, which ends with ``- at `$.path```, into a fault below ``prefix``."""
    match = _LOCATED.fullmatch(str(error))
    text, where = (match["text"], match["path"] or "") if match else (str(error), "")
    path = prefix + tuple(int(index) if index else name for name, index in _STEP.findall(where))
    missing = _MISSING.fullmatch(text)
    if missing:
        return Fault((*path, missing[1]), "is missing")
    return Fault(path, _TYPE_NAME.sub(_in_words, text[:1].lower() + text[1:]))


def _in_words(match: re.Match[str]) -> str:
    names = [name for name in match[1].split(" | ") if name != "null"] or ["null"]
    return " or ".join(_WORDS.get(name, f"`{name}`") for name in names)


def lift(container: dict[str, Any], name: str) -> tuple[dict[str, Any], Any]:
    """Return a copy of ``container`` without ``name``, and what was there (None when nothing was)."""
    rest = dict(container)
    return rest, rest.pop(name, None)


def mapping_of(value: dict[Any, Any], name: str) -> dict[str, Any]:
    """Return the mapping ``name`` of an object. Raises `UnusableError`."""
    found = value.get(name)
    if not isinstance(found, dict):
        raise UnusableError(Fault((name,), "is missing" if found is None else "expected a mapping"))
    return found


def optional_mapping_of(value: dict[str, Any], path: Path, faults: list[Fault]) -> dict[str, Any]:
    """Return the mapping at the end of ``path`` of what holds it; an empty one, and a fault, when it is none."""
    found = value.get(str(path[-1]))
    if isinstance(found, dict):
        return found
    if found is not None:
        faults.append(Fault(path, "expected a mapping; it is left out"))
    return {}


def convert_whole(
    value: dict[str, Any], whole: type[_Part], path: Path, faults: list[Fault], optional: Collection[str] = ()
) -> _Part:
    """Convert what is left of an object without its many parts; see `convert_without`. Raises `UnusableError`."""
    try:
        return convert_without(value, whole, path, faults, optional)
    except msgspec.ValidationError as error:
        raise UnusableError(fault_of(error, path)) from None


def convert_without(
    value: object, wanted: type[_Part], path: Path, faults: list[Fault], optional: Collection[str]
) -> _Part:
    """Convert a value; those of its ``optional`` fields that are bad are left out, with a fault for each.

    Raises `msgspec.ValidationError` when something else is bad.
    """
    while True:
        try:
            return msgspec.convert(value, wanted)
        except msgspec.ValidationError as error:
            fault = fault_of(error, path)
            field = fault.path[len(path)] if len(fault.path) > len(path) else None
            if not (isinstance(value, dict) and field in optional and field in value):
                raise
            faults.append(fault._replace(message=f"{fault.message}; it is left out"))
            value = {name: part for name, part in value.items() if name != field}


def convert_parts(
    parts: object, part_type: type[_Part], path: Path, faults: list[Fault], optional: Collection[str] = ()
) -> list[tuple[int, _Part]]:
    """Convert each entry of a list on its own; return the good ones with their index, add a fault for each bad one.

    An entry can do without its ``optional`` fields.
    """
    if parts is None:
        return []
    if not isinstance(parts, list):
        faults.append(Fault(path, "expected a list; it is left out"))
        return []
    good: list[tuple[int, _Part]] = []
    for index, part in enumerate(parts):
        try:
            good.append((index, convert_without(part, part_type, (*path, index), faults, optional)))
        except msgspec.ValidationError as error:
            fault = fault_of(error, (*path, index))
            faults.append(fault._replace(message=f"{fault.message}; this entry is left out"))
    return good


def convert_texts(mapping: object, prefix: str, path: Path, faults: list[Fault]) -> dict[str, str]:
    """Return the entries of a mapping whose keys begin with ``prefix``; add a fault for each that is not text."""
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        faults.append(Fault(path, "expected a mapping; it is left out"))
        return {}
    texts: dict[str, str] = {}
    for key, text in mapping.items():
        if not (isinstance(key, str) and key.startswith(prefix)):
            continue
        if isinstance(text, str):
            texts[key] = text
        else:
            faults.append(Fault((*path, key), "expected a text (write it in quotes); it is left out"))
    return texts
