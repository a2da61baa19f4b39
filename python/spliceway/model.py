"""The values that flow through the pipeline. Frozen, typed, and free of behaviour that needs I/O.

``source`` makes facts (`Upsert`, `Delete`, ...) of decoded objects (`Service`, `EndpointSlice`), ``plan`` makes
`PoolSpec` and `Frontend` of them, ``diff`` makes steps, ``observe`` reads counters, and ``health`` makes `Verdict`.
``gc=False``: these structs never form cycles, and 100,000 endpoints should not slow the collector down.
"""

from __future__ import annotations

import ipaddress
from enum import IntFlag, StrEnum
from typing import NamedTuple

import msgspec

# --- names ---------------------------------------------------------------------------------------------------------


class ObjectKey(NamedTuple):
    """Namespace and name of a Kubernetes object; the namespace of one that is in none, as a Node, is ""."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Kind(StrEnum):
    """The kinds of object that are read."""

    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    NODE = "Node"


class Protocol(StrEnum):
    """Transport protocols that Kubernetes knows for a Service port."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class Address(NamedTuple):
    """An IP address in its canonical text form and a port (1 to 65535; 0 asks the kernel for one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``10.0.0.1:80`` or ``[fd00::1]:80`` and return it in canonical form.

        An IPv4-mapped IPv6 address is the IPv4 address, which is where it leads.

        Raises:
            ValueError: it is not an IP address and a port, or has a zone; the text says what is wrong.
        """
        host, separator, port = text.strip().rpartition(":")
        if not separator or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ValueError(f"{text!r} is not ADDRESS:PORT with a port of 0 to 65535")
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
        except ValueError:
            raise ValueError(f"{text!r} is not ADDRESS:PORT: {host!r} is not an IP address") from None
        if bracketed != (ip.version == 6):
            raise ValueError(f"{text!r} is not ADDRESS:PORT: write IPv6 addresses, and only them, in [brackets]")
        if isinstance(ip, ipaddress.IPv6Address):
            if ip.scope_id is not None:
                raise ValueError(f"{text!r} has a zone, which is not supported; use an address without one")
            ip = ip.ipv4_mapped or ip
        return cls(str(ip), int(port))


# --- decoded objects: only the fields that are used ------------------------------------------------------------------


