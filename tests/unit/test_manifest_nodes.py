"""Nodes in manifests: the one that is ours is used, the others are left alone. And bad edits of the newer fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spliceway.model import Kind, Node, ObjectKey
from spliceway.settings import NodeSettings, SourceSettings
from spliceway.source import open_source
from spliceway.source.file import FileSource
from spliceway.source.manifest import read_manifest
from support.decoding import node, service
from support.fold import Fold, folded

WORKERS = ("worker-1", "worker-2")


def node_list(kind: str, *, with_kind: bool) -> dict[str, Any]:
    items = [node({"podCIDR": "10.244.1.0/24"}, name=name) for name in WORKERS]
    if not with_kind:
        items = [
            {field: value for field, value in item.items() if field not in ("kind", "apiVersion")} for item in items
        ]
    return {"apiVersion": "v1", "kind": kind, "items": items}


@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
@pytest.mark.parametrize(("kind", "with_kind"), [("List", True), ("NodeList", False)])
def test_lists_of_nodes(tmp_path: Path, name: str, kind: str, with_kind: bool) -> None:
    """Lost: what ``kubectl get nodes`` writes would be an error, or not be read."""
    path = tmp_path / name
    path.write_text(json.dumps(node_list(kind, with_kind=with_kind), indent=None if name == "a.yaml" else 4))
    manifest = read_manifest(path)
    assert manifest.problems == ()
    assert [type(made) for made in manifest.objects] == [Node, Node]
    assert [made.key for made in manifest.objects] == [ObjectKey("", worker) for worker in WORKERS]


def nodes(fold: Fold) -> set[str]:
    return {key.name for _, kind, key in fold.objects if kind is Kind.NODE}


@pytest.mark.parametrize(("ours", "told"), [("worker-1", {"worker-1"}), ("worker-9", set()), (None, set())])
async def test_only_our_node_is_told(tmp_path: Path, ours: str | None, told: set[str]) -> None:
    """Lost: the agent would take another node's addresses and zone for its own."""
    (tmp_path / "a.json").write_text(json.dumps(node_list("List", with_kind=True)))
    (tmp_path / "b.json").write_text(json.dumps(service()))
    source = open_source(SourceSettings(manifests=(tmp_path,)), NodeSettings(name=ours))
    async with folded(source) as fold:
        assert nodes(fold) == told
        assert fold.said() == []
        assert fold.names() == told | {"shop"}


async def test_broken_edit_of_our_node_keeps_it(tmp_path: Path) -> None:
    """Lost: the node's addresses, for a typing mistake, and with them its NodePorts."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(node(addresses=[{"type": "InternalIP", "address": "192.0.2.7"}])))
    async with folded(FileSource([path], "worker-1")) as fold:
        good = dict(fold.objects)
        assert nodes(fold) == {"worker-1"}
        path.write_text(json.dumps(node(addresses=[{"type": "InternalIP", "address": "192.0.2.x"}])))
        await fold.until(lambda: bool(fold.said()))
        assert fold.objects == good
        said = "Node worker-1: status.addresses[0].address: '192.0.2.x' is not the address of a node"
        assert fold.said() == [f"{path}:1: {said}; keeping its last good version"]
        path.write_text(json.dumps(node(name="worker-2")))
        await fold.until(lambda: nodes(fold) == set() and not fold.said())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"externalTrafficPolicy": "local"}, "spec.externalTrafficPolicy: 'local' is none of Cluster, Local"),
        ({"externalIPs": ["nowhere"]}, "spec.externalIPs[0]: 'nowhere' is not an IP address"),
        ({"loadBalancerSourceRanges": ["10.0.0.0"]}, "spec.loadBalancerSourceRanges[0]: '10.0.0.0' is not a CIDR"),
        ({"healthCheckNodePort": 99999}, "spec.healthCheckNodePort: 99999 is not a port number (1 to 65535)"),
        ({"healthCheckNodePort": "x"}, "spec.healthCheckNodePort: expected a whole number, got a text"),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not 1 to 86400",
        ),
    ],
)
async def test_broken_edit_of_a_service_keeps_what_was_good(tmp_path: Path, spec: dict[str, Any], said: str) -> None:
    """Lost: a mistyped policy or range would change who gets in, at once and to something that nobody wrote."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(service({"externalTrafficPolicy": "Local"})))
    async with folded(FileSource([path])) as fold:
        good = dict(fold.objects)
        path.write_text(json.dumps(service({"externalTrafficPolicy": "Local", **spec})))
        await fold.until(lambda: bool(fold.said()))
        assert fold.objects == good
        assert fold.said()[0] == f"{path}:1: Service default/shop: {said}; keeping its last good version"
