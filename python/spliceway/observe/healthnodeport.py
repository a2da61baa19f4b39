"""The ``healthCheckNodePort`` of Services: load balancers ask it which nodes have endpoints (H-01 to H-07).

One HTTP server for each Service, family and address. They follow the plans: at the latest `INTERVAL` after a change a
port is opened or closed; what they answer is looked up when somebody asks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

import trio

from spliceway.journal import Journal
from spliceway.model import Address, HealthNodePort, ObjectKey, Problem, ServicePlan
from spliceway.observe.http import HttpServer, Request, Response
from spliceway.observe.listening import listen

log = logging.getLogger(__name__)

#: seconds between two looks at the plans, and until a port that is taken is tried again
INTERVAL = 0.5
RETRY_INTERVAL = 5.0
_TIMEOUT = 10.0
_MAX_CONNECTIONS = 32
_WILDCARDS = ("0.0.0.0", "::")


class Planned(Protocol):
    """The part of the pipeline that is looked at."""

    def plans(self) -> Mapping[ObjectKey, ServicePlan]:
        """The present plan of every Service."""
        ...

    def plan(self, key: ObjectKey) -> ServicePlan | None:
        """The present plan of one Service."""
        ...

    async def wait_change(self) -> None:
        """Wait until something changed."""
        ...


class _Listener(NamedTuple):
    """What is to be open."""

    service: ObjectKey
    address: Address


class _Running(NamedTuple):
    """A server that can be ended, and says when its port is free again."""

    scope: trio.CancelScope
    closed: trio.Event


class HealthNodePorts:
    """All of them.

    Args:
        planned: the pipeline.
        serving: the proxy is healthy; otherwise every answer is 503 (H-02).
        hosts: of which addresses the ports are opened, for a family (4 or 6); wildcards open only their own family.
            Called in a thread: it may ask the kernel.
        on_failure: told of a port that cannot be opened, when that begins: the Service and the sentence.
    """

    def __init__(
        self,
        planned: Planned,
        serving: Callable[[], bool],
        hosts: Callable[[int], Iterable[str]] = lambda family: (_WILDCARDS[family == 6],),
        on_failure: Callable[[ObjectKey, str], None] = lambda service, message: None,
    ) -> None:
        self._planned = planned
        self._serving = serving
        self._hosts = hosts
        self._on_failure = on_failure
        self._open: dict[_Listener, _Running] = {}
        self._failed: dict[_Listener, Problem] = {}
        #: when those that failed are tried again
        self._retry_at = 0.0
        self._journal = Journal(log, "health check ports")

    @property
    def listeners(self) -> tuple[Address, ...]:
        """What is open."""
        return tuple(listener.address for listener in self._open)

    def problems(self) -> tuple[Problem, ...]:
        """The ports that cannot be opened."""
        return tuple(self._failed.values())

    async def run(self) -> None:
        """Follow the plans until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._follow(nursery)
                with trio.move_on_after(RETRY_INTERVAL):
                    await self._planned.wait_change()
                await trio.sleep(INTERVAL)

    async def _follow(self, nursery: trio.Nursery) -> None:
        """Close what nobody asks for, then open what is missing: one may take the other's port."""
        wanted = await self._wanted()
        for listener in self._open.keys() - wanted:
            running = self._open.pop(listener)
            running.scope.cancel()
            await running.closed.wait()
            self._journal.note(f"health check port {listener.address} of Service {listener.service}: closed")
        for listener in self._failed.keys() - wanted:
            del self._failed[listener]
        retry = trio.current_time() >= self._retry_at
        for listener in sorted(wanted - self._open.keys()):
            if retry or listener not in self._failed:
                await self._start(nursery, listener)
        if retry:
            self._retry_at = trio.current_time() + RETRY_INTERVAL
        self._journal.write()

    async def _wanted(self) -> set[_Listener]:
        found: set[_Listener] = set()
        hosts: dict[int, tuple[str, ...]] = {}
        for key, plan in self._planned.plans().items():
            asked = plan.health_node_port
            if asked is None:
                continue
            for family in (4, 6):
                if _count(asked, family) is None:
                    continue
                if family not in hosts:
                    hosts[family] = tuple(await trio.to_thread.run_sync(self._hosts, family))
                found.update(_Listener(key, Address(host, asked.port)) for host in hosts[family])
        return found

    async def _start(self, nursery: trio.Nursery, listener: _Listener) -> None:
        try:
            opened = await listen(listener.address, one_family=True)
        except OSError as error:
            self._fail(listener, error)
            return
        running = _Running(trio.CancelScope(), trio.Event())
        nursery.start_soon(self._serve, listener, opened, running)
        self._open[listener] = running
        self._failed.pop(listener, None)
        self._journal.note(f"health check port {listener.address} of Service {listener.service}: open")

    async def _serve(self, listener: _Listener, opened: trio.SocketListener, running: _Running) -> None:
        answer = partial(self._answer, listener)
        server = HttpServer(answer, timeout=_TIMEOUT, max_connections=_MAX_CONNECTIONS, any_method=True)
        with running.scope:
            await server.serve(opened)
        running.closed.set()

    def _fail(self, listener: _Listener, error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        message = f"healthCheckNodePort {listener.address.port} cannot be opened at {listener.address.host}: {reason}"
        known = self._failed.get(listener)
        if known is None or known.message != message:
            self._failed[listener] = Problem(f"Service {listener.service}", message)
            log.warning("Service %s: %s; tried every %g s", listener.service, message, RETRY_INTERVAL)
            self._on_failure(listener.service, message)

    async def _answer(self, listener: _Listener, _: Request) -> Response:
        plan = self._planned.plan(listener.service)
        asked = plan.health_node_port if plan else None
        count = (_count(asked, 6 if ":" in listener.address.host else 4) if asked else 0) or 0
        return health_response(listener.service, count, serving=self._serving())


def health_response(service: ObjectKey, count: int, *, serving: bool) -> Response:
    """The answer for a Service with ``count`` ready endpoints on this node, to the letter (H-02, H-04, H-05)."""
    body = {
        "service": {"namespace": service.namespace, "name": service.name},
        "localEndpoints": count,
        "serviceProxyHealthy": serving,
    }
    return Response(
        200 if count and serving else 503,
        "application/json",
        json.dumps(body, indent="\t").encode(),
        (("X-Load-Balancing-Endpoint-Weight", str(count)),),
    )


def _count(asked: HealthNodePort, family: int) -> int | None:
    """The ready endpoints of a family on this node; None: the Service does not exist in it."""
    return asked.local_ipv6 if family == 6 else asked.local_ipv4
