"""Services without endpoints: clients must learn it at once, and never by a connection that is accepted first."""

from __future__ import annotations

import itertools

import pytest

from support.nodes import Host, Rig
from support.probes import Probe

from .expect import REFUSALS, Expectation, hold, refused, served
from .services import Services, Target, tcp, unready
from .traffic import Traffic

pytestmark = [pytest.mark.nodes]
FLAPS = 25


def _all_refused(clients: list[Host], targets: list[Target]) -> list[Expectation]:
    return [refused(client, target) for client in clients for target in targets]


def test_should_be_rejected_when_no_endpoints_exist(services: Services, rig: Rig) -> None:
    """Clients would wait for a time-out, or take an accepted connection for a working Service (N-01, N-07).

    From before the Service is known until it has been refused for a while, nothing else than silence (nobody knows the
    address yet) and refusal may be seen.
    """
    service = services.create("no-pods", type="NodePort")
    targets = [service.cluster(port) for port in ("tcp", "udp")]
    targets += [service.node_port(node, port) for node in rig.nodes for port in ("tcp", "udp")]
    clients: list[Host] = [rig.node(1).pod(1), rig.node(2).pod(1), rig.node(1)]
    with Traffic(itertools.product(clients, targets), 0.3) as traffic:
        hold(*_all_refused(clients, targets))
        service.endpoints()
        hold(*_all_refused(clients, targets))
        service.endpoints(unready(rig.node(1).pod(2)))
        hold(*_all_refused(clients, targets))
    assert traffic.seen["refused"] >= len(targets) * REFUSALS
    assert traffic.seen["served"] == 0
    assert set(+traffic.seen) <= {"refused", "dropped"}, traffic.seen


@pytest.mark.parametrize("family", [4, 6])
def test_should_be_rejected_for_evicted_pods(services: Services, rig: Rig, family: int) -> None:
    """A Service whose last Pod went would accept clients, or keep them waiting, where it refused at once before."""
    backend, client = rig.node(1).pod(1), rig.node(2).pod(1)
    service = services.create("evicted-pods", tcp())
    target = service.cluster("tcp", family)
    for _ in range(5):
        service.endpoints(backend)
        hold(served(client, target, backend))
        service.endpoints()
        # From now on connections are answered, which the backend can, or refused: nothing in between.
        (seen,) = client.namespace.probe([Probe(*target, 30, 30, timeout=3.0)])
        assert (seen.dropped, seen.faults) == (0, {}), seen
        hold(refused(client, target), refused(rig.node(1), target))


def test_endpoints_that_come_and_go_never_show_a_wrong_answer(services: Services, rig: Rig) -> None:
    """Every change between refusing and serving would be an outage of its own."""
    backend = rig.node(1).pod(1)
    clients: list[Host] = [rig.node(2).pod(1), rig.node(1).pod(2), rig.node(1)]
    service = services.create("flapping", tcp())
    targets = [service.cluster("tcp", family) for family in (4, 6)]
    hold(*_all_refused(clients, targets))
    with Traffic(itertools.product(clients, targets), 0.9) as traffic:
        for _ in range(FLAPS):
            service.endpoints(backend)
            service.endpoints()
        service.endpoints(backend)
        hold(*(served(client, target, backend) for client in clients for target in targets))
    assert set(+traffic.seen) == {"refused", "served"}, traffic.seen
