"""The Trio face of the compiled engine, and the only importer of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import trio

from spliceway.errors import EngineError
from spliceway.model import Address, ClientClass, FrontendKey, PoolSpec
from spliceway.settings import EngineSettings

if TYPE_CHECKING:
    from spliceway._engine import EngineCounters, Event, Explanation, PoolCounters

#: a pool as it crosses the boundary; see `spliceway._engine.Engine.apply`
PoolRecord = tuple[
    str,
    str,
    tuple[int, float, float, float, int, bool],
    float | None,
    tuple[str, float] | None,
    tuple[tuple[str, int, int, bool], ...],
]
#: pool and whether the source address is kept, for one class of client
Target = tuple[str, bool]
#: what transparent listeners do with clients that dialled an address; classes in the order of `ROUTE_CLASSES`
RouteRecord = tuple[str, str, int, tuple[Target | None, Target | None, Target | None]]
UnrouteRecord = tuple[str, str, int]

ROUTE_CLASSES = (ClientClass.POD, ClientClass.NODE, ClientClass.EXT)
_CLASS_NAMES = {ClientClass.POD: "pod", ClientClass.NODE: "node", ClientClass.EXT: "ext"}


class _EngineCalls(Protocol):
    """The calls of `spliceway._engine.Engine`, as documented there."""

    def start(self) -> None: ...
    def apply(
        self,
        upserts: list[PoolRecord],
        removes: list[str],
        generation: int,
        routes: list[RouteRecord] = ...,
        unroutes: list[UnrouteRecord] = ...,
    ) -> None: ...
    def add_listener(self, fd: int, pool: str) -> int: ...
    def add_transparent_listener(self, fd: int, client_class: str) -> int: ...
    def retarget_listener(self, listener: int, pool: str) -> None: ...
    def remove_listener(self, listener: int) -> None: ...
    def drain(self, deadline: float, pool: str | None = None) -> None: ...
    def explain(self, pool: str, host: str, port: int) -> Explanation: ...
    def counters(self, *, all_pools: bool = True) -> EngineCounters: ...
    def pool_counters(self, pool: str) -> PoolCounters: ...
    def take_events(self, limit: int = 1024) -> list[Event]: ...
    @property
    def wake_fd(self) -> int: ...
    @property
    def generation(self) -> int: ...
    def close(self, deadline: float = 5.0) -> None: ...


def new_engine(settings: EngineSettings) -> _EngineCalls:
    """An engine of the compiled extension, not started yet.

    Raises:
        EngineError: the extension is not installed, or a size is out of range.
    """
    try:
        from spliceway import _engine
    except ImportError as error:
        raise EngineError(f"the compiled engine cannot be loaded ({error}); install this platform's wheel") from None
    try:
        return _engine.Engine(
            workers=settings.workers,
            max_flows=settings.max_flows,
            max_pipes=settings.max_pipes,
            event_capacity=settings.event_capacity,
            max_sessions=settings.max_sessions,
            udp_timeout=settings.udp_timeout,
            udp_stream_timeout=settings.udp_stream_timeout,
            max_affinities=settings.max_affinities,
            mark=settings.mark,
        )
    except ValueError as error:
        raise EngineError(f"engine settings: {error}") from None


def connect_bounds() -> tuple[float, ...]:
    """Upper bounds in seconds of the counters' ``connect_buckets``, without +Inf."""
    from spliceway import _engine

    return _engine.CONNECT_BUCKETS


def pool_record(pool: PoolSpec) -> PoolRecord:
    """``pool`` in the engine's own order of fields."""
    retry = pool.retry
    policy = (
        retry.tries,
        retry.connect_timeout,
        retry.deadline,
        retry.budget_ratio,
        retry.budget_reserve,
        retry.replay,
    )
    affinity = None if pool.affinity is None else (pool.affinity.group, pool.affinity.timeout)
    return (pool.name, pool.balance.value, policy, pool.drain, affinity, pool.backends)


def unroute_record(key: FrontendKey) -> UnrouteRecord:
    """The route of a frontend, as the engine names it."""
    return (key.protocol.value.lower(), key.address.host, key.address.port)


