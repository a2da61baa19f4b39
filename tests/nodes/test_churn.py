"""Five hundred Services in motion: those that stand still must not notice, and nothing may be left of the past."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.api import Api
from support.nodes import Host, Rig, each

from .agents import Agent, Agents
from .churn import Churn
from .expect import hold, served
from .services import Service, Services, Target
from .state import differences, programmed
from .traffic import Traffic

SECONDS = float(os.environ.get("SPLICEWAY_CHURN_SECONDS", "20" if os.environ.get("CI") else "60"))
pytestmark = [pytest.mark.nodes, pytest.mark.timeout(180 + 2 * SECONDS)]
SERVICES = 500
#: who change Services at the same time, each with a pause between two changes: together some 100 a second
AUTHORS = 4
PAUSE = 0.03
#: a client's patience
TIMEOUT = 3.0


def _steady(services: Services, rig: Rig) -> list[tuple[Host, Target]]:
    """Services that nobody changes, and clients of every class for them."""
    pods = [node.pod(1) for node in rig.nodes]
    cluster = services.create("steady", type="NodePort")
    cluster.endpoints(*pods)
    local = services.create(
        "steady-local", type="NodePort", internalTrafficPolicy="Local", externalTrafficPolicy="Local"
    )
    local.endpoints(*pods)
    inside: list[Host] = [rig.node(1).pod(2), rig.node(2).pod(2), rig.node(1)]
    flows = [
        (client, service.cluster(port, family))
        for client in inside
        for service in (cluster, local)
        for port in ("tcp", "udp")
        for family in (4, 6)
    ]
    flows += [
        (rig.external, service.node_port(node, port))
        for service in (cluster, local)
        for node in rig.nodes
        for port in ("tcp", "udp")
    ]
    _wait_served(rig, cluster, pods)
    _wait_served(rig, local, pods)
    return flows


def _wait_served(rig: Rig, service: Service, pods: Sequence[Host]) -> None:
    local = service.body["spec"]["internalTrafficPolicy"] == "Local"
    hold(
        *(
            served(node.pod(2), service.cluster(port, family), *([node.pod(1)] if local else pods))
            for node in rig.nodes
            for port in ("tcp", "udp")
            for family in (4, 6)
        )
    )


def test_change_disturbs_nobody_and_leaves_nothing(services: Services, rig: Rig, api: Api, agents: Agents) -> None:
    """A busy cluster would lose clients of Services that nobody touches, and collect traces of those it had."""
    seed = os.environ.get("SPLICEWAY_SEED") or f"{random.SystemRandom().randrange(10_000)}"
    print(f"SPLICEWAY_SEED={seed}")
    flows = _steady(services, rig)
    authors = [Churn(api, rig, f"{seed}-{number}", SERVICES // AUTHORS) for number in range(AUTHORS)]
    try:
        with ThreadPoolExecutor(AUTHORS) as pool:
            list(pool.map(Churn.fill, authors))
            with Traffic(flows, TIMEOUT) as traffic:
                list(pool.map(lambda author: author.run(SECONDS, PAUSE), authors))
        print(sum((author.changes for author in authors), start=type(authors[0].changes)()), traffic.seen)
        assert not traffic.failures, "\n".join(traffic.failures)
        assert traffic.seen["served"] > 50 * SECONDS
        _wait_all_seen(services, rig)
        _equal_a_fresh_start(agents.of(rig.node(1)))
    finally:
        each(authors, Churn.clear)
    _wait_all_seen(services, rig)


def _wait_all_seen(services: Services, rig: Rig) -> None:
    """Return when every agent has seen all changes: the last one is a Service, and the very last one its slice."""
    last = services.create(f"last-{random.randrange(1 << 30)}")
    last.endpoints(rig.node(1).pod(1))
    hold(*(served(node, last.cluster(port, 6), rig.node(1).pod(1)) for node in rig.nodes for port in ("tcp", "udp")))


def _equal_a_fresh_start(agent: Agent) -> None:
    before = programmed(agent)
    assert len(before.service_ports) > SERVICES // 2
    assert len(before.elements["frontends4"]) > SERVICES // 2
    agent.stop()
    agent.start()
    agent.wait_ready()
    wrong = differences(before, programmed(agent))
    assert not wrong, "\n".join(wrong)
