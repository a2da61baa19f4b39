"""One control plane, one network of three nodes with an agent each, and for every test Services of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.api import Api, ApiError
from cluster.conftest import bindable
from cluster.controlplane import ADVERTISED_ADDRESS, LIMITED_USER, ControlPlane
from support.nodes import OUTSIDE, SERVICE_CIDRS, Rig, each
from support.rig import wait_until

from .agents import Agents
from .services import HOST_PORT, POD_PORT, PORT, Services

#: what the agent's ServiceAccount is bound to; the API server makes this role itself
ROLE = "system:node-proxier"


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The API server, at an address that every node reaches. Fails outside the namespaces that run.py makes."""
    if not bindable(ADVERTISED_ADDRESS):
        pytest.fail("run `python tests/nodes/run.py` instead of pytest", pytrace=False)
    folder, ranges = tmp_path_factory.mktemp("plane"), ",".join(SERVICE_CIDRS)
    with ControlPlane(folder, address=ADVERTISED_ADDRESS, service_range=ranges, limited_rules=()) as plane:
        yield plane


@pytest.fixture(scope="session")
def api(plane: ControlPlane) -> Iterator[Api]:
    """For the tests' own changes."""
    with Api(plane.kubeconfig) as api:
        yield api


@pytest.fixture(scope="session")
def kubeconfig(plane: ControlPlane, api: Api) -> Path:
    """For agents, with no more rights than they have in a cluster."""
    binding = {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "spliceway"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": LIMITED_USER}],
    }
    api.create(binding)
    with Api(plane.limited_kubeconfig) as limited:
        wait_until(lambda: _may_list(limited), f"the agents' user has {ROLE}")
    return plane.limited_kubeconfig


def _may_list(api: Api) -> bool:
    try:
        return bool(api.list_objects("Service"))
    except ApiError:
        return False


@pytest.fixture(scope="session")
def rig(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Three nodes in a zone each with three Pods; every place serves under its own name."""
    with Rig(tmp_path_factory.mktemp("rig"), nodes=3) as rig:
        each(rig.pods, lambda pod: pod.namespace.serve(pod.name, pod.hosts, POD_PORT))
        each(rig.nodes, lambda node: node.namespace.serve(node.name, node.hosts, HOST_PORT))
        rig.hub.namespace.serve("outside", OUTSIDE, PORT)
        each(rig.nodes, lambda node: api.create(node.manifest()))
        yield rig


@pytest.fixture(scope="session")
def running(rig: Rig, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    with Agents(rig, kubeconfig, tmp_path_factory.mktemp("agents")) as agents:
        yield agents


@pytest.fixture
def agents(running: Agents) -> Iterator[Agents]:
    """The agents, all of them ready before the test, and after it as well."""
    running.ensure()
    yield running
    for agent in running:
        agent.check()


@pytest.fixture
def services(api: Api, agents: Agents) -> Iterator[Services]:
    """Makes the test's Services, which the agents serve."""
    services = Services(api)
    yield services
    services.close()
