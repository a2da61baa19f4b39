"""The files under deploy/ fit the program: whoever applies them gets a running agent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from spliceway.cli.main import cli
from spliceway.observe import names
from spliceway.settings import Settings
from spliceway.source import resource

DEPLOY = Path(__file__).parents[2] / "deploy"
#: what the built-in ClusterRole allows (W-01): verbs by API group and resource
NODE_PROXIER = {
    ("", "services"): {"list", "watch"},
    ("", "endpoints"): {"list", "watch"},
    ("discovery.k8s.io", "endpointslices"): {"list", "watch"},
    ("networking.k8s.io", "servicecidrs"): {"list", "watch"},
    ("", "nodes"): {"get", "list", "watch"},
    ("", "events"): {"create", "patch", "update"},
    ("events.k8s.io", "events"): {"create", "patch", "update"},
}

Object = dict[str, Any]


def documents(path: Path) -> list[Object]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def objects() -> Iterator[tuple[Path, Object]]:
    for path in sorted(DEPLOY.glob("*/*.yaml")):
        for each in documents(path):
            if "kind" in each and each["kind"] != "Kustomization":
                yield path, each


def pod_of(path: Path) -> Object:
    (daemon_set,) = [each for where, each in objects() if where == path and each["kind"] == "DaemonSet"]
    pod: Object = daemon_set["spec"]["template"]["spec"]
    return pod


BASE = pod_of(DEPLOY / "base" / "daemonset.yaml")
BESIDE = pod_of(DEPLOY / "beside-kube-proxy" / "daemonset-patch.yaml")
CONTAINERS = [*BASE["initContainers"], *BASE["containers"], *BESIDE["containers"]]


def run_options() -> dict[str, click.Option]:
    command = cli.get_command(click.Context(cli), "run")
    assert command is not None
    return {name: each for each in command.params if isinstance(each, click.Option) for name in each.opts}


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: str(container["args"]))
def test_flags_exist_and_are_accepted(container: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Pod of the DaemonSet would end with a usage error."""
    from spliceway.cli import run as run_module

    command, *flags = container["args"]
    assert command == "run"
    made: list[Settings] = []
    monkeypatch.setattr(run_module, "apply_sysctls", lambda node: made.append(node))
    monkeypatch.setattr(run_module, "configure_logs", lambda *_: None)
    monkeypatch.setattr("trio.run", lambda _, settings: made.append(settings))
    result = cli.main(["run", *flags], standalone_mode=False)
    assert (result, len(made)) == (None, 1)


def test_settings_by_the_environment_are_flags() -> None:
    """A value in the ConfigMap would change nothing."""
    (kustomization,) = documents(DEPLOY / "base" / "kustomization.yaml")
    literals = kustomization["configMapGenerator"][0]["literals"]
    variables = {each.envvar for each in run_options().values()}
    for literal in literals:
        name, _, value = literal.partition("=")
        assert value
        assert name in variables or name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
    assert BASE["containers"][0]["env"][0]["name"] == "NODE_NAME"


def test_the_agent_has_the_rights_of_kube_proxy_and_needs_no_others() -> None:
    """The agent would be refused, or the cluster would trust it with more than it needs."""
    bindings = [each for _, each in objects() if each["kind"] == "ClusterRoleBinding"]
    assert [each["roleRef"]["name"] for each in bindings] == ["system:node-proxier"]
    accounts = {each["metadata"]["name"] for _, each in objects() if each["kind"] == "ServiceAccount"}
    assert {subject["name"] for subject in bindings[0]["subjects"]} == accounts == {BASE["serviceAccountName"]}
    assert not [each for _, each in objects() if each["kind"] in ("ClusterRole", "Role", "RoleBinding")]
    for read in (resource.services(), resource.services("spliceway"), resource.endpoint_slices(), resource.node("n1")):
        plural = read.path.rsplit("/", 1)[1]
        assert {"list", "watch"} <= NODE_PROXIER[read.group, plural]
    assert {"create", "patch"} <= NODE_PROXIER["events.k8s.io", "events"]


def test_the_agent_gets_one_capability_and_no_more() -> None:
    """A hole in the agent would be a hole in the node."""
    (agent,) = BASE["containers"]
    security = agent["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert "privileged" not in security
    (init,) = BASE["initContainers"]
    assert init["args"] == ["run", "--init-only"]  # the one that may do everything ends at once
    assert not BASE.get("hostPID")


def test_a_node_is_never_without_its_proxy() -> None:
    """Pods would run on nodes without a service proxy, or the agent would be the first to be evicted."""
    assert BASE["hostNetwork"]
    assert BASE["priorityClassName"] == "system-node-critical"
    assert BASE["tolerations"] == [{"operator": "Exists"}]
    assert BASE["terminationGracePeriodSeconds"] > Settings().shutdown


@pytest.mark.parametrize("pod", [BASE, BESIDE], ids=["base", "beside"])
def test_probes_ask_where_the_agent_answers(pod: Object) -> None:
    """The kubelet would restart a healthy agent for ever."""
    (agent,) = pod["containers"]
    flags = [each for each in agent["args"] if each.startswith("--healthz-bind-address=")]
    port = int(flags[0].rpartition(":")[2]) if flags else 10256
    assert agent["livenessProbe"]["httpGet"] == {"path": "/livez", "port": port}
    assert agent["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port}


def test_beside_kube_proxy_nothing_is_taken_from_it() -> None:
    """kube-proxy's ports would be taken, or two proxies would serve the same Services."""
    ports = [int(each.rpartition(":")[2]) for each in BESIDE["containers"][0]["args"] if "bind-address" in each]
    assert len(ports) == 2
    assert not {10249, 10250, 10256, 10257, 10258, 10259} & set(ports)
    assert "--service-proxy-name=spliceway" in BESIDE["containers"][0]["args"]


def test_kustomizations_name_files_that_exist() -> None:
    """`kubectl apply -k` would fail."""
    for path in DEPLOY.glob("*/kustomization.yaml"):
        (kustomization,) = documents(path)
        patches = [patch["path"] for patch in kustomization.get("patches", ())]
        for name in (*kustomization["resources"], *patches):
            assert (path.parent / name).exists(), (path, name)
    (base,) = documents(DEPLOY / "base" / "kustomization.yaml")
    assert {container["image"] for container in (*BASE["initContainers"], *BASE["containers"])} == {
        image["name"] for image in base["images"]
    }


def test_alerts_ask_for_series_that_exist() -> None:
    """An alert would never fire."""
    declared = {each.name for each in vars(names).values() if isinstance(each, names.Metric)}
    (rules,) = documents(DEPLOY / "alerts" / "spliceway.yaml")
    alerts = rules["groups"][0]["rules"]
    assert len({each["alert"] for each in alerts}) == len(alerts) > 5
    for alert in alerts:
        asked = re.findall(r"(?:spliceway|kubeproxy)_[a-z_]+", alert["expr"])
        assert asked, alert
        assert {re.sub(r"_(total|bucket)$", "", name) for name in asked} <= declared, alert
        assert alert["annotations"]["summary"].endswith(".")


def test_the_image_is_built_of_files_that_exist() -> None:
    """The image could not be built."""
    root = DEPLOY.parent
    for line in (DEPLOY / "Containerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (root / name).exists(), line
