"""Compiles one Service into pools and frontends. Pure: no I/O, no clock.

A Service is planned from its view alone, so that a change costs the same with ten Services and with ten thousand.
What concerns several Services at once (two claimants of one address, loops) is settled by `spliceway.claims`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

import msgspec

from spliceway.model import (
    Address,
    Backend,
    Balance,
    EndpointSlice,
    EndpointStates,
    Frontend,
    FrontendVerdict,
    ObjectKey,
    PoolSpec,
    Problem,
    Protocol,
    RetryPolicy,
    Service,
    ServicePlan,
    ServicePortSpec,
)
from spliceway.settings import Listen, Settings
from spliceway.store import ServiceView
from spliceway.tuning import Tuning, read_tuning

#: backends of a pool that health has set aside, by the pool's name
Unhealthy = Callable[[str], Collection[Address]]

IPV4 = "IPv4"
IPV6 = "IPv6"


class PlanOptions(msgspec.Struct, frozen=True):
    """What a plan depends on besides the Service. ``listens`` None: frontends are the ClusterIPs."""

    tuning: Tuning = Tuning()
    drain: float | None = None
    listens: Mapping[ObjectKey, tuple[Listen, ...]] | None = None

    @classmethod
    def of(cls, settings: Settings) -> PlanOptions:
        """The options that ``settings`` ask for."""
        tuning = Tuning(settings.balance, settings.retry)
        listens = group_listens(settings.listens) if settings.listens else None
        return cls(tuning, settings.endpoint_drain, listens)


class EmbeddedPool(msgspec.Struct, frozen=True):
    """A pool that an embedding program gave, behind an address of its choice (None: no frontend any more)."""

    name: str
    address: Address | None
    backends: tuple[Backend, ...]
    balance: Balance = Balance.MAGLEV
    retry: RetryPolicy = RetryPolicy()
    drain: float | None = None


class Rank(IntEnum):
    """How usable an endpoint is; of two entries with one address, the better one counts (E-09)."""

    UNREADY = 0
    TERMINATING = 1
    READY = 2


#: host and port of each endpoint of one service port, with its rank
Endpoints = dict[tuple[str, int], Rank]


class _PortPlan(NamedTuple):
    pool: PoolSpec
    states: EndpointStates


def group_listens(listens: Iterable[Listen]) -> dict[ObjectKey, tuple[Listen, ...]]:
    """Listen entries by the Service that they name."""
    grouped: dict[ObjectKey, tuple[Listen, ...]] = {}
    for listen in listens:
        key = ObjectKey(listen.namespace, listen.service)
        grouped[key] = (*grouped.get(key, ()), listen)
    return grouped


def pool_name(key: ObjectKey, port: str, family: str, primary: str) -> str:
    """``namespace/service:port``; the Service's second family is a pool of its own, with a suffix (S-04, W-26)."""
    suffix = "" if family == primary else f"@{family.lower()}"
    return f"{key}:{port}{suffix}" if port else f"{key}{suffix}"


def plan_service(view: ServiceView, options: PlanOptions, unhealthy: Unhealthy) -> ServicePlan:
    """Everything that one Service asks for; problems name what of it cannot be served."""
    listens = () if options.listens is None else options.listens.get(view.key, ())
    if options.listens is not None and not listens:
        return ServicePlan(view.key)
    if view.service is None:
        return ServicePlan(view.key, problems=tuple(_missing(view.key, listen) for listen in listens))
    if listens:
        return _plan_listens(view, view.service, listens, options, unhealthy)
    return _plan_cluster_ips(view, view.service, options, unhealthy)


def plan_embedded(embedded: EmbeddedPool, unhealthy: Unhealthy) -> ServicePlan:
    """The plan of a pool that came from a caller. Its port stays open even without backends."""
    aside = unhealthy(embedded.name)
    backends = tuple(each._replace(healthy=each.address not in aside) for each in embedded.backends)
    pool = PoolSpec(embedded.name, backends, embedded.balance, embedded.retry, embedded.drain)
    frontends = () if embedded.address is None else (Frontend(embedded.address, pool.name, keep_open=True),)
    states = EndpointStates(ready=len(backends))
    return ServicePlan(ObjectKey("", pool.name), (pool,), frontends, endpoints=((pool.name, states),))


