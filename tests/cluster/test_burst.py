"""Hundreds of changes at once neither disturb a Service that has nothing to do with them, nor get lost."""

from __future__ import annotations

import random
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from spliceway.model import Address
from support.agentprocess import AgentProcess

from .api import Object
from .cluster import PROXY_NAME, Cluster, endpoint, served_by, wait_served
from .controlplane import ControlPlane
from .traffic import Backend, Stream

pytestmark = pytest.mark.cluster

SERVICES = 300
CHANGES = 4  # of each Service, after it was made
WRITERS = 6
SEED = 20_240_229
#: endpoints that nobody answers at; the burst's Services get no client
NOWHERE = tuple(f"198.18.1.{number}" for number in range(1, 40))


class Served(NamedTuple):
    """All that an agent does with one service port."""

    frontends: tuple[tuple[str, str], ...]
    endpoints: tuple[int, int, int]
    backends: tuple[str, ...]


def endpoints(rng: random.Random) -> list[Object]:
    """From none to eight endpoints in mixed conditions."""
    conditions = ({"ready": True}, {"ready": False}, {"ready": False, "serving": True, "terminating": True})
    return [endpoint(host, **rng.choice(conditions)) for host in rng.sample(NOWHERE, rng.randrange(9))]


def one_life(cluster: Cluster, number: int) -> None:
    """Make a Service with slices, then change it at random; its own seed makes it the same in every run."""
    rng = random.Random(SEED + number)
    name = f"burst-{number}"
    cluster.service(name, {"http": 80, "admin": 81})
    slices = [cluster.slice(name, *endpoints(rng), ports={"http": 8080}) for _ in range(2)]
    slices.append(cluster.slice(name, *endpoints(rng), ports={"admin": 9090}))
    for _ in range(CHANGES):
        change(cluster, rng, name, slices)


def change(cluster: Cluster, rng: random.Random, name: str, slices: list[str]) -> None:
    """One of the things that happen to Services."""
    match rng.randrange(6):
        case 0:
            cluster.delete("Service", name)
            if rng.random() < 0.6:
                cluster.service(name, {"http": rng.randrange(1000, 1010)})
            else:
                cluster.service(name, clusterIP="None")
        case 1:
            ports = [{"name": "http", "port": rng.randrange(80, 90)}, {"name": "admin", "port": 99}]
            cluster.api.patch("Service", name, {"spec": {"ports": ports}})
        case 2:
            label = rng.choice((None, "other"))
            cluster.api.patch("Service", name, {"metadata": {"labels": {PROXY_NAME: label}}})
        case 3 if len(slices) > 1:
            cluster.delete("EndpointSlice", slices.pop())
        case _:
            cluster.set_endpoints(rng.choice(slices), *endpoints(rng))


def everything(agent: AgentProcess) -> dict[str, Served]:
    """Return what the agent does, from its desired state down to the engine's choice for one client."""
    found = {}
    for row in agent.state().services:
        frontends = tuple(sorted((each.address, each.state) for each in row.frontends))
        if frontends:
            backends = tuple(host for address, _ in frontends for host in served_by(agent, Address.parse(address)))
            found[row.pool] = Served(frontends, (row.ready, row.terminating, row.unready), backends)
    return found


def wanted_addresses(cluster: Cluster) -> set[str]:
    """Return the addresses that a proxy must serve by the API server's present Services."""
    specs = [
        service["spec"]
        for service in cluster.api.list_objects("Service")
        if PROXY_NAME not in service["metadata"].get("labels", {}) and service["spec"]["clusterIP"] != "None"
    ]
    return {f"{spec['clusterIP']}:{port['port']}" for spec in specs for port in spec["ports"]}


def test_burst_of_changes_disturbs_nobody_and_nothing_is_lost(
    plane: ControlPlane, cluster: Cluster, agent: AgentProcess, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    """A deployment of everything would cost other Services errors, or leave agents that differ until a restart."""
    with Backend("steady", hosts[1]):
        steady = Address(cluster.service("steady"), 80)
        cluster.slice("steady", endpoint(hosts[1]))
        wait_served(agent, steady, hosts[1])
        with Stream(steady) as stream:
            with ThreadPoolExecutor(WRITERS) as writers:
                for life in [writers.submit(one_life, cluster, number) for number in range(SERVICES)]:
                    life.result()
            # Both streams are in order: when the last Service and the last slice are there, all before them are.
            last = Address(cluster.service("last"), 80)
            cluster.slice("last", endpoint(hosts[1]))
            wait_served(agent, last, hosts[1])
            stream.wait_for_more()
        assert stream.errors == []
        changed = everything(agent)
        agent.signal(signal.SIGTERM)
        assert agent.wait_exit() == 0

        with AgentProcess(tmp_path, "--kubeconfig", str(plane.limited_kubeconfig), name="fresh") as fresh:
            fresh.wait_ready()
            assert everything(fresh) == changed
        assert {address for each in changed.values() for address, _ in each.frontends} == wanted_addresses(cluster)
        states = Counter(state for each in changed.values() for _, state in each.frontends)
        assert min(states["serving"], states["rejecting"]) > 20  # there was something of each to compare
        assert states["failed"] == 0
