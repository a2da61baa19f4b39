"""spliceway and kube-proxy 1.37 do the same for the same cluster, wherever `differences` does not say otherwise."""

from __future__ import annotations

import time

import pytest

from support.probes import Protocol
from support.rig import wait_until

from .behaviours import (
    ATTEMPTS,
    BRIEF,
    BRIEF_SECONDS,
    REDRAWS,
    expected_page,
    health,
    health_node_port_pages,
    names_at,
    proxy_mode,
    same_page,
    seconds_until_another,
    sticky_addresses,
)
from .conftest import ROWS, Turn
from .differences import explain, unused
from .measure import place_of
from .objects import PORT
from .report import Row, failures

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]

#: fewer would mean that the matrix has lost its meaning
FEWEST_CELLS = 300
TAINT = {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}


def test_every_cell_is_as_the_specification_says(turn: Turn, pytestconfig: pytest.Config) -> None:
    """A cluster that changes its service proxy would find Services that answer otherwise, or not at all."""
    name = turn.contestant.name
    found, unexplained = explain(name, turn.results)
    gone = unused(name, found)
    intended = sum(len(results) for results in found.values())
    equal = sum(result.equal for result in turn.results)
    row = Row(name, len(turn.results), equal, intended, len(unexplained), turn.seconds)
    pytestconfig.stash[ROWS].append(row)
    assert len(turn.results) >= FEWEST_CELLS
    wrong = failures(unexplained, gone)
    assert not wrong, f"{name}:\n{wrong}\n{turn.running.tail('node1')}"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_affinity_holds_a_client_at_one_backend_by_whatever_address(
    turn: Turn, protocol: Protocol, family: int
) -> None:
    """A client with a session in one backend's memory would lose it (A-01, A-04)."""
    for client in ("pod1", "node1"):
        place = place_of(turn.rig, client)
        seen: set[str] = set()
        for host, port in sticky_addresses(turn.rig, turn.objects, protocol, family):
            seen |= names_at(place, protocol, host, port, ATTEMPTS)
        assert len(seen) == 1, f"{client}: {seen}"


def test_affinity_slides_with_new_connections_and_ends_after_its_time(turn: Turn) -> None:
    """A client that comes back in time would lose its backend, or one that was gone for long would be stuck (A-02)."""
    place = place_of(turn.rig, "pod2")
    host = turn.objects.service(BRIEF)["spec"]["clusterIPs"][0]
    (backend,) = names_at(place, "TCP", host, PORT)
    end = time.monotonic() + 2 * BRIEF_SECONDS
    while time.monotonic() < end:
        assert names_at(place, "TCP", host, PORT) == {backend}
        time.sleep(BRIEF_SECONDS / 4)
    assert seconds_until_another(place, host, backend) <= REDRAWS


def test_health_check_node_ports_answer_word_for_word(turn: Turn) -> None:
    """A cloud's load balancer would send clients to nodes without endpoints, or to none (H-01 to H-05)."""
    pages = health_node_port_pages(turn.rig, turn.objects, turn.configs)
    wrong = {
        f"{config.name} {node} v{family}": page
        for (config, node, family), page in pages.items()
        if not same_page(page, expected_page(config, node))
    }
    assert len(pages) >= 100
    assert not wrong, wrong


@pytest.mark.parametrize("family", [4, 6])
def test_health_of_the_proxy_itself(turn: Turn, family: int) -> None:
    """Load balancers and kubelets that ask kube-proxy's port would take a healthy node out (H-08 to H-11, H-14)."""
    status, body = health(turn.rig, turn.rig.node(1), "/healthz", family)
    assert status == 200
    assert body.keys() == {"lastUpdated", "currentTime", "nodeEligible", "healthy", "status"}
    assert body["healthy"] is body["nodeEligible"] is True
    assert {name: entry["healthy"] for name, entry in body["status"].items()} == {"IPv4": True, "IPv6": True}
    status, body = health(turn.rig, turn.rig.node(1), "/livez", family)
    assert status == 200
    assert body.keys() == {"lastUpdated", "currentTime", "healthy", "status"}
    page = proxy_mode(turn.rig.node(1))
    assert (page.status, page.body) == (200, turn.contestant.mode)
    assert page.headers["content-type"].startswith("text/plain")


def test_a_node_that_is_about_to_go_takes_no_new_traffic(turn: Turn) -> None:
    """The autoscaler would cut connections that the load balancer still sends to a node it removes (H-09)."""
    node = turn.rig.node(2)
    try:
        turn.api.patch("Node", node.name, {"spec": {"taints": [TAINT]}})
        wait_until(lambda: health(turn.rig, node, "/healthz")[0] == 503, "/healthz tells of the taint")
        status, body = health(turn.rig, node, "/healthz")
        assert status == 503
        assert (body["healthy"], body["nodeEligible"]) == (True, False)
        assert health(turn.rig, node, "/livez")[0] == 200
    finally:
        turn.api.patch("Node", node.name, {"spec": {"taints": None}})
    wait_until(lambda: health(turn.rig, node, "/healthz")[0] == 200, "/healthz forgets the taint")
