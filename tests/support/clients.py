"""What clients of a plan meet: the reading of a `ServicePlan` that capture and engine must have of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from spliceway.model import (
    Address,
    ClientClass,
    EndpointSlice,
    Frontend,
    FrontendVerdict,
    Protocol,
    Service,
    ServicePlan,
    SliceEndpoint,
)
from spliceway.plan.service import PlanOptions, plan_service
from spliceway.settings import CaptureMode, CaptureSettings, NodeSettings, Settings
from spliceway.store import ServiceView
from support.objects import endpoints

POD, NODE, EXT = ClientClass.POD, ClientClass.NODE, ClientClass.EXT

REJECT, DROP = "REJECT", "DROP"

#: the addresses that `everywhere` gives a Service
CLUSTER_IP, EXTERNAL_IP, VIP = Address("172.30.0.41", 80), Address("198.51.100.7", 80), Address("5.6.7.8", 80)
NODE_PORT = Address("0.0.0.0", 30080)


class Meeting(NamedTuple):
    """What a client meets. ``hosts``: the endpoints that may serve it, as text."""

    hosts: str
    #: it comes from the node's address; None: it is not served
    masqueraded: bool | None = None


def node_options(name: str = "here", *, cidrs: Iterable[str] = ("10.0.0.0/8",), **more: Any) -> PlanOptions:
    """The options of a node agent; without ``cidrs`` there is no detector."""
    capture = CaptureSettings(mode=CaptureMode.TPROXY, cluster_cidrs=tuple(cidrs))
    options = PlanOptions.of(Settings(capture=capture, node=NodeSettings(name=name)))
    return msgspec.structs.replace(options, **more)


def everywhere(service: Service) -> Service:
    """``service`` with every kind of frontend; its first port has the NodePort."""
    first = msgspec.structs.replace(service.ports[0], node_port=NODE_PORT.port)
    return msgspec.structs.replace(
        service,
        type="LoadBalancer",
        cluster_ips=(CLUSTER_IP.host,),
        external_ips=(EXTERNAL_IP.host,),
        ingress_ips=(VIP.host,),
        ports=(first, *service.ports[1:]),
    )


def plan_of(service: Service, *slices: EndpointSlice, options: PlanOptions | None = None) -> ServicePlan:
    """The plan of ``service``, with nothing set aside by health."""
    view = ServiceView(service.key, service, slices)
    return plan_service(view, options or node_options(), lambda pool: ())


def plan_endpoints(service: Service, given: Iterable[SliceEndpoint], options: PlanOptions) -> ServicePlan:
    """The plan of ``service`` with these endpoints."""
    return plan_of(service, endpoints(service.key.name, *given), options=options)


def meets(
    plan: ServicePlan, address: Address, client: ClientClass, source: str = "", protocol: Protocol = Protocol.TCP
) -> Meeting:
    """What a client of this class and source address meets at ``address``."""
    frontend = _find(plan, address, protocol)
    if frontend.sources and not any(
        ipaddress.ip_address(source) in ipaddress.ip_network(each) for each in frontend.sources
    ):
        return Meeting(DROP)
    pool, verdict = frontend.pool, frontend.verdict
    if client is EXT and frontend.external:
        pool, verdict = frontend.external
    if verdict is not FrontendVerdict.SERVE:
        return Meeting(verdict.upper())
    backends = next(each.backends for each in plan.pools if each.name == pool)
    hosts = ",".join(sorted(backend.host for backend in backends if backend.weight))
    return Meeting(hosts, not client & frontend.keep_source)


def _find(plan: ServicePlan, address: Address, protocol: Protocol) -> Frontend:
    """The frontend of its own, or else the wildcard one (D-01)."""
    for host in (address.host, "0.0.0.0", "::"):
        for each in plan.frontends:
            if each.key == (Address(host, address.port), protocol):
                return each
    raise AssertionError(f"{address} is not a frontend")
