"""Manifests: YAML and JSON files, their lists, their mistakes and the lines of the mistakes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spliceway.errors import ManifestError
from spliceway.model import EndpointSlice, Kind, ObjectKey, Service
from spliceway.source import jsonitems
from spliceway.source.manifest import Manifest, read_manifest

SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: shop
spec:
  clusterIP: 127.64.0.10
  ports:
    - name: http
      port: 80
    - name: admin
      port: 81
"""
SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: shop-1
  labels:
    kubernetes.io/service-name: shop
addressType: IPv4
ports:
  - name: http
    port: 8080
endpoints:
  - addresses: [127.0.0.11]
  - addresses: [127.0.0.12]
"""


def read(folder: Path, text: str, name: str = "a.yaml") -> Manifest:
    path = folder / name
    path.write_text(text)
    return read_manifest(path)


def failure(folder: Path, data: str | bytes, name: str = "a.yaml") -> str:
    """The message of a file that cannot be read, from its line on."""
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:")
    return str(caught.value).removeprefix(f"{path}:")


def problems(manifest: Manifest) -> list[str]:
    return [str(problem).removeprefix(f"{manifest.path}:") for problem in manifest.problems]


def kubernetes_list(services: int) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    for n in range(services):
        port = {"name": "http", "port": 80, "protocol": "TCP"}
        note = {"note": 'brackets }]{[ and "quotes" \\ in a text\n        }'}
        metadata = {"annotations": note, "name": f"s{n}", "namespace": "default"}
        spec = {"clusterIP": f"10.{n // 250}.{n % 250}.1", "ports": [port]}
        items.append({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    return {"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}}


def test_several_documents(tmp_path: Path) -> None:
    """Lost: the ordinary way to write a Service and its endpoints into one file."""
    manifest = read(tmp_path, f"---\n# shop\n{SERVICE}---\n---\n{SLICE}---\n")
    assert [type(made) for made in manifest.objects] == [Service, EndpointSlice]
    assert manifest.lines == (3, 16)
    assert manifest.problems == ()


@pytest.mark.parametrize("text", ["", "\n", "---\n---\n", "# only a comment\n", "\ufeff"])
def test_empty_file(tmp_path: Path, text: str) -> None:
    """Lost: a file whose content was commented out would be an error."""
    manifest = read(tmp_path, text)
    assert manifest.objects == ()
    assert manifest.problems == ()


def test_problem_has_the_line_of_the_field(tmp_path: Path) -> None:
    """Lost: the user would count list entries to find the mistake."""
    manifest = read(tmp_path, SERVICE.replace("port: 81", "port: 0") + "---\n" + SLICE.replace("127.0.0.12", "nowhere"))
    assert len(manifest.objects) == 2
    said = problems(manifest)
    assert said[0].startswith("11: Service default/shop: spec.ports[1].port: 0 is not a port number")
    assert said[1].startswith(
        "25: EndpointSlice default/shop-1: endpoints[1].addresses[0]: 'nowhere' is not the address"
    )


def test_unusable_object_spoils_only_itself(tmp_path: Path) -> None:
    """Lost: one broken Service would take the others of the file with it."""
    manifest = read(tmp_path, SERVICE.replace("spec:", "spec: {}\nspare:") + "---\n" + SLICE + "---\n- a\n")
    assert [type(made) for made in manifest.objects] == [Service, EndpointSlice]
    manifest = read(tmp_path, SERVICE.replace("spec:", "specs:") + "---\n" + SLICE + "---\njust text\n")
    assert [type(made) for made in manifest.objects] == [EndpointSlice]
    assert manifest.rejected == ((Kind.SERVICE, ObjectKey("default", "shop")),)
    assert problems(manifest) == [
        "1: Service default/shop: spec: is missing",
        "27: expected a Kubernetes object, which is a mapping with kind and metadata",
    ]


def test_duplicate_key(tmp_path: Path) -> None:
    """Lost: of `port: 80` and `port: 90` in one entry, one would win silently."""
    manifest = read(tmp_path, SERVICE.replace("port: 81", "port: 81\n      port: 82") + "---\n" + SLICE)
    assert [type(made) for made in manifest.objects] == [EndpointSlice]
    assert problems(manifest) == ["12: Service default/shop: key 'port' is written twice; the object is not used"]
    assert manifest.rejected == ((Kind.SERVICE, ObjectKey("default", "shop")),)


def test_object_defined_twice(tmp_path: Path) -> None:
    """Lost: which of two definitions serves would depend on luck."""
    manifest = read(tmp_path, SERVICE + "---\n" + SERVICE.replace("80", "90"))
    assert len(manifest.objects) == 1
    assert problems(manifest) == [
        "13: Service default/shop: is defined already at line 1 of this file; the first one is used"
    ]


def test_other_kinds_are_named_and_left_alone(tmp_path: Path) -> None:
    """Lost: a folder with Deployments could not be used."""
    other = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop}\n"
    manifest = read(tmp_path, f"{other}---\n{SERVICE}")
    assert len(manifest.objects) == 1
    assert manifest.ignored == ("Deployment default/shop",)
    assert problems(manifest) == ["1: Deployment default/shop: kind apps/v1 Deployment is not read; left alone"]
    assert all(problem.warning for problem in manifest.problems)
    assert manifest.rejected == ()


@pytest.mark.parametrize("indent", [None, 1, 4, "\t"])
@pytest.mark.parametrize("chunk", [64, 1 << 20])
def test_json_list(tmp_path: Path, indent: Any, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: what kubectl prints could not be read, or only if printed in one way."""
    monkeypatch.setattr(jsonitems, "_CHUNK", chunk)
    manifest = read(tmp_path, json.dumps(kubernetes_list(30), indent=indent), "a.json")
    assert [made.key.name for made in manifest.objects] == [f"s{n}" for n in range(30)]
    assert manifest.problems == ()
    text = (tmp_path / "a.json").read_text().split("\n")
    if indent:
        assert all(text[line - 1].strip() == "{" for line in manifest.lines)


