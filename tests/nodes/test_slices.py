"""What Services have behind them: slices, one or many, with their ports, labels and conditions; and more addresses."""

from __future__ import annotations

import pytest

from cluster.api import Api
from support.nodes import Rig

from .expect import answers, hold, refused, served, stays
from .services import HEADLESS, Endpoint, Services, tcp, unready

pytestmark = [pytest.mark.nodes]
#: of the added ServiceCIDR; the rig's clients have routes to it by their nodes
SECOND_RANGE = "198.18.160.0/24"


def test_should_implement_service_kubernetes_io_headless(services: Services, rig: Rig) -> None:
    """Slices that are for name servers only would be balanced over (S-02)."""
    backend, client = rig.node(1).pod(1), rig.node(2).pod(1)
    service = services.create("service-headless-toggled", tcp())
    service.endpoints(backend)
    hold(served(client, service.cluster(), backend))
    service.label_slices(**{HEADLESS: ""})
    hold(refused(client, service.cluster()))
    service.label_slices(**{HEADLESS: None})
    hold(served(client, service.cluster(), backend))


def test_should_support_named_target_ports_that_resolve_to_different_ports_on_different_endpoints(
    services: Services, rig: Rig
) -> None:
    """During a roll-out that moves a container's port, half of the Pods would be unreachable (E-04)."""
    one, two, client = rig.node(1).pod(1), rig.node(2).pod(1), rig.node(1).pod(2)
    two.namespace.serve("moved", two.hosts, 8181)
    try:
        service = services.create("svc-named-ports", type="NodePort")
        service.endpoints(one, part="one")
        service.endpoints(two, ports={"tcp": 8181, "udp": 8181}, part="two")
        for port in ("tcp", "udp"):
            hold(
                served(client, service.cluster(port), one, "moved"),
                served(rig.external, service.node_port(rig.node(1), port), one, "moved"),
            )
    finally:
        two.namespace.cease("moved")


def test_should_support_a_service_with_multiple_ports_specified_in_multiple_endpoint_slices(
    services: Services, rig: Rig
) -> None:
    """Of a Pod whose ports are in two slices, one port would be lost (E-09)."""
    backend, client = rig.node(1).pod(1), rig.node(2).pod(1)
    service = services.create("slices-ports", tcp(80, "first"), tcp(81, "second"))
    service.endpoints(backend, ports={"first": 8080}, part="one")
    service.endpoints(backend, ports={"second": 8080}, part="two")
    hold(served(client, service.cluster("first"), backend), served(client, service.cluster("second"), backend))


def test_should_support_a_service_with_multiple_endpoint_ips_specified_in_multiple_endpoint_slices(
    services: Services, rig: Rig
) -> None:
    """Of a large Service, which has many slices, one slice's Pods would be used only (E-09)."""
    one, two, client = rig.node(1).pod(1), rig.node(2).pod(1), rig.node(1).pod(3)
    service = services.create("slices-ips", tcp(80, "first"), tcp(81, "second"))
    service.endpoints(one, part="one")
    service.endpoints(two, part="two")
    for port in ("first", "second"):
        hold(served(client, service.cluster(port), one, two))
    service.remove_endpoints("one")
    hold(served(client, service.cluster("first"), two), served(client, service.cluster("second"), two))


def test_should_be_able_to_switch_between_blue_and_green_by_ready_conditions(services: Services, rig: Rig) -> None:
    """A release that must not be mixed with the one before it would be: after the first green, never blue again."""
    blue, green, client = rig.node(1).pod(1), rig.node(2).pod(1), rig.node(1).pod(3)
    service = services.create("blue-green", tcp())
    service.endpoints(Endpoint(blue), unready(green))
    hold(served(client, service.cluster(), blue))
    stays(served(client, service.cluster(), blue))
    service.endpoints(unready(blue), Endpoint(green))
    seen = ""
    while seen != green.name:
        (seen,) = answers(client, service.cluster(), 1)
    assert answers(client, service.cluster(), 60) == {green.name: 60}


def test_should_create_services_and_serve_on_different_service_cidrs(services: Services, rig: Rig, api: Api) -> None:
    """A cluster that has run out of addresses and gets more would not serve those."""
    api.create({"kind": "ServiceCIDR", "metadata": {"name": "second"}, "spec": {"cidrs": [SECOND_RANGE]}})
    backend = rig.node(1).pod(1)
    service = services.create("second-range", families=(4,), clusterIP=SECOND_RANGE.replace(".0/24", ".13"))
    service.endpoints(backend)
    clients = (rig.node(1).pod(2), rig.node(2).pod(1), rig.node(2))
    hold(*(served(client, service.cluster(port), backend) for client in clients for port in ("tcp", "udp")))
