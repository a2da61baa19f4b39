"""What one Service asks for."""

from __future__ import annotations

import msgspec

from spliceway.model.facts import Problem
from spliceway.model.frontends import Frontend
from spliceway.model.health import HealthCheck
from spliceway.model.names import ObjectKey
from spliceway.model.pools import PoolSpec


class EndpointStates(msgspec.Struct, frozen=True, gc=False):
    """How many endpoints of a service port are in which state, before health."""

    ready: int = 0
    terminating: int = 0
    unready: int = 0


class HealthNodePort(msgspec.Struct, frozen=True, gc=False):
    """A ``healthCheckNodePort`` (H-01). ``local``: this node's distinct ready endpoint IPs, by family (H-03)."""

    port: int
    local_ipv4: int | None = None
    local_ipv6: int | None = None


class ServicePlan(msgspec.Struct, frozen=True, gc=False):
    """Everything that one Service asks for. ``problems`` name what of it cannot be served."""

    key: ObjectKey
    pools: tuple[PoolSpec, ...] = ()
    frontends: tuple[Frontend, ...] = ()
    problems: tuple[Problem, ...] = ()
    #: by pool name
    endpoints: tuple[tuple[str, EndpointStates], ...] = ()
    #: of the Service; decides between two claimants of one address (S-14)
    created: str = ""
    health_node_port: HealthNodePort | None = None
    #: set where the Service asks for a check of its own (annotations); None: the agent's
    check: HealthCheck | None = None
    #: service ports of this plan without a local endpoint where only local ones may be used (N-08)
    no_local_internal: int = 0
    no_local_external: int = 0
    #: its SCTP ports, which are not served
    unserved_ports: int = 0
    #: the latest ``last-change-trigger-time`` of its slices (W-13); 0: none
    triggered: float = 0.0
