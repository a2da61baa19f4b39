"""One control plane and one set of objects for all contestants, and for each of them a network of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster.api import Api
from cluster.conftest import bindable
from cluster.controlplane import ADVERTISED_ADDRESS, ControlPlane
from support.nodes import SERVICE_CIDRS, Rig, each

from . import behaviours, matrix, objects
from .contestants import CONTESTANTS, Contestant, Running
from .measure import Result, measure, wait_complete
from .report import Row, table
from .scenario import Config

ROWS: pytest.StashKey[list[Row]] = pytest.StashKey()
#: what ClusterRole system:node-proxier has (W-01)
NODE_PROXIER = (
    {"apiGroups": [""], "resources": ["services", "endpoints"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    {"apiGroups": ["networking.k8s.io"], "resources": ["servicecidrs"], "verbs": ["list", "watch"]},
    {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]},
)


class Turn(NamedTuple):
    """One contestant in force on both nodes, with what came of all cells."""

    contestant: Contestant
    rig: Rig
    objects: objects.Objects
    running: Running
    api: Api
    configs: list[Config]
    results: list[Result]
    seconds: float


@pytest.fixture(scope="session")
def api(plane: ControlPlane) -> Iterator[Api]:
    with Api(plane.kubeconfig) as api:
        yield api


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The API server, at an address that every node reaches. Fails outside the namespaces that run.py makes."""
    if not bindable(ADVERTISED_ADDRESS):
        pytest.fail("run `python tests/conformance/run.py` instead of pytest", pytrace=False)
    folder = tmp_path_factory.mktemp("plane")
    ranges = ",".join(SERVICE_CIDRS)
    with ControlPlane(folder, address=ADVERTISED_ADDRESS, service_range=ranges, limited_rules=NODE_PROXIER) as plane:
        yield plane


@pytest.fixture(scope="session")
def made(api: Api, tmp_path_factory: pytest.TempPathFactory) -> objects.Objects:
    """All objects, of the cells and of the tests of behaviour."""
    made = objects.Objects(Rig(tmp_path_factory.mktemp("plan")))
    made.create(api, matrix.configs(matrix.cells()))
    for name, seconds in ((behaviours.STICKY, 10800), (behaviours.BRIEF, behaviours.BRIEF_SECONDS)):
        affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}
        made.add(api, objects.service(name, type="NodePort", **affinity), behaviours.STICKY_ENDPOINTS)
    return made


@pytest.fixture(scope="module", params=CONTESTANTS, ids=lambda contestant: contestant.name)
def turn(
    request: pytest.FixtureRequest,
    plane: ControlPlane,
    api: Api,
    made: objects.Objects,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Turn]:
    """A fresh network, for rules stay when kube-proxy ends; then the contestant, and all cells."""
    contestant: Contestant = request.param
    folder: Path = tmp_path_factory.mktemp(contestant.name)
    cells = matrix.cells()
    began = time.monotonic()
    with Rig(folder, rp_filter=contestant.rp_filter) as rig:
        objects.serve_everywhere(rig)
        each(rig.nodes, lambda node: node.namespace.run("nft", "-f", "-", text=contestant.neighbours))
        with Running(contestant, rig.nodes, plane.limited_kubeconfig, folder) as running:
            wait_complete(rig, made, running, api)
            results = measure(rig, made, cells)
            running.check()
            seconds = time.monotonic() - began
            yield Turn(contestant, rig, made, running, api, matrix.configs(cells), results, seconds)
            running.check()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if rows := config.stash[ROWS]:
        terminalreporter.section("conformance")
        for line in table(rows):
            terminalreporter.write_line(line)
