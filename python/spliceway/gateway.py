"""The embedding API: a load balancer inside a Trio program, with or without a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from spliceway.apply import FAILED
from spliceway.capture.bind import BindCapture
from spliceway.engine import TrioEngine
from spliceway.errors import EngineClosedError, EngineError, FrontendError, SettingsError
from spliceway.groups import clear_error
from spliceway.health.monitor import validate_check
from spliceway.inputs import (
    AddressLike,
    BackendLike,
    address_of,
    backends_of,
    balance_of,
    health_of,
    name_of,
    protocol_of,
    retry_of,
    seconds_of,
    service_of,
)
from spliceway.model import Address, Balance, FrontendKey, HealthCheck, ObjectKey, Problem, Protocol, RetryPolicy
from spliceway.pipeline import Pipeline
from spliceway.plan.service import EmbeddedPool
from spliceway.served import Served, ServedPool, ServedService
from spliceway.settings import EngineSettings, Listen, Settings, SourceSettings

if TYPE_CHECKING:
    from spliceway.source import Source


class LoadBalancer:
    """Serves pools and Services while its ``async with`` block runs.

    Without ``manifests``, ``kubeconfig`` or ``source`` it serves only backends that the program names itself.

    Args:
        manifests: files and folders of Kubernetes YAML or JSON that are watched.
        kubeconfig: a kubeconfig file, and ``context`` the context in it, of the cluster that is watched.
        source: a source of its own kind, or the settings of one (``SourceSettings()``: the Pod's own account).
        health: how backends are checked unless `serve` says otherwise.
        workers: threads of the engine; 0: one for each CPU, at most 16.
        shutdown: seconds that flows may go on when the block ends. An exception or a cancel cuts them at once.

    Raises:
        SettingsError: an argument is not usable.
        SourceError: the source cannot be started (on entering the block).
    """

    def __init__(
        self,
        *,
        manifests: str | Path | Iterable[str | Path] = (),
        kubeconfig: str | Path | None = None,
        context: str | None = None,
        source: Source | SourceSettings | None = None,
        health: HealthCheck | Mapping[str, Any] | None = None,
        workers: int = 0,
        shutdown: float = 5.0,
    ) -> None:
        paths = (manifests,) if isinstance(manifests, str | Path) else manifests
        settings = SourceSettings(tuple(map(Path, paths)), Path(kubeconfig) if kubeconfig else None, context)
        if source is None and settings != SourceSettings():
            source = settings
        check = health_of(health) or HealthCheck()
        validate_check(check)
        self._source = source
        self._shutdown = seconds_of(shutdown, "shutdown")
        self._settings = Settings(health=check, engine=EngineSettings(workers=workers))
        self._capture = BindCapture()
        self._stack = AsyncExitStack()
        self._nursery: trio.Nursery | None = None
        self._engine: TrioEngine | None = None
        self._pipeline: Pipeline | None = None
        #: of the pools that are served
        self._names: set[str] = set()
        #: whose each address is, also while it is closed because a Service has no usable endpoint
        self._holders: dict[FrontendKey, Served] = {}

    async def __aenter__(self) -> LoadBalancer:
        if self._engine is not None:
            raise EngineError("a LoadBalancer can be entered once; make another one")
        source = await trio.to_thread.run_sync(_open, self._source)
        self._engine = TrioEngine.open(self._settings.engine)
        try:
            self._engine.start()
            self._pipeline = Pipeline(self._settings, self._engine, source, gateway=True, sockets=self._capture)
            self._nursery = await self._stack.enter_async_context(trio.open_nursery())
            self._nursery.start_soon(self._pipeline.run)
        except BaseException:
            await self._engine.close(0)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        # The program's own exception goes past the nursery, so that it does not come out wrapped in a group.
        inner = isinstance(error, trio.Cancelled) or (
            isinstance(error, BaseExceptionGroup) and error.subgroup(trio.Cancelled) is not None
        )
        try:
            if error is None:
                await self.pipeline.drain(self._shutdown)
        finally:
            self._capture.close()
            if self._nursery:
                self._nursery.cancel_scope.cancel()
            try:
                done = await self._stack.__aexit__(*((kind, error, trace) if inner else (None, None, None)))
            except BaseExceptionGroup as group:
                raise clear_error(group) or group from None
            finally:
                await self.engine.close(0)
        return bool(done) and inner

    @property
    def engine(self) -> TrioEngine:
        """The engine below. Raises `EngineClosedError` outside the block."""
        if self._engine is None:
            raise EngineClosedError("the LoadBalancer is not running; use it inside `async with`")
        return self._engine

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline below. Raises `EngineClosedError` outside the block."""
        if self._pipeline is None:
            raise EngineClosedError("the LoadBalancer is not running; use it inside `async with`")
        return self._pipeline

    def problems(self) -> tuple[Problem, ...]:
        """All present problems: of the source, of Services and of addresses."""
        return self.pipeline.problems()

    async def serve(
        self,
        address: AddressLike,
        backends: Iterable[BackendLike],
        *,
        balance: str = Balance.MAGLEV,
        health: HealthCheck | Mapping[str, Any] | None = None,
        retry: RetryPolicy | Mapping[str, Any] | None = None,
        name: str | None = None,
        drain: float | None = None,
        protocol: str = "tcp",
    ) -> ServedPool:
        """Serve ``backends`` behind ``address`` and return when the address accepts clients.

        The port stays open without backends; clients are reset then.

        Args:
            address: ``"127.0.0.1:8080"``; port 0 takes a free one, which the handle's ``address`` tells.
            backends: ``"10.0.0.1:80"``, ``("10.0.0.2", 80)``, or with a weight ``("10.0.0.2", 80, 3)``.
            balance: one of the names of `Balance`.
            health: how these backends are checked; None: as the LoadBalancer does.
            retry: when and how often another backend is tried.
            name: of the pool, in statistics and events; the address when None.
            drain: seconds that flows to a removed backend may still run; None: until they end.
            protocol: ``"tcp"`` or ``"udp"``.

        Raises:
            SettingsError: an argument is not usable.
            FrontendError: the address cannot be opened.
        """
        transport = protocol_of(protocol)
        wanted = address_of(address, "address", lowest_port=0)
        drain = None if drain is None else seconds_of(drain, "drain")
        spec = EmbeddedPool("", wanted, backends_of(backends), balance_of(balance), retry_of(retry), drain, transport)
        name, check = name_of(name), health_of(health)
        if check:
            validate_check(check)
        real = self._reserve(wanted, transport)
        key = FrontendKey(real, transport)
        spec = msgspec.structs.replace(spec, name=name or str(key).replace("/", "-"), address=real)
        if "/" in spec.name or spec.name in self._names:
            self._capture.release(key)
            raise SettingsError(f"name: {spec.name!r} is taken, or holds a slash, which only Services have")
        self._names.add(spec.name)
        served = ServedPool(self, real, spec)
        self._holders[key] = served
        try:
            await self.pipeline.embed(spec.name, spec, check)
            self._require_pool(spec, key)
            self._require_open(key)
        except BaseException:
            await _undo(served)
            raise
        finally:
            self._capture.release(key)
        return served

    async def serve_service(self, address: AddressLike, service: str) -> ServedService:
        """Serve a Service of the cluster behind ``address``; waits until the cluster's state is known.

        Clients are refused while the Service does not exist or has no usable endpoint; `problems` tells about it.

        Args:
            address: as for `serve`.
            service: ``"namespace/service"``, or ``"namespace/service:port-name"`` when it has several ports.

        Raises:
            SettingsError: an argument is not usable, or the LoadBalancer has no source.
            FrontendError: the address cannot be opened.
        """
        if self._source is None:
            raise SettingsError("serve_service needs a LoadBalancer with manifests, a kubeconfig or a source")
        wanted = address_of(address, "address", lowest_port=0)
        namespace, name, port = service_of(service)
        await self.pipeline.wait_ready()
        real = self._reserve(wanted, Protocol.TCP)
        served = ServedService(self, Listen(real, namespace, name, port))
        self._holders[FrontendKey(real, Protocol.TCP)] = served
        try:
            await self.pipeline.listen(served.listen)
            self._require_open(served.key)
        except BaseException:
            await _undo(served)
            raise
        return served

    async def forget(self, served: ServedPool) -> None:
        """Stop to serve a pool; used by handles."""
        await self.pipeline.embed(served.pool, None)
        self._names.discard(served.pool)
        self.release(served)

    async def unlisten(self, served: ServedService) -> None:
        """Take a Service from behind an address; used by handles."""
        await self.pipeline.listen(served.listen, wanted=False)
        self._capture.release(FrontendKey(served.address, Protocol.TCP))
        self.release(served)

    def release(self, served: Served) -> None:
        """Let others have the address; used by handles. Does nothing when somebody else has it already."""
        held = [key for key, holder in self._holders.items() if holder is served]
        for key in held:
            del self._holders[key]

    def _reserve(self, address: Address, protocol: Protocol) -> Address:
        try:
            while FrontendKey(address, protocol) not in self._holders:
                real = self._capture.reserve(address, protocol)
                # The kernel may hand out a port that a Service without usable endpoints only has closed.
                if FrontendKey(real, protocol) not in self._holders:
                    return real
        except FrontendError as error:
            raise FrontendError(f"{address}: {error}") from None
        raise FrontendError(f"{address}: this LoadBalancer serves it already; close that first or use another port")

    def _require_pool(self, spec: EmbeddedPool, key: FrontendKey) -> None:
        """Raise when the engine refused the pool, or the address belongs to something else."""
        if problem := self.pipeline.pool_problem(spec.name):
            raise SettingsError(f"pool {spec.name} {problem.message}")
        state = self.pipeline.frontend(key)
        if state is None or state.frontend.pool != spec.name:
            plan = self.pipeline.plan(ObjectKey("", spec.name))
            reasons = "; ".join(problem.message for problem in plan.problems) if plan else ""
            raise FrontendError(f"{key}: {reasons or 'is not served'}")

    def _require_open(self, key: FrontendKey) -> None:
        """Raise when ``key`` is wanted and could not be opened."""
        state = self.pipeline.frontend(key)
        if state is not None and state.state == FAILED:
            raise FrontendError(f"{key}: {state.message}")


async def _undo(served: ServedPool | ServedService) -> None:
    """Take back what could not be served, also while being cancelled."""
    with trio.move_on_after(1, shield=True), suppress(EngineClosedError):
        await served.close()


def _open(source: Source | SourceSettings | None) -> Source | None:
    if not isinstance(source, SourceSettings):
        return source
    from spliceway.source import open_source

    return open_source(source)