class ServicePortSpec(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``spec.ports`` of a Service. ``node_port`` 0: none."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0


class Service(msgspec.Struct, frozen=True, gc=False):
    """A Service, reduced to what the plan needs. Addresses are canonical."""

    key: ObjectKey
    type: str
    cluster_ips: tuple[str, ...]
    ports: tuple[ServicePortSpec, ...]
    session_affinity: str = "None"
    #: seconds that a client stays with its backend after its last new flow (S-08)
    affinity_timeout: int = 10800
    #: ``spec.externalIPs`` (S-05), and ``status.loadBalancer.ingress[].ip`` with ipMode unset or VIP (S-06)
    external_ips: tuple[str, ...] = ()
    ingress_ips: tuple[str, ...] = ()
    #: ``spec.loadBalancerSourceRanges`` as canonical CIDRs of both families (S-07); empty: everyone may come
    source_ranges: tuple[str, ...] = ()
    #: ``internalTrafficPolicy: Local`` and ``externalTrafficPolicy: Local``, as written (S-10 is the plan's)
    internal_local: bool = False
    external_local: bool = False
    #: 0: none
    health_check_node_port: int = 0
    #: value of label ``service.kubernetes.io/service-proxy-name`` (S-01), None when absent
    proxy_name: str | None = None
    #: annotations under ``spliceway.io/``, the prefix removed
    tuning: tuple[tuple[str, str], ...] = ()
    resource_version: str = ""
    #: ``metadata.creationTimestamp`` as written; empty when unknown. The oldest claimant of an address wins (S-14)
    created: str = ""


class SlicePort(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``ports`` of an EndpointSlice that has a name and a port (E-03)."""

    name: str
    protocol: Protocol
    port: int


class SliceEndpoint(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``endpoints`` of an EndpointSlice; conditions have their defaults applied (E-06)."""

    address: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str | None = None
    #: ``hints.forZones`` and ``hints.forNodes`` (E-08)
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()


class EndpointSlice(msgspec.Struct, frozen=True, gc=False):
    """An EndpointSlice of addressType IPv4 or IPv6. ``service`` is label ``kubernetes.io/service-name`` (E-01)."""

    key: ObjectKey
    service: str
    address_type: str
    ports: tuple[SlicePort, ...]
    endpoints: tuple[SliceEndpoint, ...]
    resource_version: str = ""
    #: annotations under ``spliceway.io/``, the prefix removed
    tuning: tuple[tuple[str, str], ...] = ()
    #: annotation ``endpoints.kubernetes.io/last-change-trigger-time`` in seconds since the epoch; 0: none (W-13)
    triggered: float = 0.0


class Node(msgspec.Struct, frozen=True, gc=False):
    """The Node that the agent runs on, reduced to what the agent needs (section 3.5). Its namespace is ""."""

    key: ObjectKey
    #: label ``topology.kubernetes.io/zone``; empty when absent (T-10)
    zone: str = ""
    #: the node IPs: the first InternalIP (else ExternalIP), and the first of the other family (W-23)
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    #: False: being deleted, or tainted ``ToBeDeletedByClusterAutoscaler`` (H-09)
    eligible: bool = True
    resource_version: str = ""


KubernetesObject = Service | EndpointSlice | Node

_KINDS: dict[type, Kind] = {Service: Kind.SERVICE, EndpointSlice: Kind.ENDPOINT_SLICE, Node: Kind.NODE}


def kind_of(obj: KubernetesObject) -> Kind:
    """Return the kind of a decoded object."""
    return _KINDS[type(obj)]


# --- facts: what a source says ----------------------------------------------------------------------------------------


class Upsert(msgspec.Struct, frozen=True, gc=False):
    """``object`` exists, as said by ``origin`` (a file's path, or ``api``)."""

    origin: str
    object: KubernetesObject


class Keep(msgspec.Struct, frozen=True, gc=False):
    """The object exists, but what ``origin`` says of it now is unusable: what it said before, if anything, stands."""

    origin: str
    kind: Kind
    key: ObjectKey


class Delete(msgspec.Struct, frozen=True, gc=False):
    """The object does not exist any more, as said by ``origin``."""

    origin: str
    kind: Kind
    key: ObjectKey


class ListStart(msgspec.Struct, frozen=True, gc=False):
    """A complete listing of ``origin`` follows (of one kind, or of all kinds when None)."""

    origin: str
    kind: Kind | None


class ListEnd(msgspec.Struct, frozen=True, gc=False):
    """The listing is complete: objects of ``origin`` not upserted or kept since `ListStart` do not exist."""

    origin: str
    kind: Kind | None


class Gone(msgspec.Struct, frozen=True, gc=False):
    """``origin`` (a file) does not exist any more, with all that it said, its problems included."""

    origin: str


class Synced(msgspec.Struct, frozen=True, gc=False):
    """``source`` has said everything that exists once. Nothing is planned before every source is synced."""

    source: str


class Problem(msgspec.Struct, frozen=True, gc=False):
    """Something is wrong with an object, a file or a frontend; the rest keeps working.

    ``message`` is one clear sentence that names the field. ``subject`` names the object (``Service default/shop``), the
    file or the frontend. ``line`` counts from 1. ``warning`` problems do not make ``spliceway check`` fail.
    """

    subject: str
    message: str
    origin: str = ""
    line: int | None = None
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.origin}:{self.line}: " if self.line else f"{self.origin}: " if self.origin else ""
        return f"{where}{self.subject}: {self.message}" if self.subject else f"{where}{self.message}"


class Problems(msgspec.Struct, frozen=True, gc=False):
    """All present problems of ``origin``; replaces what was said of it before (empty: all is well)."""

    origin: str
    problems: tuple[Problem, ...]


Fact = Upsert | Delete | Keep | ListStart | ListEnd | Gone | Synced | Problems

# --- desired state: what the plan makes -------------------------------------------------------------------------------


class Balance(StrEnum):
    """How a backend is chosen."""

    MAGLEV = "maglev"
    RANDOM = "random"
    ROUND_ROBIN = "round-robin"
    LEAST_CONN = "least-conn"
    P2C = "p2c"
    #: by the client's address without its port
    SOURCE_HASH = "source-hash"
    #: shortest expected delay, and never queue (as IPVS has them)
    SED = "sed"
    NQ = "nq"


class Backend(NamedTuple):
    """One backend of a pool, in the engine's own order of fields (a plain tuple crosses the boundary)."""

    host: str
    port: int
    #: relative share of new flows; 0 takes none
    weight: int = 1
    #: False: health evidence says to use it only when nothing better is left
    healthy: bool = True

    @property
    def address(self) -> Address:
        """Where it is dialled."""
        return Address(self.host, self.port)


class RetryPolicy(msgspec.Struct, frozen=True, gc=False):
    """When and how often another backend is tried. Times in seconds.

    Defaults: common clients give up after 1 s or more, so ``deadline`` leaves them 100 ms; a Pod network answers a SYN
    in under 10 ms, so 250 ms without an answer is a lost packet or a dead node; three other backends are tried. The
    budget allows one retry for each new flow on average: the load on the survivors at most doubles.
    """

    tries: int = 4
    connect_timeout: float = 0.25
    deadline: float = 0.9
    budget_ratio: float = 1.0
    budget_reserve: int = 100
    #: opt-in: hold the first client bytes and send them to another backend when the first one closes or resets before
    #: it sent anything. Only for protocols whose first message may be repeated.
    replay: bool = False


class Affinity(msgspec.Struct, frozen=True, gc=False):
    """Clients (by IP) stay with their backend until ``timeout`` seconds after their last new flow (A-01, A-02).

    Pools of one ``group`` (the cluster and the local pool of a service port and family) share what is remembered.
    """

    group: str
    timeout: float


class PoolSpec(msgspec.Struct, frozen=True, gc=False):
    """A pool as the engine is to have it. ``name`` is the service port (``default/shop:http``) or the user's name.

    A UDP pool also holds, with weight 0, the endpoints that still serve but take nothing new: sessions stay with them,
    and move as soon as a backend is not in the pool any more (C-08).
    """

    name: str
    backends: tuple[Backend, ...]
    balance: Balance = Balance.MAGLEV
    retry: RetryPolicy = RetryPolicy()
    #: seconds that flows to a removed backend may still run; None: until they end (C-01)
    drain: float | None = None
    protocol: Protocol = Protocol.TCP
    #: None: every flow is balanced anew
    affinity: Affinity | None = None

    @property
    def usable(self) -> bool:
        """Some backend takes new flows."""
        return any(backend.weight for backend in self.backends)


class FrontendVerdict(StrEnum):
    """What happens to a client of a frontend (T-15).

    Without a usable endpoint anywhere it is refused at once (N-01); where only this node's endpoints may be used and it
    has none, packets are dropped.
    """

    SERVE = "serve"
    REJECT = "reject"
    DROP = "drop"


class FrontendKind(StrEnum):
    """Where a frontend's address comes from."""

    #: chosen by the user
    LISTEN = "listen"
    CLUSTER_IP = "cluster-ip"
    NODE_PORT = "node-port"
    EXTERNAL_IP = "external-ip"
    LOAD_BALANCER = "load-balancer"


class ClientClass(IntFlag):
    """Who a client is, by the address that it comes from (section 2.7). A set of classes is their union."""

    POD = 1
    NODE = 2
    EXT = 4


#: no class, and all of them
NO_CLIENT = ClientClass(0)
ANY_CLIENT = ClientClass.POD | ClientClass.NODE | ClientClass.EXT


class FrontendKey(NamedTuple):
    """What clients dial; no two frontends have the same. A NodePort's host is ``0.0.0.0`` or ``::``."""

    address: Address
    protocol: Protocol

    def __str__(self) -> str:
        return str(self.address) if self.protocol is Protocol.TCP else f"{self.address}/{self.protocol.lower()}"

    @classmethod
    def parse(cls, text: str) -> FrontendKey:
        """Read ``10.0.0.1:80`` or ``10.0.0.1:53/udp``.

        Raises:
            ValueError: it is not an address, a port and perhaps a protocol; the text says what is wrong.
        """
        address, slash, name = text.partition("/")
        if slash and name.upper() not in set(Protocol):
            raise ValueError(f"{text!r} is not ADDRESS:PORT/PROTOCOL: {name!r} is none of tcp, udp, sctp")
        return cls(Address.parse(address), Protocol(name.upper()) if slash else Protocol.TCP)


class ExternalRoute(NamedTuple):
    """What clients from outside get where it differs from what Pods and the node get (ETP=Local, T-13)."""

    pool: str
    verdict: FrontendVerdict


class Frontend(msgspec.Struct, frozen=True, gc=False):
    """An address that clients dial, the pool behind it and the verdict."""

    address: Address
    pool: str
    verdict: FrontendVerdict = FrontendVerdict.SERVE
    protocol: Protocol = Protocol.TCP
    #: the port stays open without backends, and clients are reset: an embedding program chose it
    keep_open: bool = False
    kind: FrontendKind = FrontendKind.LISTEN
    #: for clients of class EXT instead of ``pool`` and ``verdict``; None: they get the same
    external: ExternalRoute | None = None
    #: the classes whose source address the backend sees (M-09); the others come from the node's address
    keep_source: ClientClass = NO_CLIENT
    #: canonical CIDRs that clients must come from (T-17); empty: all may come. Others are dropped (T-18)
    sources: tuple[str, ...] = ()

    @property
    def key(self) -> FrontendKey:
        """What clients dial."""
        return FrontendKey(self.address, self.protocol)

    @property
    def served(self) -> bool:
        """Some client is served."""
        verdicts = (self.verdict, self.external.verdict if self.external else self.verdict)
        return FrontendVerdict.SERVE in verdicts


class EndpointStates(msgspec.Struct, frozen=True, gc=False):
    """How many endpoints of a service port are in which state, before health."""

    ready: int = 0
    terminating: int = 0
    unready: int = 0


class HealthCheck(msgspec.Struct, frozen=True, gc=False):
    """How backends are checked. Times in seconds.

    ``passive`` probes (by TCP connect) only backends that failed under traffic, until they answer again; ``tcp`` and
    ``http`` probe all backends all the time; ``off`` uses no evidence at all.
    """

    kind: str = "passive"
    interval: float = 5.0
    timeout: float = 1.0
    rise: int = 2
    fall: int = 3
    path: str = "/"
    #: probe this port instead of the backend's own
    port: int | None = None
    #: HTTP status codes from..to that pass
    expect: tuple[int, int] = (200, 399)


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


# --- health -----------------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A backend of a pool, as health sees it."""

    pool: str
    backend: Address


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """One observation about a target, from a probe or from traffic; both enter by the same door."""

    target: Target
    ok: bool
    #: ``probe`` or ``traffic``
    origin: str
    reason: str = ""
    #: counts for this many observations in a row (traffic reports consecutive failures at once)
    count: int = 1


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """Health's opinion on a target changed."""

    target: Target
    healthy: bool
    reason: str = ""


# --- what the parts tell of themselves ------------------------------------------------------------------------------


class SourceStatistics(msgspec.Struct, frozen=True):
    """State of one source (a folder or file set, or one kind's watch)."""

    name: str
    synced: bool
    #: seconds since it was last heard of (an event, a bookmark, or a file check); grows while the API is silent
    staleness: float
    restarts: int = 0
    errors: int = 0
    last_error: str = ""


class FrontendState(msgspec.Struct, frozen=True):
    """What became of a frontend: ``serving``, ``rejecting`` (no usable endpoint), or ``failed`` with a ``message``."""

    frontend: Frontend
    state: str
    message: str = ""
