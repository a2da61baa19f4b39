"""The agent as the proxy of a Node, with the rights that deploy/ gives it: the API server's own ClusterRole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from spliceway.settings import SourceSettings
from spliceway.source.eventrecord import EventRecord
from spliceway.source.eventwriter import EventWriter
from support.agentprocess import AgentProcess
from support.rig import wait_until

from .api import Api
from .cluster import ADMIN_FLAGS, Cluster, http_status
from .controlplane import LIMITED_USER, ControlPlane

pytestmark = pytest.mark.cluster

BASE = Path(__file__).parents[2] / "deploy" / "base"
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/kube-system/serviceaccounts",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "DaemonSet": "/apis/apps/v1/namespaces/kube-system/daemonsets",
}
BINDING = "limited-as-node-proxier"


def deployed() -> list[dict[str, Any]]:
    return [
        each for name in ("access", "daemonset") for each in yaml.safe_load_all((BASE / f"{name}.yaml").read_text())
    ]


@pytest.mark.parametrize("body", deployed(), ids=lambda body: str(body["kind"]))
def test_the_api_server_takes_what_deploy_has(cluster: Cluster, body: dict[str, Any]) -> None:
    """A typo in a field would only show on the operator's cluster."""
    made = cluster.api.request("POST", f"{PATHS[body['kind']]}?dryRun=All&fieldValidation=Strict", body)
    assert made["metadata"]["name"] == "spliceway"


@contextmanager
def node_proxier(plane: ControlPlane, api: Api) -> Iterator[None]:
    """The limited user may do what system:node-proxier says, and nothing else."""
    before = api.get("ClusterRole", LIMITED_USER)["rules"]
    api.create(
        {
            "kind": "ClusterRoleBinding",
            "metadata": {"name": BINDING},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": deployed()[1]["roleRef"]["name"],
            },
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": LIMITED_USER}],
        }
    )
    api.patch("ClusterRole", LIMITED_USER, {"rules": []})
    try:
        with Api(plane.limited_kubeconfig) as limited:
            wait_until(lambda: limited.may_list("Node"), "the new rights are in force")
        yield
    finally:
        api.patch("ClusterRole", LIMITED_USER, {"rules": before})
        api.delete("ClusterRoleBinding", BINDING)


@contextmanager
def node(api: Api, address: str) -> Iterator[str]:
    name = "n1"
    api.create({"kind": "Node", "metadata": {"name": name}})
    try:
        api.patch(
            "Node", name, {"status": {"addresses": [{"type": "InternalIP", "address": address}]}}, subresource="status"
        )
        yield name
    finally:
        if any(each["metadata"]["name"] == name for each in api.list_objects("Node")):
            api.delete("Node", name)


def events_about(api: Api, name: str) -> list[dict[str, Any]]:
    """The agent's own: the API server, too, writes Events about a Service, as when it repairs its allocated address."""
    events = api.list_objects("Event", "default")
    return [each for each in events if (each["reportingController"], each["regarding"]["name"]) == ("spliceway", name)]


def test_a_node_with_node_proxier_rights(
    plane: ControlPlane, cluster: Cluster, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    """The DaemonSet's account could not run the agent, Events would be missing, or the Node's state not be noticed."""
    api = cluster.api
    with node_proxier(plane, api), node(api, hosts[1]) as name:
        api.create(
            {
                "kind": "Service",
                "metadata": {"name": "odd", "annotations": {"spliceway.io/balance": "fairest"}},
                "spec": {"ports": [{"name": "http", "port": 80}]},
            }
        )
        arguments = ("--kubeconfig", str(plane.limited_kubeconfig), "--hostname-override", " N1 ", *ADMIN_FLAGS)
        try:
            with AgentProcess(tmp_path, *arguments) as agent:
                agent.wait_ready()
                assert (http_status("/healthz"), http_status("/livez")) == (200, 200)
                wait_until(lambda: bool(events_about(api, name)), "Event about the Node")
                (starting,) = events_about(api, name)
                assert (starting["reason"], starting["type"]) == ("Starting", "Normal")
                wait_until(lambda: bool(events_about(api, "odd")), "Event about the Service")
                (odd,) = events_about(api, "odd")
                assert "fairest" in odd["note"]
                assert odd["type"] == "Warning"
                taint = {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}
                api.patch("Node", name, {"spec": {"taints": [taint]}})
                wait_until(lambda: http_status("/healthz") == 503, "the taint is noticed")
                assert http_status("/livez") == 200
                api.delete("Node", name)
                assert agent.wait_exit() == 1
                assert "Node n1 was deleted" in agent.log
                assert "Traceback" not in agent.log
        finally:
            api.delete("Service", "odd")


def test_a_series_of_events(plane: ControlPlane, cluster: Cluster) -> None:
    """The API server would refuse what repeats, or hold an Event for each time (it checks series strictly)."""
    api = cluster.api
    with node_proxier(plane, api):
        writer = EventWriter(SourceSettings(kubeconfig=plane.limited_kubeconfig), "n1")
        now = time.time()
        event = EventRecord("Service", "default", "series", "NotServedAsAsked", "Plan", "is odd", True, now, now)
        writer.write(event)
        writer.write(event)  # as when the first answer was lost
        for times in (2, 7):
            writer.write(event._replace(times=times, last=now + times))
        (stored,) = events_about(api, "series")
        assert stored["series"]["count"] == 7
        api.delete("Event", stored["metadata"]["name"])
        writer.write(event._replace(times=9, last=now + 9))
        (stored,) = events_about(api, "series")
        assert stored["series"]["count"] == 9
        writer.write(event._replace(kind="Node", namespace="", name="n9", note="", reason="Starting", warning=False))
        assert len(events_about(api, "n9")) == 1
