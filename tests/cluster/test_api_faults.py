"""An API server that is away, comes back or forgets costs no client anything, and no change is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spliceway.model import Address
from spliceway.observe.state import AgentState
from support.agentprocess import AgentProcess
from support.rig import wait_until

from .apilink import ApiLink
from .cluster import ADMIN_FLAGS, Cluster, endpoint, http_status, metric, problems_of, row_of, wait_for, wait_served
from .controlplane import ControlPlane
from .traffic import Backend, Stream, ask, ask_many, refused, wait_refused

pytestmark = pytest.mark.cluster

UNUSABLE = "cannot be used"


@contextmanager
def api_server_killed(plane: ControlPlane) -> Iterator[None]:
    """No API server inside the block; after it there is one, however the block ended."""
    plane.kill_apiserver()
    try:
        yield
    finally:
        plane.start_apiserver()


def synced_and_silent(state: AgentState) -> bool:
    """Both streams of facts have failed since, and say so."""
    return all(UNUSABLE in source.last_error for source in state.sources) and bool(problems_of(state, UNUSABLE))


def healed(state: AgentState) -> bool:
    return state.ready and not problems_of(state, UNUSABLE)


def grows(number: Callable[[], float]) -> None:
    """Wait until a number is larger than it is now."""
    before = number()
    wait_until(lambda: number() > before, "the number grows")


def test_api_server_crash_costs_no_client_anything(
    plane: ControlPlane, cluster: Cluster, agent: AgentProcess, hosts: tuple[str, ...]
) -> None:
    """Each outage of the API server would be one of every Service, or the agent would be deaf from then on."""
    with Backend("a", hosts[1]), Backend("b", hosts[2]):
        address = Address(cluster.service("shop"), 80)
        name = cluster.slice("shop", endpoint(hosts[1]))
        wait_served(agent, address, hosts[1])
        with Stream(address) as stream:
            stream.wait_for_more()
            with api_server_killed(plane):
                agent.wait(synced_and_silent)
                grows(lambda: metric("spliceway_source_staleness_seconds"))
                grows(lambda: metric("spliceway_source_errors_total"))
                assert (http_status("/healthz"), http_status("/readyz")) == (200, 200)
                assert ask(address) == "a"
                stream.wait_for_more()
            cluster.set_endpoints(name, endpoint(hosts[2]))
            wait_served(agent, address, hosts[2])
            assert ask_many(address, 20) == {"b"}
            wait_for(agent, healed)
            stream.wait_for_more()
        assert stream.errors == []
        assert http_status("/healthz") == 200
        assert metric("spliceway_source_restarts_total") > 0


def test_api_server_restart_with_open_watches(
    plane: ControlPlane, cluster: Cluster, agent: AgentProcess, hosts: tuple[str, ...]
) -> None:
    """Every upgrade of the control plane would cost clients errors, or the changes after it."""
    with Backend("a", hosts[1]), Backend("b", hosts[2]):
        address = Address(cluster.service("shop"), 80)
        name = cluster.slice("shop", endpoint(hosts[1]))
        wait_served(agent, address, hosts[1])
        with Stream(address) as stream:
            stream.wait_for_more()
            plane.restart_apiserver()
            cluster.set_endpoints(name, endpoint(hosts[1]), endpoint(hosts[2]))
            wait_served(agent, address, hosts[1], hosts[2])
            stream.wait_for_answer_of("b")
        assert stream.errors == []
        wait_for(agent, healed)


@pytest.mark.parametrize("restarted", [False, True], ids=["resumed", "forgotten"])
def test_changes_while_the_watch_was_cut_are_seen(
    plane: ControlPlane, cluster: Cluster, tmp_path: Path, hosts: tuple[str, ...], restarted: bool
) -> None:
    """Clients would be sent to Pods that are gone until something else changes.

    An API server that was restarted has no events from before, so the agent must list anew and find out itself what
    was deleted.
    """
    with Backend("a", hosts[1]), Backend("b", hosts[2]), ApiLink(plane.limited_kubeconfig, tmp_path) as link:
        shop = Address(cluster.service("shop"), 80)
        gone = Address(cluster.service("gone"), 80)
        name = cluster.slice("shop", endpoint(hosts[1]))
        cluster.slice("gone", endpoint(hosts[1]))
        with AgentProcess(tmp_path, "--kubeconfig", str(link.own_kubeconfig), *ADMIN_FLAGS) as agent:
            for address in (shop, gone):
                wait_served(agent, address, hosts[1])
            with Stream(shop) as stream:
                link.cut()
                agent.wait(synced_and_silent)
                cluster.set_endpoints(name, endpoint(hosts[2]))
                cluster.delete("Service", "gone")
                new = Address(cluster.service("new"), 80)
                cluster.slice("new", endpoint(hosts[1]))
                if restarted:
                    plane.restart_apiserver()
                assert ask_many(shop, 10) == {"a"}
                assert ask(gone) == "a"
                assert refused(new)
                link.mend()
                wait_served(agent, shop, hosts[2])
                wait_served(agent, new, hosts[1])
                wait_refused(gone)
                assert ask_many(shop, 10) == {"b"}
                wait_for(agent, healed)
            assert stream.errors == []
            assert row_of(agent.state(), "gone:http") is None
            assert "Traceback" not in agent.log


def test_agent_that_starts_before_the_api_server(
    plane: ControlPlane, cluster: Cluster, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    """After a power cut nodes come up in any order: the agent would have to be started again by hand."""
    with Backend("a", hosts[1]), ApiLink(plane.limited_kubeconfig, tmp_path) as link:
        address = Address(cluster.service("shop"), 80)
        cluster.slice("shop", endpoint(hosts[1]))
        link.cut()
        with AgentProcess(tmp_path, "--kubeconfig", str(link.own_kubeconfig), *ADMIN_FLAGS) as agent:
            agent.wait(lambda state: bool(problems_of(state, "connection refused")))
            assert http_status("/readyz") == 503
            assert refused(address)
            link.mend()
            wait_for(agent, healed)
            wait_served(agent, address, hosts[1])
            assert http_status("/readyz") == 200
            assert ask(address) == "a"
            assert "Traceback" not in agent.log