@pytest.mark.parametrize("kind_first", [True, False])
def test_json_list_of_one_kind(tmp_path: Path, kind_first: bool) -> None:
    """Lost: `kubectl get --raw` output, whose items do not say what they are."""
    items = kubernetes_list(3)["items"]
    for item in items:
        del item["kind"], item["apiVersion"]
    header: dict[str, Any] = {"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "5"}}
    value = {**header, "items": items} if kind_first else {"items": items, **header}
    assert len(read(tmp_path, json.dumps(value), "a.json").objects) == 3


def test_yaml_list(tmp_path: Path) -> None:
    """Lost: `kubectl get -o yaml` output."""

    def indented(text: str) -> str:
        return "  - " + text.replace("\n", "\n    ").rstrip() + "\n"

    text = "apiVersion: v1\nkind: List\nitems:\n" + indented(SERVICE.replace("81", "0")) + indented(SLICE)
    manifest = read(tmp_path, text)
    assert len(manifest.objects) == 2
    assert manifest.lines == (4, 15)
    assert [problem.line for problem in manifest.problems] == [14]


def test_list_of_a_kind_that_is_not_read(tmp_path: Path) -> None:
    """Lost: a list of Pods would be a hundred errors instead of one warning."""
    value = {"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": f"p{n}"}} for n in range(100)]}
    for name in ("a.json", "a.yaml"):
        manifest = read(tmp_path, json.dumps(value), name)
        assert [problem.warning for problem in manifest.problems] == [True]
        assert "PodList is not read" in manifest.problems[0].message


def test_json_problem_has_the_line_of_the_field(tmp_path: Path) -> None:
    """Lost: the line of a mistake in a JSON file of 100,000 lines."""
    value = kubernetes_list(3)
    value["items"][1]["spec"]["ports"][0]["port"] = 70000
    text = json.dumps(value, indent=4)
    manifest = read(tmp_path, text, "a.json")
    line = next(n for n, line in enumerate(text.split("\n"), 1) if "70000" in line)
    assert [problem.line for problem in manifest.problems] == [line]


def test_json_by_content(tmp_path: Path) -> None:
    """Lost: JSON in a file called .yaml would be read very slowly, and YAML that begins with a brace not at all."""
    assert len(read(tmp_path, json.dumps(kubernetes_list(2), indent=4)).objects) == 2
    flow = "{apiVersion: v1, kind: Service, metadata: {name: shop}, spec: {ports: [{port: 80}]}}\n"
    assert len(read(tmp_path, flow).objects) == 1
    assert len(read(tmp_path, json.dumps(kubernetes_list(1)) + "\n---\n" + SLICE).objects) == 2


