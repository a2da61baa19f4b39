"""Handles of what a `LoadBalancer` serves."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import trio

from spliceway.errors import EngineError, SettingsError
from spliceway.inputs import BackendLike, backends_of, seconds_of
from spliceway.model import Address, FrontendKey, Protocol
from spliceway.plan.service import EmbeddedPool
from spliceway.settings import Listen

if TYPE_CHECKING:
    from spliceway._engine import Event, PoolCounters
    from spliceway.gateway import LoadBalancer


class Served:
    """An address that is served. ``address`` tells the real port when 0 was asked for."""

    def __init__(self, balancer: LoadBalancer, address: Address, protocol: Protocol = Protocol.TCP) -> None:
        self._balancer = balancer
        self._closed = False
        self.address = address
        self._key = FrontendKey(address, protocol)

    @property
    def key(self) -> FrontendKey:
        """What clients dial."""
        return self._key

    @property
    def pool(self) -> str:
        """The name of the pool behind the address at present.

        Raises:
            EngineError: the address is not served (any more, or because its Service does not exist).
        """
        # What serves the address after this handle was closed is somebody else's.
        state = None if self._closed else self._balancer.pipeline.frontend(self.key)
        if state is None:
            raise EngineError(f"{self.address} is not served at present")
        return state.frontend.pool

    def statistics(self) -> PoolCounters:
        """The pool's running totals.

        Raises:
            EngineError: the address is not served.
        """
        with suppress(KeyError):
            if not self._closed:
                return self._balancer.engine.pool_counters(self.pool)
        raise EngineError(f"{self.address} is not served at present")

    def events(self) -> trio.MemoryReceiveChannel[Event]:
        """What happens to the pool from now on, for ``async for``. A reader that does not keep up loses some."""
        return self._balancer.pipeline.subscribe(self.pool)


class ServedPool(Served):
    """A pool of backends that this program gave."""

    def __init__(self, balancer: LoadBalancer, address: Address, spec: EmbeddedPool) -> None:
        super().__init__(balancer, address, spec.protocol)
        self._spec = spec

    @property
    def pool(self) -> str:
        """The name of the pool."""
        return self._spec.name

    async def update(self, backends: Iterable[BackendLike]) -> None:
        """Replace the backends; new flows use them when this returns, running flows go on.

        Raises:
            SettingsError: a backend is not usable; the text names it. Nothing is changed.
            EngineError: the pool was closed.
        """
        members = backends_of(backends)
        if self._closed:
            raise EngineError(f"pool {self.pool} is closed")
        before, self._spec = self._spec, msgspec.structs.replace(self._spec, backends=members)
        wanted = self._spec
        pipeline = self._balancer.pipeline
        await pipeline.embed(self.pool, wanted)
        problem = pipeline.pool_problem(self.pool)
        # A later call may have changed or closed the pool meanwhile; then the engine's word is not about this one.
        if problem and self._spec is wanted and not self._closed:
            self._spec = before
            await pipeline.embed(self.pool, before)
            raise SettingsError(f"pool {self.pool} {problem.message}")

    async def drain(self, deadline: float = 30.0) -> None:
        """Close the address, let flows end, and reset those that are left after ``deadline`` seconds.

        Raises:
            SettingsError: ``deadline`` is not usable. Nothing is changed.
        """
        seconds = seconds_of(deadline, "deadline")
        if self._closed:
            return
        self._spec = msgspec.structs.replace(self._spec, address=None)
        await self._balancer.pipeline.embed(self.pool, self._spec)
        self._balancer.release(self)
        await self._balancer.pipeline.drain_pool(self.pool, seconds)
        await self.close()

    async def close(self) -> None:
        """Close the address at once; running flows go on. A second call does nothing."""
        if not self._closed:
            self._closed = True
            try:
                await self._balancer.forget(self)
            except trio.Cancelled:
                self._closed = False  # it may still be served: another call makes it good
                raise


class ServedService(Served):
    """A Service of the cluster behind an address of this program."""

    def __init__(self, balancer: LoadBalancer, listen: Listen) -> None:
        super().__init__(balancer, listen.address)
        self.listen = listen

    @property
    def key(self) -> FrontendKey:
        """What clients dial; the Service says by which protocol."""
        state = self._balancer.pipeline.frontend_at(self.address)
        return state.frontend.key if state else self._key

    async def close(self) -> None:
        """Close the address; running flows go on. A second call does nothing."""
        if not self._closed:
            self._closed = True
            try:
                await self._balancer.unlisten(self)
            except trio.Cancelled:
                self._closed = False  # as in `ServedPool.close`
                raise
