"""What of a cluster is asked for: our own Node, and the Services that are meant for this proxy."""

from __future__ import annotations

from pathlib import Path

import pytest

from spliceway.errors import SourceError
from spliceway.model import Kind, Node, ObjectKey
from spliceway.settings import NodeSettings, SourceSettings
from spliceway.source import open_source
from support.fakeapi import NODES, SERVICES, FakeApi, node, service
from support.fold import Fold, folded
from support.watching import same, source_of, versions, watching

OURS = NodeSettings(name="worker-1")
ZONE = {"topology.kubernetes.io/zone": "eu-1a"}


def told_node(fold: Fold) -> Node | None:
    made = fold.objects.get(("api", Kind.NODE, ObjectKey("", "worker-1")))
    assert made is None or isinstance(made, Node)
    return made


async def test_own_node_is_told_and_no_other(api: FakeApi, tmp_path: Path) -> None:
    """Lost: zone, addresses and health of the node; or the memory for five thousand Nodes."""
    api.put(NODES, "worker-1", node("192.0.2.7"), "")
    api.put(NODES, "worker-2", node("192.0.2.8"), "")
    source = source_of(api, tmp_path, OURS)
    assert source.synced_names == ("services", "endpointslices", "nodes")
    async with folded(source) as fold:
        assert fold.names() == {"worker-1"}
        await watching(api, nodes=True)
        api.put(NODES, "worker-2", node("192.0.2.9"), "")
        version = api.put(NODES, "worker-1", node("192.0.2.7"), "", labels=ZONE)
        await fold.until(lambda: versions(fold, Kind.NODE) == {"worker-1": version})
        made = told_node(fold)
        assert made is not None
        assert (made.zone, made.addresses) == ("eu-1a", ("192.0.2.7",))
        api.delete(NODES, "worker-1", "")
        await fold.until(lambda: told_node(fold) is None)
        assert fold.said() == []
    asked = [request.query for request in api.requests if request.path == NODES]
    assert {query["fieldSelector"] for query in asked} == {"metadata.name=worker-1"}
    assert [each.name for each in source.statistics()] == list(source.synced_names)


async def test_w05_node_that_does_not_exist_yet(api: FakeApi, tmp_path: Path) -> None:
    """Lost: an agent that starts before its Node is registered would not hear of it, or never be synced."""
    async with folded(source_of(api, tmp_path, OURS)) as fold:
        assert told_node(fold) is None
        await watching(api, nodes=True)
        api.put(NODES, "worker-1", node("192.0.2.7"), "")
        await fold.until(lambda: told_node(fold) is not None)


async def test_w05_node_is_waited_for_without_limit(api: FakeApi, tmp_path: Path) -> None:
    """Lost: an agent that may not read its Node yet would serve with the wrong policies, or give up."""
    api.put(NODES, "worker-1", node("192.0.2.7"), "")
    api.put(SERVICES, "shop", service())
    api.forbidden.add(NODES)
    async with folded(source_of(api, tmp_path, OURS), wait=False) as fold:
        await fold.until(lambda: fold.synced == {"services", "endpointslices"} and same(fold, api))
        await fold.until(lambda: bool(fold.problems.get("api:nodes")))
        (problem,) = fold.problems["api:nodes"]
        assert not problem.warning
        assert "refuses to list and watch nodes (403 Forbidden" in problem.message
        assert 'the rule {apiGroups: [""], resources: [nodes], verbs: [list, watch]}' in problem.message
        assert "ClusterRole" in problem.message
        api.forbidden.clear()
        await fold.until(lambda: "nodes" in fold.synced and told_node(fold) is not None and not fold.said())


async def test_without_a_node_name_nodes_are_left_alone(api: FakeApi, tmp_path: Path) -> None:
    """Lost: a gateway outside of any node would need the right to read Nodes."""
    api.forbidden.add(NODES)
    source = source_of(api, tmp_path)
    assert source.synced_names == ("services", "endpointslices")
    async with folded(source) as fold:
        await watching(api)
        assert fold.said() == []
    assert not [request for request in api.requests if request.path == NODES]


@pytest.mark.parametrize(
    ("proxy_name", "selector"),
    [
        (None, "!service.kubernetes.io/service-proxy-name"),
        ("spliceway", "service.kubernetes.io/service-proxy-name=spliceway"),
        ("", "service.kubernetes.io/service-proxy-name="),
    ],
)
async def test_s01_services_for_this_proxy(api: FakeApi, tmp_path: Path, proxy_name: str | None, selector: str) -> None:
    """Lost: beside kube-proxy, both would serve the same Services, or nobody would."""
    async with folded(source_of(api, tmp_path, NodeSettings(proxy_name=proxy_name))):
        await watching(api)
    asked = [request.query for request in api.requests if request.path == SERVICES]
    assert {query["labelSelector"] for query in asked} == {selector}
    assert {query["fieldSelector"] for query in asked} == {"spec.clusterIP!=None"}


@pytest.mark.parametrize(
    ("node_settings", "said"),
    [
        (NodeSettings(name="Worker_1"), "'Worker_1' cannot be the name of a Node"),
        (NodeSettings(name=""), "'' cannot be the name of a Node"),
        (NodeSettings(name="a,metadata.namespace=x"), "cannot be the name of a Node"),
        (NodeSettings(proxy_name="a,b"), "'a,b' cannot be the name of a service proxy"),
        (NodeSettings(proxy_name="x" * 64), "cannot be the name of a service proxy"),
    ],
)
def test_names_that_would_select_something_else(
    api: FakeApi, tmp_path: Path, node_settings: NodeSettings, said: str
) -> None:
    """Lost: a mistyped name would select other objects, or be refused by the API server for ever."""
    with pytest.raises(SourceError) as caught:
        open_source(SourceSettings(kubeconfig=api.kubeconfig(tmp_path)), node_settings)
    assert said in str(caught.value)
