"""The engine for hosts that do not run Trio: synchronous and thread-safe, without a cluster and without probes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from spliceway.capture.bind import BindCapture
from spliceway.capture.local import LocalAddresses
from spliceway.engine import new_engine, pool_record
from spliceway.errors import EngineError, FrontendError, SettingsError
from spliceway.inputs import (
    AddressLike,
    BackendLike,
    address_of,
    backends_of,
    balance_of,
    count_of,
    name_of,
    protocol_of,
    retry_of,
    seconds_of,
)
from spliceway.model import Address, Backend, Balance, FrontendKey, PoolSpec, Protocol, RetryPolicy
from spliceway.plan.claims import is_loopback, wildcards_of
from spliceway.settings import EngineSettings

if TYPE_CHECKING:
    from spliceway._engine import EngineCounters, Event, PoolCounters


class Engine:
    """Serves pools of backends from worker threads. Use it as a context manager, from any thread.

    It balances, retries and relays; dead backends are learned from connect failures by each flow anew. For health
    checks, and for Services of a cluster, use `LoadBalancer`.

    Args:
        workers: threads; 0: one for each CPU that this process may use, at most 16.
        max_flows: connections open at once; at this limit accepting pauses.

    Raises:
        EngineError: an argument is out of range, or the compiled engine is not installed.
    """

    def __init__(self, *, workers: int = 0, max_flows: int = EngineSettings().max_flows) -> None:
        self._calls = new_engine(EngineSettings(workers=workers, max_flows=max_flows))
        self._lock = threading.Lock()
        self._generation = 0
        #: by pool name; what is not in here is closed
        self._services: dict[str, EngineService] = {}
        self._capture = BindCapture()
        self._is_local = LocalAddresses()

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the worker threads.

        Raises:
            EngineError: it was started already, or the kernel refuses.
        """
        try:
            self._calls.start()
        except OSError as error:
            raise EngineError(f"the engine's workers cannot be started: {error.strerror or error}") from None

    def serve(
        self,
        address: AddressLike,
        backends: Iterable[BackendLike],
        *,
        balance: str = Balance.MAGLEV,
        retry: RetryPolicy | Mapping[str, Any] | None = None,
        name: str | None = None,
        drain: float | None = None,
        protocol: str = "tcp",
    ) -> EngineService:
        """Serve ``backends`` behind ``address``; arguments as for `LoadBalancer.serve`.

        Raises:
            SettingsError: an argument is not usable, or a backend is an address that this engine serves.
            FrontendError: the address cannot be opened.
        """
        wanted = address_of(address, "address", lowest_port=0)
        members, choice, policy = backends_of(backends), balance_of(balance), retry_of(retry)
        name, drain = name_of(name), None if drain is None else seconds_of(drain, "drain")
        transport = protocol_of(protocol)
        try:
            key = FrontendKey(self._capture.reserve(wanted, transport), transport)
            try:
                name = name or str(key).replace("/", "-")
                return self._listen(key.address, PoolSpec(name, members, choice, policy, drain, transport))
            finally:
                self._capture.release(key)
        except FrontendError as error:
            raise FrontendError(f"{wanted}: {error}") from None

    def update(self, pool: EngineService | str, backends: Iterable[BackendLike]) -> None:
        """Replace the backends of ``pool`` (a handle, or a name); see `EngineService.update`."""
        members = backends_of(backends)
        with self._lock:
            service = self._live(pool)
            self._refuse_loops(members, service.address, service.spec.protocol)
            spec = msgspec.structs.replace(service.spec, backends=members)
            self._apply(spec)
            service.spec = spec

    def remove(self, service: EngineService) -> None:
        """Close the listener of ``service`` and forget its pool; see `EngineService.close`."""
        with self._lock:
            if self._services.get(service.pool) is not service:
                return
            del self._services[service.pool]
            with contextlib.suppress(KeyError):  # `drain` may have closed it
                self._calls.remove_listener(service.listener)
            self._forget(service.pool)

    def drain(self, deadline: float, pool: EngineService | str | None = None) -> None:
        """Close the address of ``pool`` (None: of all) and reset what still runs after ``deadline`` seconds.

        Returns at once; a ``drained`` event tells when nothing is left.

        Raises:
            SettingsError: ``deadline`` is not usable.
            EngineError: the service was closed, or there is no pool of that name.
        """
        seconds = seconds_of(deadline, "deadline")
        with self._lock:
            self._calls.drain(seconds, None if pool is None else self._live(pool).pool)

    def pool_counters(self, pool: EngineService | str) -> PoolCounters:
        """The running totals of one pool. Raises `EngineError` when it is not served any more."""
        name = self._live(pool).pool
        try:
            return self._calls.pool_counters(name)
        except KeyError:
            raise EngineError(f"pool {name} is not served any more") from None

    def counters(self) -> EngineCounters:
        """The running totals of everything."""
        return self._calls.counters()

    def take_events(self, limit: int = 1024) -> list[Event]:
        """Up to ``limit`` events that happened since the last call, oldest first. Never waits.

        Raises:
            SettingsError: ``limit`` is not usable.
        """
        return self._calls.take_events(count_of(limit, "limit"))

    def close(self, deadline: float = 5.0) -> None:
        """Stop accepting, cut flows, and join the workers within ``deadline`` seconds. A second call does nothing."""
        seconds = seconds_of(deadline, "deadline")
        # Not with the lock: in a forked child a thread of the parent may hold it.
        self._services = {}
        self._capture.close()
        self._calls.close(seconds)

    def _listen(self, address: Address, spec: PoolSpec) -> EngineService:
        with self._lock:
            if spec.name in self._services:
                raise SettingsError(f"name: a pool named {spec.name!r} is served already")
            self._refuse_loops(spec.backends, address, spec.protocol)
            self._apply(spec)
            try:
                fd = self._capture.open(address, spec.protocol)
                service = EngineService(self, address, spec, self._calls.add_listener(fd, spec.name))
            except OSError as error:
                self._forget(spec.name)
                if isinstance(error, FrontendError):
                    raise
                raise FrontendError(f"cannot listen: {error.strerror or error}") from None
            self._services[spec.name] = service
            return service

    def _refuse_loops(self, backends: tuple[Backend, ...], address: Address, protocol: Protocol) -> None:
        """Raise when a flow would come back to this engine, which would use up all file descriptors."""
        others = (service for service in self._services.values() if service.spec.protocol is protocol)
        ours = {address, *(service.address for service in others)}
        for number, backend in enumerate(backends):
            dialled = backend.address
            covered = not ours.isdisjoint(wildcards_of(dialled))
            if dialled in ours or (covered and (is_loopback(dialled.host) or self._is_local(dialled.host))):
                raise SettingsError(f"backends[{number}]: {dialled} is served by this engine itself, which is a loop")

    def _live(self, pool: EngineService | str) -> EngineService:
        """What is served as ``pool``: a name means whatever has it now, a handle only itself."""
        handle, name = (pool, pool.pool) if isinstance(pool, EngineService) else (None, pool)
        found = self._services.get(name)
        if found is None or handle not in (None, found):
            raise EngineError(f"pool {name} is not served any more")
        return found

    def _forget(self, pool: str) -> None:
        self._generation += 1
        self._calls.apply([], [pool], self._generation)

    def _apply(self, spec: PoolSpec) -> None:
        self._generation += 1
        try:
            self._calls.apply([pool_record(spec)], [], self._generation)
        except ValueError as error:
            raise SettingsError(str(error)) from None


class EngineService:
    """One served address of an `Engine`. ``address`` tells the real port when 0 was asked for."""

    def __init__(self, engine: Engine, address: Address, spec: PoolSpec, listener: int) -> None:
        self._engine = engine
        self.address = address
        self.spec = spec
        self.listener = listener

    @property
    def pool(self) -> str:
        """The name of the pool."""
        return self.spec.name

    def update(self, backends: Iterable[BackendLike]) -> None:
        """Replace the backends; new flows use them when this returns, running flows go on.

        Raises:
            SettingsError: a backend is not usable, or an address that the engine serves; nothing is changed.
            EngineError: the service was closed.
        """
        self._engine.update(self, backends)

    def statistics(self) -> PoolCounters:
        """The pool's running totals. Raises `EngineError` when the service was closed."""
        return self._engine.pool_counters(self)

    def drain(self, deadline: float = 30.0) -> None:
        """Close the address, and reset flows that are left after ``deadline`` seconds. Returns at once.

        Raises:
            SettingsError: ``deadline`` is not usable.
            EngineError: the service was closed.
        """
        self._engine.drain(deadline, self)

    def close(self) -> None:
        """Close the address and forget the pool; running flows go on. A second call does nothing."""
        self._engine.remove(self)