def merge_endpoints(slices: Iterable[EndpointSlice]) -> dict[tuple[str, str], Endpoints]:
    """The union of all slices by address type and port name (E-03, E-09, E-13).

    Entries of equal rank differ in nothing that a pool shows, so which of them counts does not matter.
    """
    merged: dict[tuple[str, str], Endpoints] = {}
    for piece in slices:
        for port in piece.ports:
            if port.protocol is not Protocol.TCP:
                continue
            endpoints = merged.setdefault((piece.address_type, port.name), {})
            for each in piece.endpoints:
                rank = Rank.READY if each.ready else Rank.UNREADY
                if rank is Rank.UNREADY and each.serving and each.terminating:
                    rank = Rank.TERMINATING
                address = (each.address, port.port)
                if rank > endpoints.get(address, -1):
                    endpoints[address] = rank
    return merged


def cluster_set(endpoints: Endpoints) -> list[tuple[str, int]]:
    """The endpoints that cluster traffic may use, sorted by ``ip:port`` (T-01, T-03, T-04, E-10).

    Ready ones; only when there is none, those that still serve while they terminate.
    """
    usable = [address for address, rank in endpoints.items() if rank is Rank.READY]
    if not usable:
        usable = [address for address, rank in endpoints.items() if rank is Rank.TERMINATING]
    return sorted(usable, key=lambda address: f"{address[0]}:{address[1]}")


class _Planner:
    """Plans the service ports of one Service, each family of each port once."""

    def __init__(self, view: ServiceView, service: Service, options: PlanOptions, unhealthy: Unhealthy) -> None:
        self.key = view.key
        self.created = service.created
        self.tuning, self.problems = read_tuning(service, options.tuning)
        self.primary = next((family_of(ip) for ip in usable_ips(service)), IPV4)
        self._drain = options.drain
        self._unhealthy = unhealthy
        self._slices = view.slices
        self._merged = merge_endpoints(view.slices)
        self._ports: dict[str, _PortPlan] = {}

    def has_usable(self, port: ServicePortSpec, family: str) -> bool:
        return any(self._merged.get((family, port.name), {}).values())

    def pool(self, port: ServicePortSpec, family: str) -> PoolSpec:
        name = pool_name(self.key, port.name, family, self.primary)
        if name not in self._ports:
            self._check_names(port)
            self._ports[name] = self._plan_port(name, self._merged.get((family, port.name), {}))
        return self._ports[name].pool

    def frontend(self, address: Address, port: ServicePortSpec, family: str) -> Frontend:
        """Without a usable endpoint clients are refused at once (N-01)."""
        pool = self.pool(port, family)
        return Frontend(address, pool.name, FrontendVerdict.SERVE if pool.backends else FrontendVerdict.REJECT)

    def finish(self, frontends: Iterable[Frontend]) -> ServicePlan:
        pools = tuple(each.pool for each in self._ports.values())
        endpoints = tuple((name, each.states) for name, each in self._ports.items())
        return ServicePlan(self.key, pools, tuple(frontends), tuple(self.problems), endpoints, self.created)

    def _check_names(self, port: ServicePortSpec) -> None:
        """Name a port that no slice has: ports match by name and protocol (E-03). Slices without endpoints say none."""
        if any((family, port.name) in self._merged for family in (IPV4, IPV6)):
            return
        used = [piece for piece in self._slices if piece.endpoints]
        if not used:
            return
        have = ", ".join(sorted({f"{other.name!r} ({other.protocol})" for piece in used for other in piece.ports}))
        message = f"no EndpointSlice has a port named {port.name!r} ({port.protocol}); they have {have or 'none'}"
        problem = Problem(f"Service {self.key}", message, warning=True)
        if problem not in self.problems:  # said for the other family already
            self.problems.append(problem)

    def _plan_port(self, name: str, endpoints: Endpoints) -> _PortPlan:
        aside = self._unhealthy(name)
        backends = tuple(Backend(host, port, 1, (host, port) not in aside) for host, port in cluster_set(endpoints))
        ranks = list(endpoints.values())
        states = EndpointStates(*(ranks.count(rank) for rank in (Rank.READY, Rank.TERMINATING, Rank.UNREADY)))
        return _PortPlan(PoolSpec(name, backends, self.tuning.balance, self.tuning.retry, self._drain), states)


