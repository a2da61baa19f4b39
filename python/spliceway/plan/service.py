"""Compiles one Service into pools and frontends. Pure: no I/O, no clock.

A Service is planned from its view alone, so that a change costs the same with ten Services and with ten thousand.
What concerns several Services at once (two claimants of one address, loops) is settled by `spliceway.plan.claims`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from spliceway.model import (
    NO_CLIENT,
    Address,
    Backend,
    Balance,
    ClientClass,
    EndpointStates,
    Frontend,
    FrontendKind,
    HealthNodePort,
    Node,
    ObjectKey,
    PoolSpec,
    Problem,
    Protocol,
    RetryPolicy,
    Service,
    ServicePlan,
    ServicePortSpec,
)
from spliceway.plan.frontends import (
    IPV4,
    IPV6,
    FamilyAddresses,
    Scope,
    addresses_of,
    family_of,
    usable_ips,
    warnings_of,
)
from spliceway.plan.listens import missing_service, port_of_listen
from spliceway.plan.policy import Place, external_keeps, internal_keeps
from spliceway.plan.pools import ServicePools, Unhealthy
from spliceway.plan.tuning import Tuning, read_tuning
from spliceway.settings import CaptureMode, DetectLocal, Listen, Settings
from spliceway.store import ServiceView

_BOTH_FAMILIES = frozenset({IPV4, IPV6})


class PlanOptions(msgspec.Struct, frozen=True):
    """What a plan depends on besides the Service. The defaults are those of ordinary sockets on any machine.

    Capture ``bind`` serves ClusterIPs only and cannot keep a client's address; its clients count as Pods.
    """

    tuning: Tuning = Tuning()
    #: None: frontends are those that Services ask for
    listens: Mapping[ObjectKey, tuple[Listen, ...]] | None = None
    #: None: on no node of a cluster, so that policies which ask for local endpoints say nothing; empty: none is local
    node_name: str | None = None
    zone: str = ""
    #: the node IPs, at most one of each family (T-19)
    node_addresses: tuple[str, ...] = ()
    #: the families in which Pods are told from other clients (M-01)
    detector: frozenset[str] = frozenset()
    #: those families are the ones of the Node's podCIDRs
    node_detector: bool = False
    #: clients of ClusterIPs come from the node's address (M-06)
    masquerade_all: bool = True
    external_ips: bool = True
    kinds: frozenset[FrontendKind] = frozenset({FrontendKind.CLUSTER_IP})
    protocols: frozenset[Protocol] = frozenset({Protocol.TCP, Protocol.UDP})
    #: serve only Services whose label service.kubernetes.io/service-proxy-name says so; None: those without it (S-01)
    proxy_name: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> PlanOptions:
        """The options that ``settings`` ask for, until the Node is known."""
        capture, name = settings.capture, settings.node.name
        tuning = Tuning(settings.balance, settings.retry, settings.endpoint_drain, settings.health)
        listens = group_listens(settings.listens) if settings.listens else None
        options = cls(tuning, listens, None if name is None else _node_name(name), proxy_name=settings.node.proxy_name)
        if capture.mode is CaptureMode.BIND:
            return options
        return msgspec.structs.replace(
            options,
            node_name=options.node_name or "",
            detector=_detector(capture.detect_local, capture.cluster_cidrs),
            node_detector=capture.detect_local is DetectLocal.NODE_CIDR,
            masquerade_all=capture.masquerade_all,
            external_ips=capture.external_ips,
            kinds=frozenset(FrontendKind),
        )

    def at_node(self, node: Node | None) -> PlanOptions:
        """These options on ``node``, as the API tells of it now."""
        zone, addresses, pod_cidrs = (node.zone, node.addresses, node.pod_cidrs) if node else ("", (), ())
        detector = frozenset(map(family_of, pod_cidrs)) if self.node_detector else self.detector
        return msgspec.structs.replace(self, zone=zone, node_addresses=addresses, detector=detector)

    def internal_keeps(self, family: str) -> ClientClass:
        """Whose address is kept towards a ClusterIP."""
        return internal_keeps(detector=family in self.detector, masquerade_all=self.masquerade_all)


class EmbeddedPool(msgspec.Struct, frozen=True):
    """A pool that an embedding program gave, behind an address of its choice (None: no frontend any more)."""

    name: str
    address: Address | None
    backends: tuple[Backend, ...]
    balance: Balance = Balance.MAGLEV
    retry: RetryPolicy = RetryPolicy()
    drain: float | None = None
    protocol: Protocol = Protocol.TCP


def group_listens(listens: Iterable[Listen]) -> dict[ObjectKey, tuple[Listen, ...]]:
    """Listen entries by the Service that they name."""
    grouped: dict[ObjectKey, tuple[Listen, ...]] = {}
    for listen in listens:
        key = ObjectKey(listen.namespace, listen.service)
        grouped[key] = (*grouped.get(key, ()), listen)
    return grouped


def plan_service(view: ServiceView, options: PlanOptions, unhealthy: Unhealthy) -> ServicePlan:
    """Everything that one Service asks for; problems name what of it cannot be served."""
    listens = () if options.listens is None else options.listens.get(view.key, ())
    if options.listens is not None and not listens:
        return ServicePlan(view.key)
    if view.service is None:
        return ServicePlan(view.key, problems=tuple(missing_service(view.key, listen) for listen in listens))
    if listens:
        primary = next(map(family_of, usable_ips(view.service)), IPV4)
        return _Planner(view, view.service, primary, options, unhealthy).plan_listens(listens)
    return _plan_asked(view, view.service, options, unhealthy)


def plan_embedded(embedded: EmbeddedPool, unhealthy: Unhealthy) -> ServicePlan:
    """The plan of a pool that came from a caller. Its port stays open even without backends."""
    aside = unhealthy(embedded.name)
    backends = tuple(each._replace(healthy=each.address not in aside) for each in embedded.backends)
    protocol = embedded.protocol
    pool = PoolSpec(embedded.name, backends, embedded.balance, embedded.retry, embedded.drain, protocol)
    frontends = (
        () if embedded.address is None else (Frontend(embedded.address, pool.name, protocol=protocol, keep_open=True),)
    )
    states = EndpointStates(ready=len(backends))
    return ServicePlan(ObjectKey("", pool.name), (pool,), frontends, endpoints=((pool.name, states),))


def _plan_asked(view: ServiceView, service: Service, options: PlanOptions, unhealthy: Unhealthy) -> ServicePlan:
    """Everything that the Service itself asks for."""
    if service.proxy_name != options.proxy_name:
        if service.proxy_name is None:
            return ServicePlan(view.key)
        message = "is left to another proxy by its label service.kubernetes.io/service-proxy-name"
        return ServicePlan(view.key, problems=(Problem(f"Service {view.key}", message, warning=True),))
    found = addresses_of(service, Scope(options.kinds, options.external_ips, options.node_addresses))
    if not found:
        return ServicePlan(view.key)
    return _Planner(view, service, found[0].family, options, unhealthy).plan_addresses(found)


class _Planner:
    """Plans one Service, in one of two ways."""

    def __init__(
        self, view: ServiceView, service: Service, primary: str, options: PlanOptions, unhealthy: Unhealthy
    ) -> None:
        self._view = view
        self._service = service
        self._options = options
        self._tuning, self._problems = read_tuning(service, options.tuning)
        place = Place(options.node_name, options.zone)
        self._pools = ServicePools(view, service, primary, self._tuning, place, unhealthy)
        self._frontends: list[Frontend] = []

    def plan_addresses(self, found: tuple[FamilyAddresses, ...]) -> ServicePlan:
        """Serve the Service where it asks to be."""
        unserved: list[ServicePortSpec] = []
        for port in self._service.ports:
            if port.protocol in self._options.protocols:
                for each in found:
                    self._serve(port, each)
            else:
                unserved.append(port)
        if unserved:
            self._warn_unserved(unserved)
        for message in warnings_of(self._service, found):
            self._warn(message)
        health = self._health_node_port(found) if self._service.health_check_node_port else None
        return self._finish(health, len(unserved))

    def plan_listens(self, listens: tuple[Listen, ...]) -> ServicePlan:
        """Serve the Service where the user asks for it. Such clients count as those of a ClusterIP."""
        for listen in listens:
            port = port_of_listen(self._service, listen, self._options.protocols)
            if isinstance(port, Problem):
                self._problems.append(port)
                continue
            # A gateway's address need not be of the Pods' family: its own is preferred, any that can serve will do.
            own = family_of(listen.address.host)
            other = IPV4 if own == IPV6 else IPV6
            crossed = self._pools.has_usable(port, other) and not self._pools.has_usable(port, own)
            pool, verdict = self._pools.routes(port, other if crossed else own, external=False).internal
            keeps = NO_CLIENT if crossed else self._options.internal_keeps(own)
            self._frontends.append(Frontend(listen.address, pool, verdict, port.protocol, keep_source=keeps))
        return self._finish(None, 0)

    def _serve(self, port: ServicePortSpec, found: FamilyAddresses) -> None:
        """All frontends of one family of a port (2.8)."""
        family, cluster_ip, external, wildcard = found
        node_port = port.node_port if wildcard else 0
        routes = self._pools.routes(port, family, external=bool(external or node_port))
        protocol, number = port.protocol, port.port
        add = self._frontends.append
        if FrontendKind.CLUSTER_IP in self._options.kinds:
            pool, verdict = routes.internal
            keeps = self._options.internal_keeps(family)
            address, kind = Address(cluster_ip, number), FrontendKind.CLUSTER_IP
            add(Frontend(address, pool, verdict, protocol, kind=kind, keep_source=keeps))
        if not (external or node_port):
            return
        pool, verdict = routes.external
        outside = routes.outside
        keeps = external_keeps(external_local=outside is not None)
        for kind, host, sources in external:
            address = Address(host, number)
            add(Frontend(address, pool, verdict, protocol, False, kind, outside, keeps, sources))
        if node_port:
            address, kind = Address(wildcard, node_port), FrontendKind.NODE_PORT
            add(Frontend(address, pool, verdict, protocol, False, kind, outside, keeps))

    def _health_node_port(self, found: tuple[FamilyAddresses, ...]) -> HealthNodePort | None:
        """The port on which a load balancer asks whether this node has endpoints (H-01, H-03, S-09)."""
        wanted = self._service.type == "LoadBalancer" and self._pools.policies.external_local
        if not wanted or FrontendKind.LOAD_BALANCER not in self._options.kinds:
            return None
        node = self._options.node_name
        local = {IPV4: set[str](), IPV6: set[str]()}
        for (family, _, _), (members, _) in self._pools.endpoints.items():
            local[family].update(
                host for (host, _), each in members.items() if node and each.ready and each.node == node
            )
        counts = {each.family: len(local[each.family]) for each in found}
        return HealthNodePort(self._service.health_check_node_port, counts.get(IPV4), counts.get(IPV6))

    def _warn_unserved(self, ports: list[ServicePortSpec]) -> None:
        names = ", ".join(f"{port.name} ({port.port})" if port.name else str(port.port) for port in ports)
        protocols = " and ".join(sorted({port.protocol for port in ports}))
        self._warn(f"port{'s' if len(ports) > 1 else ''} {names}: {protocols} is not served; nothing answers there")

    def _warn(self, message: str) -> None:
        self._problems.append(Problem(f"Service {self._view.key}", message, warning=True))

    def _finish(self, health_node_port: HealthNodePort | None, unserved_ports: int) -> ServicePlan:
        pools, health = self._pools, self._tuning.health
        return ServicePlan(
            key=self._view.key,
            pools=tuple(pools.pools),
            frontends=tuple(self._frontends),
            problems=(*self._problems, *pools.problems),
            endpoints=tuple(pools.states.items()),
            created=self._service.created,
            health_node_port=health_node_port,
            check=None if health is self._options.tuning.health else health,
            no_local_internal=pools.no_local_internal,
            no_local_external=pools.no_local_external,
            unserved_ports=unserved_ports,
            triggered=max([piece.triggered for piece in self._view.slices], default=0.0),
        )


def _node_name(name: str) -> str:
    """As kube-proxy has it (E-07)."""
    return name.strip().lower()


def _detector(mode: DetectLocal, cluster_cidrs: Iterable[str]) -> frozenset[str]:
    """The families with a detector before the Node is known (M-01)."""
    if mode is DetectLocal.CLUSTER_CIDR:
        return frozenset(map(family_of, cluster_cidrs))
    return frozenset() if mode is DetectLocal.NODE_CIDR else _BOTH_FAMILIES