def test_json_documents_one_after_another(tmp_path: Path) -> None:
    """Lost: the output of two kubectl calls in one file."""
    first, second = kubernetes_list(2)["items"]
    assert len(read(tmp_path, json.dumps(first) + "\n" + json.dumps(second), "a.json").objects) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\nb: 2\n", "2: not valid YAML: "),
        ("a: b\n  c: d\n", "2: not valid YAML: mapping values are not allowed"),
        ("a: 'x\n", ": not valid YAML: "),
        ("a: *b\n", "1: not valid YAML: alias *b has no anchor"),
        ("a: &a [*a]\n", "1: alias *a stands inside of what it names"),
        ("\n? [a]\n: b\n", "2: a key of a mapping must be a text"),
        ("[" * 1000, "1: nested more than 64 levels deep"),
        ("- " * 1000, "1: nested more than 64 levels deep"),
        ("{a: " * 1000, "1: nested more than 64 levels deep"),
        ("a: b\n\x07", "2: not valid YAML: "),
        ("%FOO\n", "not valid YAML: "),
    ],
)
def test_malformed_yaml(tmp_path: Path, text: str, said: str) -> None:
    """Lost: a crash (deep nesting kills PyYAML's own composer) or a message without a line."""
    assert said in failure(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n"a": 1,\n}', "3: not valid JSON: expected a text in double quotes"),
        ('{\n"a" 1}', "2: not valid JSON: expected ':'"),
        ('{"a":\n', "2: not valid JSON"),
        ('{"kind":"List","items":[\n{"kind":"Service",\n"x": tru}\n]}', "3: not valid JSON: invalid character"),
        ('{"kind":"List","items":[\n{"kind":"Service"', "2: not valid JSON: the file ends in the middle"),
        ('{"kind":"List","items":[\n{},\n7]}', "3: not valid JSON: expected an item of the list"),
        ('{"kind":"List","items":[{}\n{}]}', "2: not valid JSON: expected ','"),
        ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "1: not valid JSON: nested too deeply"),
        ("[]", "1: not valid JSON: expected '{'"),
        ('{"a": 1} x', "1: not valid JSON: expected '{'"),
        ('{"a": nope!}', "1: not valid JSON"),
    ],
)
def test_malformed_json(tmp_path: Path, text: str, said: str) -> None:
    """Lost: a crash, or a message without a line."""
    assert failure(tmp_path, text, "a.json").startswith(said)


def test_aliases_and_merge_keys(tmp_path: Path) -> None:
    """Lost: manifests that repeat a block by an alias, as many do."""
    text = SLICE.replace("- addresses: [127.0.0.11]", "- &one {addresses: [127.0.0.11], nodeName: n}").replace(
        "- addresses: [127.0.0.12]", "- {<<: *one, addresses: [127.0.0.12]}\n  - *one"
    )
    (made,) = read(tmp_path, text).objects
    assert isinstance(made, EndpointSlice)
    assert [(one.address, one.node) for one in made.endpoints] == [
        ("127.0.0.11", "n"),
        ("127.0.0.12", "n"),
        ("127.0.0.11", "n"),
    ]


def test_alias_bomb(tmp_path: Path) -> None:
    """Lost: a file of 300 bytes would fill the memory."""
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for n in range(1, 10):
        text += f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 9) + "]\n"
    assert "aliases expand to more than" in failure(tmp_path, text)


def test_yaml_scalars_are_what_json_would_say(tmp_path: Path) -> None:
    """Lost: an IPv6 address of decimal groups would be a base-60 number, a time no text."""
    text = (
        SLICE.replace("IPv4", "IPv6").replace("127.0.0.11", "2001:10:20:30:40:50:1:2").replace("127.0.0.12", "fd00::1")
    )
    text = text.replace("  name: shop-1", "  name: shop-1\n  creationTimestamp: 2026-01-01T00:00:00Z")
    manifest = read(tmp_path, text.replace("8080", "0x1F90"))
    assert manifest.problems == ()
    (made,) = manifest.objects
    assert isinstance(made, EndpointSlice)
    assert made.endpoints[0].address == "2001:10:20:30:40:50:1:2"
    assert made.ports[0].port == 8080