def family_of(ip: str) -> str:
    """``IPv4`` or ``IPv6``, for an address in canonical form."""
    return IPV6 if ":" in ip else IPV4


def usable_ips(service: Service) -> tuple[str, ...]:
    """The ClusterIPs, one for each family (S-03, S-04); empty for a headless Service."""
    first: dict[str, str] = {}
    for ip in service.cluster_ips:
        if ip not in ("", "None"):
            first.setdefault(family_of(ip), ip)
    return tuple(first.values())


def _plan_cluster_ips(view: ServiceView, service: Service, options: PlanOptions, unhealthy: Unhealthy) -> ServicePlan:
    if service.proxy_name is not None:
        message = "is left to another proxy by its label service.kubernetes.io/service-proxy-name"
        return ServicePlan(view.key, problems=(Problem(f"Service {view.key}", message, warning=True),))
    ips = () if service.type == "ExternalName" else usable_ips(service)
    if not ips:
        return ServicePlan(view.key)
    planner = _Planner(view, service, options, unhealthy)
    frontends: list[Frontend] = []
    for port in service.ports:
        if port.protocol is Protocol.TCP:
            frontends.extend(planner.frontend(Address(ip, port.port), port, family_of(ip)) for ip in ips)
        else:
            label = f"{port.name} ({port.port})" if port.name else str(port.port)
            message = f"port {label}: {port.protocol} is not served by capture bind, which serves TCP only"
            planner.problems.append(Problem(f"Service {view.key}", message, warning=True))
    return planner.finish(frontends)


def _plan_listens(
    view: ServiceView, service: Service, listens: tuple[Listen, ...], options: PlanOptions, unhealthy: Unhealthy
) -> ServicePlan:
    planner = _Planner(view, service, options, unhealthy)
    frontends: list[Frontend] = []
    for listen in listens:
        port = _listen_port(service, listen)
        if isinstance(port, Problem):
            planner.problems.append(port)
            continue
        # A gateway's address need not be of the Pods' family: its own is preferred, any that can serve will do.
        own = family_of(listen.address.host)
        other = IPV4 if own == IPV6 else IPV6
        family = other if planner.has_usable(port, other) and not planner.has_usable(port, own) else own
        frontends.append(planner.frontend(listen.address, port, family))
    return planner.finish(frontends)


def _listen_port(service: Service, listen: Listen) -> ServicePortSpec | Problem:
    """The TCP port that ``listen`` means, or why there is none."""
    subject = f"Frontend {listen.address}"
    if service.type == "ExternalName":
        return Problem(subject, f"Service {service.key} is of type ExternalName and has no endpoints to serve")
    ports = [port for port in service.ports if port.protocol is Protocol.TCP]
    names = ", ".join(port.name or str(port.port) for port in ports) or "none"
    if listen.port_name is None:
        if len(ports) == 1:
            return ports[0]
        return Problem(subject, f"Service {service.key} has {len(ports)} TCP ports ({names}); name exactly one of them")
    for port in ports:
        if port.name == listen.port_name:
            return port
    return Problem(subject, f"Service {service.key} has no TCP port named {listen.port_name}; it has: {names}")


def _missing(key: ObjectKey, listen: Listen) -> Problem:
    message = f"Service {key} does not exist; the address stays closed until it does"
    return Problem(f"Frontend {listen.address}", message)
