"""Everything a user can set, parsed once and frozen. Times in seconds, sizes in bytes."""

from __future__ import annotations

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
    #: an API server ends a watch after this long; short enough that a stream that died silently is noticed
    watch_timeout: float = 300.0
    #: connecting to the API server, and a list request's silence
    request_timeout: float = 30.0
    #: wait between attempts: first, and longest (doubled each time, with jitter)
    backoff: float = 0.5
    backoff_limit: float = 30.0


class EngineSettings(msgspec.Struct, frozen=True):
    """Sizes of the engine; see `spliceway._engine.Engine`."""

    workers: int = 0
    max_flows: int = 1_000_000
    max_pipes: int = 1024
    event_capacity: int = 4096


class AdminSettings(msgspec.Struct, frozen=True):
    """The admin side. ``address`` None: no HTTP listener. ``socket`` None: no state socket."""

    address: Address | None = Address("127.0.0.1", 10256)
    socket: Path | None = None
    #: a request head must arrive, and a response must leave, within this time
    timeout: float = 10.0
    #: open connections, on each of the two listeners; one more closes the one that waits longest, and is counted
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
    admin: AdminSettings = AdminSettings()
    #: wait before a frontend that could not be opened is tried again
    rebind_interval: float = 2.0
