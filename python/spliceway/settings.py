"""Everything a user can set, parsed once and frozen. Times in seconds, sizes in bytes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from spliceway.model import Address, Balance, HealthCheck, RetryPolicy


class Listen(msgspec.Struct, frozen=True):
    """``--listen ADDR:PORT=NAMESPACE/SERVICE[:PORTNAME]``: a Service's pool behind an address of the user's choice."""

    address: Address
    namespace: str
    service: str
    #: None: the Service's only TCP port
    port_name: str | None = None


class SourceSettings(msgspec.Struct, frozen=True):
    """Where Services and EndpointSlices come from: files and folders, a kubeconfig, or else the Pod's own account."""

    manifests: tuple[Path, ...] = ()
    kubeconfig: Path | None = None
    context: str | None = None
    #: URL of the API server, instead of the one that the kubeconfig or the Pod's account names
    server: str | None = None
    #: an API server ends a watch after this long; short enough that a stream that died silently is noticed
    watch_timeout: float = 300.0
    #: a list request's silence, and connecting to the API server (of which at most 5 s)
    request_timeout: float = 30.0
    #: wait between attempts: first, and longest (doubled each time, with jitter); an API server that says that it is
    #: overloaded (429) is given six times as long
    backoff: float = 0.5
    backoff_limit: float = 5.0


class EngineSettings(msgspec.Struct, frozen=True):
    """Sizes of the engine; see `spliceway._engine.Engine`."""

    workers: int = 0
    max_flows: int = 1_000_000
    max_pipes: int = 1024
    event_capacity: int = 4096
    #: UDP sessions at once; the oldest idle one makes room for a new one
    max_sessions: int = 1_000_000
    #: seconds without a datagram after which a session ends: before any reply, and after one (as conntrack, C-09)
    udp_timeout: float = 30.0
    udp_stream_timeout: float = 120.0
    #: clients that session affinity remembers; beyond it, the one that was idle longest is forgotten
    max_affinities: int = 262_144
    #: mark of upstream sockets, by which capture knows them (0: none; another value needs CAP_NET_ADMIN)
    mark: int = 0


class CaptureMode(StrEnum):
    """How packets for frontends reach the engine's sockets."""

    BIND = "bind"
    TPROXY = "tproxy"


class DetectLocal(StrEnum):
    """How packets of Pods are told from others; names and meaning as kube-proxy's (M-01)."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


class CaptureSettings(msgspec.Struct, frozen=True):
    """How frontends are captured."""

    mode: CaptureMode = CaptureMode.BIND
    detect_local: DetectLocal = DetectLocal.CLUSTER_CIDR
    #: of either family, the first one of each counts
    cluster_cidrs: tuple[str, ...] = ()
    #: bridge interface, or prefix of interface names, of `detect_local`
    local_interface: str = ""
    masquerade_all: bool = False
    #: CIDRs and the words primary, localhost, all (D-06); empty: all
    node_port_addresses: tuple[str, ...] = ()
    #: NodePorts also on 127.0.0.0/8 and ::1, for the node's own processes
    localhost_node_ports: bool = False
    external_ips: bool = True
    #: two bits of the packet mark are ours: this one (captured) and the next (upstream sockets)
    mark_bit: int = 4
    #: keep clients' TCP connections out of connection tracking (but for those of the node's own processes)
    untracked_clients: bool = False
    #: routing table of captured packets, and the priority of the rule that leads to it
    route_table: int = 1070
    rule_priority: int = 107
    #: seconds between two looks at the rules in the kernel, beside the kernel's own notices of changes
    check_interval: float = 1.0
    #: seconds that one `nft` run may take
    nft_timeout: float = 30.0


class NodeSettings(msgspec.Struct, frozen=True):
    """What the agent does as the service proxy of a node. ``name`` None: not on a node of a cluster."""

    name: str | None = None
    #: serve only Services whose label service.kubernetes.io/service-proxy-name has this value; None: those without it
    proxy_name: str | None = None
    #: seconds to wait at start for the Node's addresses, and for its podCIDRs (W-05)
    address_wait: float = 30.0
    pod_cidr_wait: float = 300.0
    #: as kube-proxy's configuration (P-06); per core 0 leaves nf_conntrack_max alone, seconds 0 leave a timeout alone
    conntrack_max_per_core: int = 32768
    conntrack_min: int = 131072
    conntrack_tcp_established: float = 86400.0
    conntrack_tcp_close_wait: float = 3600.0
    #: write Events to the API
    events: bool = True


class AdminSettings(msgspec.Struct, frozen=True):
    """The admin side. An address of None: no such listener. ``0.0.0.0`` and ``::`` answer both families (H-11)."""

    #: /healthz, /livez and /readyz
    healthz: Address | None = Address("127.0.0.1", 10256)
    #: /metrics, /proxyMode and /configz
    metrics: Address | None = Address("127.0.0.1", 10249)
    #: end when one of them cannot be opened, instead of trying again
    hard_fail: bool = False
    socket: Path | None = None
    #: a request head must arrive, and a response must leave, within this time
    timeout: float = 10.0
    #: open connections, on each listener; one more closes the one that waits longest, and is counted
    max_connections: int = 64


class Settings(msgspec.Struct, frozen=True):
    """One agent's settings."""

    source: SourceSettings = SourceSettings()
    #: when not empty, only these addresses are served, and no frontend of a Service is bound
    listens: tuple[Listen, ...] = ()
    balance: Balance = Balance.MAGLEV
    retry: RetryPolicy = RetryPolicy()
    health: HealthCheck = HealthCheck()
    #: probes under way at once
    probe_limit: int = 64
    #: seconds that flows to a removed endpoint may still run; None: until they end (C-01)
    endpoint_drain: float | None = None
    #: seconds from SIGTERM until the flows that are left are cut; below the 30 s after which Kubernetes kills a Pod
    shutdown: float = 25.0
    engine: EngineSettings = EngineSettings()
    capture: CaptureSettings = CaptureSettings()
    node: NodeSettings = NodeSettings()
    admin: AdminSettings = AdminSettings()
    #: wait before a frontend that could not be opened is tried again
    rebind_interval: float = 2.0
