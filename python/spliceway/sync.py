"""The engine for hosts that do not run Trio: synchronous and thread-safe, without a cluster and without probes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from spliceway.capture.bind import BindCapture
from spliceway.engine import new_engine, pool_record
from spliceway.errors import EngineError, FrontendError, SettingsError
from spliceway.inputs import AddressLike, BackendLike, address_of, backends_of, balance_of, retry_of
from spliceway.model import Address, Balance, PoolSpec, RetryPolicy
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
        self._pools: dict[str, PoolSpec] = {}
        self._capture = BindCapture()

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
    ) -> EngineService:
        """Serve ``backends`` behind ``address``; arguments as for `LoadBalancer.serve`.

        Raises:
            SettingsError: an argument is not usable.
            FrontendError: the address cannot be opened.
        """
        wanted = address_of(address, "address", lowest_port=0)
        members, choice, policy = backends_of(backends), balance_of(balance), retry_of(retry)
        try:
            real = self._capture.reserve(wanted)
            try:
                spec = PoolSpec(name or str(real), members, choice, policy, drain)
                return EngineService(self, real, spec.name, self._listen(real, spec))
            finally:
                self._capture.release(real)
        except FrontendError as error:
            raise FrontendError(f"{wanted}: {error}") from None

    def update(self, pool: str, backends: Iterable[BackendLike]) -> None:
        """Replace the backends of ``pool``; see `EngineService.update`."""
        members = backends_of(backends)
        with self._lock:
            if pool not in self._pools:
                raise EngineError(f"pool {pool} is not served any more")
            self._apply(msgspec.structs.replace(self._pools[pool], backends=members))

    def remove(self, service: EngineService) -> None:
        """Close the listener of ``service`` and forget its pool; see `EngineService.close`."""
        with self._lock:
            if self._pools.pop(service.pool, None) is None:
                return
            with contextlib.suppress(KeyError):  # `drain` may have closed it
                self._calls.remove_listener(service.listener)
            self._forget(service.pool)

    def drain(self, deadline: float, pool: str | None = None) -> None:
        """Close the listeners of ``pool`` (None: of all) and reset what still runs after ``deadline`` seconds.

        Returns at once; a ``drained`` event tells when nothing is left.
        """
        self._calls.drain(deadline, pool)

    def pool_counters(self, pool: str) -> PoolCounters:
        """One pool's running totals. Raises `EngineError` when it is not served any more."""
        try:
            return self._calls.pool_counters(pool)
        except KeyError:
            raise EngineError(f"pool {pool} is not served any more") from None

    def counters(self) -> EngineCounters:
        """The running totals of everything."""
        return self._calls.counters()

    def take_events(self, limit: int = 1024) -> list[Event]:
        """Up to ``limit`` events that happened since the last call, oldest first. Never waits."""
        return self._calls.take_events(limit)

    def close(self, deadline: float = 5.0) -> None:
        """Stop accepting, cut flows, and join the workers within ``deadline`` seconds. A second call does nothing."""
        self._capture.close()
        self._calls.close(deadline)

    def _listen(self, address: Address, spec: PoolSpec) -> int:
        with self._lock:
            if spec.name in self._pools:
                raise SettingsError(f"name: a pool named {spec.name!r} is served already")
            self._apply(spec)
            try:
                return self._calls.add_listener(self._capture.open(address), spec.name)
            except FrontendError:
                del self._pools[spec.name]
                self._forget(spec.name)
                raise

    def _forget(self, pool: str) -> None:
        self._generation += 1
        self._calls.apply([], [pool], self._generation)

    def _apply(self, spec: PoolSpec) -> None:
        self._generation += 1
        try:
            self._calls.apply([pool_record(spec)], [], self._generation)
        except ValueError as error:
            raise SettingsError(str(error)) from None
        self._pools[spec.name] = spec


class EngineService:
    """One served address of an `Engine`. ``address`` tells the real port when 0 was asked for."""

    def __init__(self, engine: Engine, address: Address, pool: str, listener: int) -> None:
        self._engine = engine
        self.address = address
        self.pool = pool
        self.listener = listener

    def update(self, backends: Iterable[BackendLike]) -> None:
        """Replace the backends; new flows use them when this returns, running flows go on.

        Raises:
            SettingsError: a backend is not usable; nothing is changed.
            EngineError: the service was closed.
        """
        self._engine.update(self.pool, backends)

    def statistics(self) -> PoolCounters:
        """The pool's running totals. Raises `EngineError` when the service was closed."""
        return self._engine.pool_counters(self.pool)

    def drain(self, deadline: float = 30.0) -> None:
        """Close the address, and reset flows that are left after ``deadline`` seconds. Returns at once."""
        self._engine.drain(deadline, self.pool)

    def close(self) -> None:
        """Close the address and forget the pool; running flows go on. A second call does nothing."""
        self._engine.remove(self)