def test_not_text(tmp_path: Path) -> None:
    """Lost: a traceback for a file in another encoding."""
    assert failure(tmp_path, SERVICE.replace("shop", "sh\u00f6p").encode("latin-1")).startswith("4: is not UTF-8 text")


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Lost: a traceback for a wrong path; a FIFO would block for ever."""
    for path, said in (
        (tmp_path / "no.yaml", "cannot be read: no such file"),
        (tmp_path, "cannot be read: is a directory"),
    ):
        with pytest.raises(ManifestError, match=said):
            read_manifest(path)
    with pytest.raises(ManifestError, match="not a regular file"):
        read_manifest(Path(os.devnull))


@pytest.mark.timeout(30)
def test_what_is_no_regular_file(tmp_path: Path) -> None:
    """Lost: `check` would wait for a FIFO's writer, and a socket's message be a riddle."""
    os.mkfifo(tmp_path / "fifo.yaml")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.yaml"))
        for name in ("fifo.yaml", "socket.yaml"):
            with pytest.raises(ManifestError, match=r"\.yaml: cannot be read: it is not a regular file"):
                read_manifest(tmp_path / name)


@pytest.mark.timeout(30)
def test_file_that_becomes_a_fifo_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: a thread would hang for ever when the file is replaced between the look at it and its opening."""
    path = tmp_path / "a.yaml"
    os.mkfifo(path)
    (tmp_path / "file").touch()
    status = (tmp_path / "file").stat()

    def outdated(_: Path) -> os.stat_result:
        return status

    monkeypatch.setattr(Path, "stat", outdated)
    with pytest.raises(ManifestError, match="not a regular file"):
        read_manifest(path)


def test_objects_of_which_something_is_left_out(tmp_path: Path) -> None:
    """Lost: the file source could not keep the good version of what was edited badly."""
    text = SERVICE + "---\n" + SLICE
    assert read(tmp_path, text).sound
    manifest = read(tmp_path, text.replace("127.0.0.12", "nowhere"))
    assert manifest.salvaged == ((Kind.ENDPOINT_SLICE, ObjectKey("default", "shop-1")),)
    assert not manifest.sound
    manifest = read(tmp_path, text + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: a}\n")
    assert manifest.sound, "a warning is no error"


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_misspelt_item_of_a_list_is_an_error(tmp_path: Path, name: str) -> None:
    """Lost: the Service would vanish with a warning among many."""
    value = kubernetes_list(2)
    value["items"][1]["kind"] = "Servce"
    manifest = read(tmp_path, json.dumps(value), name)
    assert len(manifest.objects) == 1
    assert [problem.warning for problem in manifest.problems] == [False]
    value["kind"] = "Lst"
    assert not read(tmp_path, json.dumps(value), name).sound


def test_too_large(tmp_path: Path) -> None:
    """Lost: a wrong path (a disk image) would fill the memory."""
    for name, size, said in (("a.yaml", 65 << 20, "too large for YAML"), ("a.json", 513 << 20, "larger than 512 MiB")):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
        with pytest.raises(ManifestError, match=said):
            read_manifest(tmp_path / name)


def test_memory_of_a_large_list(tmp_path: Path) -> None:
    """Lost: the agent's memory limit: the file itself must never be in memory."""
    value = kubernetes_list(2000)
    for item in value["items"]:
        item["metadata"]["annotations"]["last-applied"] = "x" * 20_000
    (tmp_path / "a.json").write_text(json.dumps(value, indent=4))
    assert (tmp_path / "a.json").stat().st_size > 40_000_000
    code = (
        "import sys; from pathlib import Path; from spliceway.source.manifest import read_manifest\n"
        "peak = lambda: next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM'))\n"
        "before = peak(); n = len(read_manifest(Path(sys.argv[1])).objects); print(n, peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.json")], capture_output=True, text=True, check=True
    )
    count, grown = map(int, done.stdout.split())
    assert count == 2000
    assert grown < 16_000
