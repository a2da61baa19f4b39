"""Manifest readers on arbitrary text: what they cannot read is one clear error, what they can read is read whole."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spliceway.model import Problem
from spliceway.source import jsonitems
from spliceway.source.jsonitems import Item, JsonError, ListEnd, read_json
from spliceway.source.manifest import Manifest, try_manifest
from spliceway.source.yamltext import YamlError, read_documents

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=8)
    | st.sampled_from(["}", "\n  }", '"', "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
json_objects = st.dictionaries(st.text(max_size=5), json_values, max_size=4)
layouts = st.sampled_from([None, 0, 1, 4, "\t"])
chunks = st.sampled_from([1, 7, 64, 1 << 20])
#: pieces of YAML in any order: nearly sound, which is where readers fail
yaml_texts = st.lists(
    st.sampled_from(
        [
            "a",
            "b: 1",
            "- ",
            "  ",
            "\n",
            ": ",
            "? ",
            "[",
            "]",
            "{",
            "}",
            ",",
            "&x ",
            "*x",
            "<<: ",
            "!!int ",
            "!t ",
            "|\n",
            ">-\n",
        ]
    )
    | st.sampled_from(
        ["'", '"', "#", "---\n", "...\n", "%YAML 1.1\n", "\t", "0x", "0o8", "09", "1_0", "1:30", ".inf", "-.nan", "~"]
    )
    | st.sampled_from(
        ["yes", "2001-01-01", "apiVersion: v1\n", "kind: Service\n", "metadata: {name: x}\n", "items:\n", "\x00"]
    )
    | st.text(max_size=3),
    max_size=25,
).map("".join)


def loads(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


@settings(deadline=None)
@given(st.lists(json_objects, max_size=6), layouts, chunks, st.booleans())
def test_items_of_a_list_in_any_layout(items: list[Any], indent: Any, chunk: int, kind_first: bool) -> None:
    """Lost: objects of a list, because of how somebody's tool prints JSON."""
    kind = {"kind": "List", "apiVersion": "v1"}
    value = {**kind, "items": items} if kind_first else {"items": items, **kind}
    text = json.dumps(value, indent=indent)
    with mock.patch.object(jsonitems, "_CHUNK", chunk):
        found = list(read_json(io.BytesIO(text.encode()), loads))
    assert found[-1] == ListEnd("List", "v1", 1)
    read = [one for one in found if isinstance(one, Item)]
    assert [one.decoded for one in read] == items
    lines = text.split("\n")
    assert all("{" in lines[one.line - 1] for one in read)


@settings(deadline=None)
@given(st.lists(json_objects, max_size=3), layouts, chunks)
def test_documents_one_after_another(values: list[Any], indent: Any, chunk: int) -> None:
    """Lost: the second document of a file."""
    values = [{"x": value} for value in values]  # a key `items` would make a list of it
    text = "\n".join(json.dumps(value, indent=indent) for value in values)
    with mock.patch.object(jsonitems, "_CHUNK", chunk):
        found = list(read_json(io.BytesIO(text.encode()), loads))
    assert [one.decoded for one in found if isinstance(one, Item)] == values


@settings(deadline=None)
@given(json_objects, st.data(), chunks)
def test_damaged_json_is_one_error(value: Any, data: st.DataObject, chunk: int) -> None:
    """Lost: a traceback, or an endless loop, for a file that was cut or damaged."""
    text = json.dumps({"items": [value, value]}, indent=2).encode()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    damaged = text[:start] + data.draw(st.binary(max_size=3)) + text[end:]
    line = 0
    with mock.patch.object(jsonitems, "_CHUNK", chunk):
        try:
            found = list(read_json(io.BytesIO(damaged), loads))
        except JsonError as error:
            line, found = error.line, []
    assert line <= damaged.count(b"\n") + 1
    assert all(isinstance(one, Item | ListEnd) for one in found)


@settings(deadline=None)
@given(yaml_texts)
def test_any_text_as_yaml(text: str) -> None:
    """Lost: a traceback for a typing mistake."""
    try:
        lines = [document.line for document in read_documents(text)]
    except YamlError as error:
        lines = [error.line]
    assert all(1 <= line <= text.count("\n") + 2 for line in lines)


@settings(deadline=None)
@given(json_objects)
def test_yaml_reads_what_it_writes(value: Any) -> None:
    """Lost: a value that changes its type or text on its way through YAML."""
    text = yaml.safe_dump(value)
    (document,) = read_documents(text)
    assert document.value == value


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60) | yaml_texts.map(lambda text: text.encode(errors="replace")),
    st.sampled_from(["a.json", "a.yaml"]),
)
def test_any_file_is_a_manifest_or_a_problem(tmp_path: Path, data: bytes, name: str) -> None:
    """Lost: `spliceway check` would end in a traceback on somebody's file."""
    (tmp_path / name).write_bytes(data)
    found = try_manifest(tmp_path / name)
    if isinstance(found, Problem):
        assert found.origin == str(tmp_path / name)
        assert found.message
    else:
        assert isinstance(found, Manifest)
        assert len(found.objects) == len(found.lines)