class TrioEngine:
    """An engine whose events a Trio task can wait for.

    Calls that return at once are plain methods, which may be called from any thread. Those that may take milliseconds
    are coroutines that run in a thread.
    """

    #: more backends than this in one call are applied in a thread; building their tables takes more than about 1 ms
    INLINE_BACKENDS = 256

    def __init__(self, calls: _EngineCalls) -> None:
        self._calls = calls
        self._closed = False

    @classmethod
    def open(cls, settings: EngineSettings) -> TrioEngine:
        """A new engine; see `new_engine` for the errors."""
        return cls(new_engine(settings))

    def start(self) -> None:
        """Start the workers.

        Raises:
            EngineError: it was started already, or the kernel refused the threads or file descriptors.
        """
        try:
            self._calls.start()
        except OSError as error:
            raise EngineError(f"the engine's workers cannot be started: {error.strerror or error}") from None

    async def apply(
        self,
        upserts: Sequence[PoolSpec],
        removes: Sequence[str],
        generation: int,
        routes: Sequence[RouteRecord] = (),
        unroutes: Sequence[FrontendKey] = (),
    ) -> None:
        """Change pools and routes in one swap and publish ``generation``.

        Raises:
            ValueError: a value is bad; nothing was changed. The text names the pool and the field.
        """
        records = [pool_record(pool) for pool in upserts]
        gone = [unroute_record(key) for key in unroutes]
        calls = (records, list(removes), generation, list(routes), gone)
        if sum(len(pool.backends) for pool in upserts) + len(removes) + len(routes) + len(gone) <= self.INLINE_BACKENDS:
            self._calls.apply(*calls)
        else:
            await trio.to_thread.run_sync(self._calls.apply, *calls)

    def add_listener(self, fd: int, pool: str) -> int:
        """Accept on ``fd``, which the engine owns from now on, for ``pool``; return the listener's number."""
        return self._calls.add_listener(fd, pool)

    def add_transparent_listener(self, fd: int, client_class: ClientClass) -> int:
        """Serve ``fd``, which the engine owns from now on, by the routes of ``client_class``."""
        return self._calls.add_transparent_listener(fd, _CLASS_NAMES[client_class])

    def retarget_listener(self, listener: int, pool: str) -> None:
        """New flows of ``listener`` go to ``pool``. Raises `KeyError` when the listener is gone."""
        self._calls.retarget_listener(listener, pool)

    def remove_listener(self, listener: int) -> None:
        """Close the listener; its flows run on. Raises `KeyError` when it is gone already."""
        self._calls.remove_listener(listener)

    def drain(self, deadline: float, pool: str | None = None) -> None:
        """Stop accepting and reset what still runs after ``deadline`` seconds; a ``drained`` event tells the end."""
        self._calls.drain(deadline, pool)

    def explain(self, pool: str, client: Address) -> Explanation:
        """What a flow from ``client`` would try. Raises `KeyError` for an unknown pool."""
        return self._calls.explain(pool, client.host, client.port)

    def counters(self, *, all_pools: bool = True) -> EngineCounters:
        """All counters; takes milliseconds with thousands of pools."""
        return self._calls.counters(all_pools=all_pools)

    def pool_counters(self, pool: str) -> PoolCounters:
        """One pool's counters. Raises `KeyError` for an unknown pool."""
        return self._calls.pool_counters(pool)

    async def receive_events(self) -> list[Event]:
        """Wait for events and take those that there are, oldest first.

        Raises:
            trio.ClosedResourceError: the engine was closed meanwhile.
        """
        while True:
            if self._closed:
                raise trio.ClosedResourceError
            if events := self._calls.take_events():
                await trio.lowlevel.checkpoint()
                return events
            await trio.lowlevel.wait_readable(self._calls.wake_fd)

    async def close(self, deadline: float = 5.0) -> None:
        """Stop accepting, cut what is left and join the workers within ``deadline`` seconds; not cancellable."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._calls.wake_fd)
        with trio.move_on_after(math.inf, shield=True):
            await trio.to_thread.run_sync(self._calls.close, deadline)
