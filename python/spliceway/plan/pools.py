"""Makes the pools of one Service, and tells which of them its clients use. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from spliceway.model import (
    Address,
    Affinity,
    Backend,
    EndpointStates,
    ExternalRoute,
    FrontendVerdict,
    ObjectKey,
    PoolSpec,
    Problem,
    Protocol,
    Service,
    ServicePortSpec,
)
from spliceway.plan.endpoints import NO_ENDPOINTS, Location, PortEndpoints, merge_endpoints
from spliceway.plan.frontends import IPV4, IPV6
from spliceway.plan.policy import Place, Policies, endpoint_sets, policies_of, serving_set, verdict
from spliceway.plan.tuning import Tuning, read_weight
from spliceway.store import ServiceView

#: backends of a pool that health has set aside, by the pool's name
Unhealthy = Callable[[str], Collection[Address]]

#: pool and verdict, for one kind of client
Route = ExternalRoute


class PortRoutes(NamedTuple):
    """Where the clients of a service port go, in one family."""

    #: clients of the ClusterIP
    internal: Route
    #: Pods and the node, at NodePorts, external IPs and load balancers
    external: Route
    #: clients from outside there, where they get something else (externalTrafficPolicy: Local)
    outside: Route | None = None


def pool_name(key: ObjectKey, port: str, family: str, primary: str) -> str:
    """``namespace/service:port``; the Service's second family is a pool of its own, with a suffix (S-04, W-26)."""
    suffix = "" if family == primary else f"@{family.lower()}"
    return f"{key[0]}/{key[1]}:{port}{suffix}" if port else f"{key[0]}/{key[1]}{suffix}"


class ServicePools:
    """The pools of one Service: those of each family of each port are made once, and only when somebody uses them.

    ``primary`` is the Service's first family.
    """

    def __init__(
        self, view: ServiceView, service: Service, primary: str, tuning: Tuning, place: Place, unhealthy: Unhealthy
    ) -> None:
        self.policies = policies_of(service, place)
        self.problems: list[Problem] = []
        self.pools: list[PoolSpec] = []
        #: by the name of the service port, which is the cluster pool's
        self.states: dict[str, EndpointStates] = {}
        #: families of ports that have no local endpoint where only such may be used (N-08)
        self.no_local_internal = self.no_local_external = 0
        self.endpoints = merge_endpoints(view.slices, self._weights(view))
        self._view = view
        self._tuning = tuning
        self._place = place
        self._unhealthy = unhealthy
        self._primary = primary
        self._affinity = float(service.affinity_timeout) if service.session_affinity == "ClientIP" else None
        self._routes: dict[str, PortRoutes] = {}

    def has_usable(self, port: ServicePortSpec, family: str) -> bool:
        """Some endpoint of the port takes new flows in ``family``."""
        return endpoint_sets(self._endpoints(port, family), self._place, Policies()).has_any

    def routes(self, port: ServicePortSpec, family: str, *, external: bool) -> PortRoutes:
        """Where clients of ``port`` go; ``external``: some come by other addresses than the ClusterIP (S-11)."""
        name = pool_name(self._view.key, port.name, family, self._primary)
        known = self._routes.get(name)
        if known is None:
            known = self._routes[name] = self._plan(name, port, family, external)
        return known

    def _plan(self, name: str, port: ServicePortSpec, family: str, external: bool) -> PortRoutes:
        endpoints = self._endpoints(port, family)
        if endpoints is NO_ENDPOINTS:
            self._check_names(port)
        internal_local, external_local, _ = self.policies
        sets = endpoint_sets(endpoints, self._place, Policies(internal_local, external_local, external))
        self.states[name] = sets.states
        if sets.local is None:
            cluster = self._route(name, name, port.protocol, endpoints, sets.cluster or [], sets.has_any)
            return PortRoutes(cluster, cluster)
        local = self._route(f"{name}@local", name, port.protocol, endpoints, sets.local, sets.has_any)
        cluster = local
        if sets.cluster is not None:
            cluster = self._route(name, name, port.protocol, endpoints, sets.cluster, sets.has_any)
        outside = local if external and external_local else None
        if local.verdict is FrontendVerdict.DROP:
            self.no_local_internal += internal_local
            self.no_local_external += outside is not None
        return PortRoutes(local if internal_local else cluster, cluster, outside)

    def _route(
        self,
        name: str,
        service_port: str,
        protocol: Protocol,
        endpoints: PortEndpoints,
        used: list[Location],
        has_any: bool,
    ) -> Route:
        """Make pool ``name`` of the endpoints ``used``, and tell what its clients meet."""
        backends = _backends(sorted(used, key=_text), endpoints.weights, self._unhealthy(name))
        usable = any(backend.weight for backend in backends)
        if protocol is Protocol.UDP:
            # Sessions stay with what serves, whatever policies, hints and readiness say of new ones (C-05, C-08).
            chosen = set(used)
            rest = (each for each in serving_set(endpoints) if each not in chosen)
            backends += tuple(Backend(host, port, 0) for host, port in sorted(rest, key=_text))
        tuning = self._tuning
        affinity = None if self._affinity is None else Affinity(service_port, self._affinity)
        self.pools.append(PoolSpec(name, backends, tuning.balance, tuning.retry, tuning.drain, protocol, affinity))
        return Route(name, verdict(usable=usable, has_any=has_any))

    def _endpoints(self, port: ServicePortSpec, family: str) -> PortEndpoints:
        return self.endpoints.get((family, port.name, port.protocol), NO_ENDPOINTS)

    def _weights(self, view: ServiceView) -> dict[ObjectKey, int]:
        """The weights of slices that have an annotation."""
        weights: dict[ObjectKey, int] = {}
        for piece in view.slices:
            if piece.tuning:
                weights[piece.key], problems = read_weight(piece)
                self.problems.extend(problems)
        return weights

    def _check_names(self, port: ServicePortSpec) -> None:
        """Name a port that no slice has: ports match by name and protocol (E-03). Slices without endpoints say none."""
        if any((family, port.name, port.protocol) in self.endpoints for family in (IPV4, IPV6)):
            return
        used = [piece for piece in self._view.slices if piece.endpoints]
        if not used:
            return
        have = ", ".join(sorted({f"{other.name!r} ({other.protocol})" for piece in used for other in piece.ports}))
        message = f"no EndpointSlice has a port named {port.name!r} ({port.protocol}); they have {have or 'none'}"
        problem = Problem(f"Service {self._view.key}", message, warning=True)
        if problem not in self.problems:  # said for the other family already
            self.problems.append(problem)


def _text(location: Location) -> str:
    """Endpoints are sorted by it, so that equal sets make equal pools (E-10)."""
    return f"{location[0]}:{location[1]}"


def _backends(used: list[Location], weights: Mapping[Location, int], aside: Collection[Address]) -> tuple[Backend, ...]:
    if not weights and not aside:
        return tuple([Backend(host, port) for host, port in used])
    return tuple(Backend(host, port, weights.get((host, port), 1), (host, port) not in aside) for host, port in used)
