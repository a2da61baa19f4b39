"""Who the agent is to the API server: least privileges, refused credentials, and the account of a Pod."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from spliceway.model import Address
from spliceway.observe.state import AgentState
from support.agentprocess import AgentProcess, cli
from support.rig import wait_until

from .api import Api
from .cluster import ADMIN_FLAGS, Cluster, endpoint, http_status, problems_of, wait_for, wait_served
from .controlplane import LIMITED_RULES, LIMITED_USER, ControlPlane
from .traffic import Backend, ask

pytestmark = pytest.mark.cluster

#: where a Pod finds its credentials; run.py has made this folder the tests' own
POD_CREDENTIALS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
WATCHED = [
    {"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
]


@contextmanager
def limited_to(plane: ControlPlane, api: Api, rules: list[dict[str, list[str]]]) -> Iterator[None]:
    """The limited user may only do that inside the block."""
    set_rules(plane, api, rules)
    try:
        yield
    finally:
        set_rules(plane, api, list(LIMITED_RULES))


def set_rules(plane: ControlPlane, api: Api, rules: list[dict[str, list[str]]]) -> None:
    """Change the rules of the limited user and wait until the API server goes by them."""
    api.patch("ClusterRole", LIMITED_USER, {"rules": rules})
    granted = {resource for rule in rules for resource in rule["resources"]}
    kinds = {"Service": "services", "Node": "nodes", "EndpointSlice": "endpointslices"}
    with Api(plane.limited_kubeconfig) as limited:

        def in_force() -> bool:
            return all(limited.may_list(kind) == (resource in granted) for kind, resource in kinds.items())

        wait_until(in_force, "the API server goes by the new rules")


def errors(state: AgentState) -> int:
    return min(source.errors for source in state.sources)


def said(agent: AgentProcess, text: str) -> list[str]:
    """Return the lines of the log that hold the text."""
    return [line for line in agent.log.splitlines() if text in line]


def test_two_rights_on_two_kinds_are_enough(
    plane: ControlPlane, cluster: Cluster, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    """Operators would have to give the agent more of their cluster than it is worth."""
    with Backend("a", hosts[1]), limited_to(plane, cluster.api, WATCHED):
        address = Address(cluster.service("shop"), 80)
        cluster.slice("shop", endpoint(hosts[1]))
        with AgentProcess(tmp_path, "--kubeconfig", str(plane.limited_kubeconfig)) as agent:
            wait_served(agent, address, hosts[1])
            assert ask(address) == "a"
            assert agent.wait_ready().problems == ()


def test_unknown_token_is_said_once_and_tried_again(plane: ControlPlane, tmp_path: Path) -> None:
    """An operator with an expired token would search for long, or restart all agents after renewing it."""
    arguments = ("--kubeconfig", str(plane.refused_kubeconfig), *ADMIN_FLAGS)
    with AgentProcess(tmp_path, *arguments) as agent:
        state = agent.wait(lambda state: errors(state) >= 3)
        (problem,) = {problem.message for problem in state.problems}  # both kinds of objects say the same
        assert "does not accept the credentials (401" in problem
        assert "renew the token" in problem
        assert not state.ready
        assert http_status("/readyz") == 503
        assert http_status("/livez") == 200
        assert 1 <= len(said(agent, "does not accept the credentials")) <= 2  # one for each kind
        agent.process.terminate()
        assert agent.wait_exit() == 0
        assert "Traceback" not in agent.log


def test_missing_right_is_named_and_its_grant_is_noticed(
    plane: ControlPlane, cluster: Cluster, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    """An operator who forgot one line of a role would not be told which, or would have to restart all agents."""
    with Backend("a", hosts[1]):
        address = Address(cluster.service("shop"), 80)
        cluster.slice("shop", endpoint(hosts[1]))
        arguments = ("--kubeconfig", str(plane.limited_kubeconfig), *ADMIN_FLAGS)
        with limited_to(plane, cluster.api, WATCHED[:1]), AgentProcess(tmp_path, *arguments) as agent:
            state = agent.wait(lambda state: bool(problems_of(state, "refuses")))
            (problem,) = problems_of(state, "refuses")
            assert "refuses to list and watch endpointslices (403" in problem
            assert "grant 'list' and 'watch' on endpointslices" in problem
            assert not state.ready
            assert http_status("/readyz") == 503
            set_rules(plane, cluster.api, WATCHED)
            wait_for(agent, lambda state: state.ready)
            wait_served(agent, address, hosts[1])
            assert ask(address) == "a"
            assert agent.state().problems == ()
            assert "Traceback" not in agent.log


def test_wrong_kubeconfig_ends_the_agent_with_one_sentence(plane: ControlPlane, tmp_path: Path) -> None:
    """A typo in a flag would look like a cluster that does not answer, or like a crash."""
    kubeconfig = str(plane.limited_kubeconfig)
    not_yaml = tmp_path / "not.yaml"
    not_yaml.write_text("a: [")
    for arguments, says in (
        (("--kubeconfig", str(tmp_path / "none")), "none cannot be read: no such file or directory"),
        (("--kubeconfig", kubeconfig, "--context", "prod"), "has no context 'prod'; it has test"),
        (("--kubeconfig", str(not_yaml)), "is not YAML"),
        ((), "not in a Kubernetes cluster"),
    ):
        where = (
            "--state-socket",
            str(tmp_path / "agent.sock"),
            "--healthz-bind-address",
            "off",
            "--metrics-bind-address",
            "off",
        )
        done = cli("run", *arguments, *where, KUBERNETES_SERVICE_HOST="")
        assert done.returncode == 1, done
        assert says.lower() in done.stderr.lower()
        assert len([line for line in done.stderr.splitlines() if line.startswith("Error: ")]) == 1
        assert "Traceback" not in done.stderr


def write_pod_token(api: Api) -> None:
    """Make a ServiceAccount that may read what the limited user may, and put its token where a Pod finds it."""
    api.request("POST", ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "spliceway"}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = api.request("POST", f"{ACCOUNTS}/spliceway/token", request)["status"]["token"]
    (POD_CREDENTIALS / "token").write_text(f"{token}\n")


@pytest.fixture
def in_pod(plane: ControlPlane, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a Pod finds: two variables, and the token of its ServiceAccount with the API server's certificate."""
    before = cluster.api.get("ClusterRoleBinding", LIMITED_USER)["subjects"]
    subject = {"kind": "ServiceAccount", "name": "spliceway", "namespace": "default"}
    server = urlsplit(plane.server)
    authority = json.loads(plane.kubeconfig.read_text())["clusters"][0]["cluster"]["certificate-authority-data"]
    POD_CREDENTIALS.mkdir(parents=True)
    (POD_CREDENTIALS / "ca.crt").write_bytes(base64.b64decode(authority))
    (POD_CREDENTIALS / "namespace").write_text("default")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(server.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    try:
        write_pod_token(cluster.api)
        cluster.api.patch("ClusterRoleBinding", LIMITED_USER, {"subjects": [subject]})
        yield
    finally:
        shutil.rmtree(POD_CREDENTIALS)
        cluster.api.patch("ClusterRoleBinding", LIMITED_USER, {"subjects": before})
        cluster.api.request("DELETE", f"{ACCOUNTS}/spliceway")


@pytest.mark.usefixtures("in_pod")
def test_agent_in_a_pod_uses_its_account(
    plane: ControlPlane, cluster: Cluster, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    """The agent could not run as a DaemonSet, or not longer than its first token is valid."""
    with Backend("a", hosts[1]), Backend("b", hosts[2]):
        address = Address(cluster.service("shop"), 80)
        name = cluster.slice("shop", endpoint(hosts[1]))
        with AgentProcess(tmp_path, *ADMIN_FLAGS) as agent:
            wait_served(agent, address, hosts[1])
            assert ask(address) == "a"
            assert http_status("/readyz") == 200
            # A new account of the same name: the first token is void, and the restart ends what it opened.
            cluster.api.request("DELETE", f"{ACCOUNTS}/spliceway")
            write_pod_token(cluster.api)
            plane.restart_apiserver()
            cluster.set_endpoints(name, endpoint(hosts[2]))
            wait_served(agent, address, hosts[2])
            assert ask(address) == "b"
            wait_for(agent, lambda state: state.problems == ())
            assert "Traceback" not in agent.log
