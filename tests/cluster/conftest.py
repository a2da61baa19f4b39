"""What the cluster tests share: one control plane for all, and for each test an agent and objects of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agentprocess import AgentProcess

from .api import Api
from .cluster import ADMIN_FLAGS, Cluster
from .controlplane import ControlPlane
from .run import HOSTS


@pytest.fixture(scope="session")
def hosts() -> tuple[str, ...]:
    """Addresses for backends. Fails outside the namespaces that run.py makes."""
    missing = next((host for host in HOSTS if not bindable(host)), None)
    if missing is not None:
        reason = f"{missing} is not an address of this machine: run `python tests/cluster/run.py` instead of pytest"
        pytest.fail(reason, pytrace=False)
    return HOSTS


def bindable(host: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


@pytest.fixture(scope="session")
def plane(hosts: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The API server and etcd, running. A test that stops the API server starts it again."""
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture
def cluster(plane: ControlPlane) -> Iterator[Cluster]:
    """Objects of the test's own."""
    with Api(plane.kubeconfig) as api, Cluster(api) as cluster:
        yield cluster


@pytest.fixture
def agent(plane: ControlPlane, tmp_path: Path) -> Iterator[AgentProcess]:
    """A ready agent with the least privileges that it needs, and none more."""
    arguments = ("--kubeconfig", str(plane.limited_kubeconfig), *ADMIN_FLAGS)
    with AgentProcess(tmp_path, *arguments) as agent:
        agent.wait_ready()
        yield agent
        assert "Traceback" not in agent.log
