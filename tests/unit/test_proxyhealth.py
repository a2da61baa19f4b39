"""/healthz and /livez, to the letter (H-08 to H-10): load balancers and probes decide by them about the node."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from spliceway.model import Node, ObjectKey
from spliceway.observe.http import Response
from spliceway.observe.proxyhealth import ProxyHealth
from spliceway.observe.syncs import UNHEALTHY_AFTER, SyncTimes
from support.fakeobserved import FakeObserved

START = 1_700_000_000.0


class Clock:
    """Both clocks of `SyncTimes`, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def times(self) -> SyncTimes:
        return SyncTimes(lambda: self.now, lambda: START + self.now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def observed(clock: Clock) -> FakeObserved:
    observed = FakeObserved()
    observed.syncs = clock.times()
    observed.present_node = Node(ObjectKey("", "n1"))
    return observed


def body_of(response: Response) -> dict[str, Any]:
    assert response.content_type == "application/json"
    body: dict[str, Any] = json.loads(response.body)
    return body


def seconds(text: str) -> float:
    assert text.endswith("Z")
    return datetime.fromisoformat(text).timestamp()


def test_a_change_that_waits_for_a_minute_is_unhealthy(clock: Clock, observed: FakeObserved) -> None:
    """A node whose proxy hangs would go on getting clients, or one that works would lose them (H-08)."""
    health = ProxyHealth(observed, on_node=True)
    clock.now = 1000.0
    assert health.healthz().status == 200  # nothing waits: an idle cluster is a healthy one
    observed.syncs.queued()
    clock.now += UNHEALTHY_AFTER
    observed.syncs.queued()  # a later change does not make the first one younger
    assert (health.healthz().status, health.livez().status) == (200, 200)
    clock.now += 1
    assert (health.healthz().status, health.livez().status) == (503, 503)
    observed.syncs.synced(0.1, full=False)
    assert (health.healthz().status, health.livez().status) == (200, 200)
    assert health.healthz_codes == {200: 3, 503: 1}
    assert health.livez_codes == {200: 2, 503: 1}


def test_what_is_queued_while_a_turn_runs_is_still_waiting_after_it(clock: Clock) -> None:
    """A change that came a moment too late could hang for ever without anybody being told."""
    times = clock.times()
    times.queued()
    clock.now = 5.0
    times.queued()
    clock.now = 6.0
    times.synced(2.0, full=False)
    clock.now = 5.0 + UNHEALTHY_AFTER
    assert times.healthy
    clock.now += 1.0
    assert not times.healthy
    times.synced(0.5, full=False)
    assert times.healthy


def test_rules_that_the_kernel_refuses_for_a_minute_are_unhealthy(clock: Clock, observed: FakeObserved) -> None:
    """A node whose packet rules are old would go on getting clients: to the pipeline every turn ended well."""
    holds = [True]
    health = ProxyHealth(observed, on_node=True, holds=lambda: holds[0], clock=lambda: clock.now)
    assert health.healthy
    clock.now += 1000
    holds[0] = False
    assert health.healthy
    clock.now += UNHEALTHY_AFTER
    assert health.healthy
    clock.now += 1
    assert (health.healthz().status, health.livez().status, health.serving) == (503, 503, False)
    holds[0] = True
    assert health.livez().status == 200
    holds[0] = False
    assert health.healthy  # it begins anew


def test_the_api_that_never_answers_makes_it_unhealthy(clock: Clock) -> None:
    """An agent that never got a complete list would look well for ever (H-13)."""
    times = clock.times()
    times.queued()
    clock.now = UNHEALTHY_AFTER + 1
    assert not times.healthy


@pytest.mark.parametrize(
    "node", [None, Node(ObjectKey("", "n1"), eligible=False)], ids=["unknown", "about to be deleted"]
)
def test_an_ineligible_node_gets_no_clients_but_no_restart_either(observed: FakeObserved, node: Node | None) -> None:
    """The autoscaler's nodes would take clients to their end, or the kubelet would restart the proxy for it (H-09)."""
    health = ProxyHealth(observed, on_node=True)
    assert health.healthz().status == 200
    observed.present_node = node
    assert (health.healthz().status, health.livez().status) == (503, 200)
    body = body_of(health.healthz())
    assert (body["nodeEligible"], body["healthy"]) == (False, True)


def test_an_agent_that_serves_no_node_needs_none() -> None:
    """A gateway or a laptop would never be healthy."""
    assert ProxyHealth(FakeObserved(), on_node=False).healthz().status == 200


def test_a_draining_agent_gets_no_new_clients(observed: FakeObserved) -> None:
    """A load balancer would send clients to a node whose frontends are gone already."""
    health = ProxyHealth(observed, on_node=True)
    observed.is_draining = True
    assert (health.healthz().status, health.livez().status) == (503, 200)
    assert body_of(health.healthz())["draining"] is True
    assert not health.serving


def test_the_body_is_kube_proxys(clock: Clock, observed: FakeObserved) -> None:
    """Whoever parses kube-proxy's answer could not parse ours (H-10)."""
    health = ProxyHealth(observed, on_node=True)
    clock.now = 50.0
    observed.syncs.synced(0.1, full=True)
    body = body_of(health.healthz())
    assert list(body) == ["lastUpdated", "currentTime", "nodeEligible", "healthy", "status"]
    assert body["lastUpdated"] == body["currentTime"]
    assert list(body["status"]) == ["IPv4", "IPv6"]
    for family in body["status"].values():
        assert list(family) == ["lastUpdated", "healthy"]
        assert seconds(family["lastUpdated"]) == START + 50.0
    assert "nodeEligible" not in body_of(health.livez())
    observed.syncs.queued()
    clock.now = 500.0
    body = body_of(health.livez())
    assert seconds(body["lastUpdated"]) == START + 50.0
    assert body["healthy"] is False
    assert body["status"]["IPv6"]["healthy"] is False
