"""The admin side: health endpoints and metrics over TCP, and the JSON state over a unix socket only.

It has its own listeners, bounds and two threads, so that neither a scrape nor an evil client slows the pipeline down.
The two TCP addresses and their paths are kube-proxy's (H-08 to H-14).

- the health address: ``/healthz`` and ``/livez`` (`spliceway.observe.proxyhealth`), and ``/readyz``: 200 from the first
  complete state until shutdown begins
- the metrics address: ``/metrics`` (Prometheus), ``/proxyMode``, ``/configz`` and a plain ``/healthz``
- the unix socket: ``/state`` and ``/explain?frontend=ADDR:PORT&client=ADDR:PORT``, and all of the above
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio

from spliceway.model import Address, FrontendKey
from spliceway.observe.http import HttpServer, Request, Response, text_response
from spliceway.observe.listening import serve_at
from spliceway.observe.metrics import exposition
from spliceway.observe.observed import Observed
from spliceway.observe.proxyhealth import ProxyHealth
from spliceway.observe.readings import AdminReadings, AgentReadings
from spliceway.observe.state import ErrorState, agent_state, explain_state
from spliceway.observe.statesocket import state_socket
from spliceway.observe.stats import Snapshot
from spliceway.settings import AdminSettings, Settings

#: threads for answers that take longer than a few milliseconds
_THREADS = 2
#: what ``/proxyMode`` says; tools ask it to know whether iptables or ipvs are at work (H-15)
PROXY_MODE = "spliceway"

_JSON = "application/json"


class AdminAddresses(NamedTuple):
    """Where the admin side is reached. None: switched off, or the port is still taken."""

    healthz: Address | None
    metrics: Address | None
    socket: Path | None


class AdminContext(NamedTuple):
    """What the admin side tells besides what it sees of the pipeline."""

    health: ProxyHealth
    #: for ``/configz``
    settings: Settings
    #: of what runs beside the pipeline
    readings: Callable[[], AgentReadings] = AgentReadings
    #: told when an address cannot be opened
    on_failure: Callable[[str], None] = lambda message: None


async def serve_admin(
    observed: Observed,
    settings: AdminSettings,
    context: AdminContext,
    *,
    task_status: trio.TaskStatus[AdminAddresses] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. A taken TCP port is a warning and is tried again every 5 s.

    Raises:
        SettingsError: the state socket cannot be opened, or another agent answers on it.
        FrontendError: a port is taken, and ``settings.hard_fail`` is set.
    """
    admin = Admin(observed, context)
    handlers = (admin.health, admin.metrics, admin.private)
    servers = tuple(
        HttpServer(handler, timeout=settings.timeout, max_connections=settings.max_connections) for handler in handlers
    )
    admin.servers = servers

    with state_socket(settings.socket) if settings.socket else nullcontext() as sock:
        async with trio.open_nursery() as nursery:

            async def open_at(server: HttpServer, address: Address | None, what: str) -> Address | None:
                if address is None:
                    return None
                on_failure = context.on_failure
                real: Address | None = await nursery.start(
                    partial(serve_at, server, address, what, hard_fail=settings.hard_fail, on_failure=on_failure)
                )
                return real

            if sock is not None:
                nursery.start_soon(servers[2].serve, trio.SocketListener(trio.socket.from_stdlib_socket(sock)))
            healthz = await open_at(servers[0], settings.healthz, "health endpoints")
            metrics = await open_at(servers[1], settings.metrics, "metrics")
            task_status.started(AdminAddresses(healthz, metrics, settings.socket))


class Admin:
    """Answers requests about one agent."""

    def __init__(self, observed: Observed, context: AdminContext) -> None:
        self.servers: tuple[HttpServer, ...] = ()
        self._observed = observed
        self._context = context
        self._threads = trio.CapacityLimiter(_THREADS)

    async def health(self, request: Request) -> Response:
        """What load balancers and probes ask."""
        match request.path:
            case "/healthz":
                return self._context.health.healthz()
            case "/livez":
                return self._context.health.livez()
            case "/readyz":
                return self._readyz()
            case _:
                return text_response(404, "Not here; /healthz, /livez and /readyz are.")

    async def metrics(self, request: Request) -> Response:
        """What Prometheus and curious people of the node ask."""
        match request.path:
            case "/metrics":
                return await self._metrics(request.accept)
            case "/proxyMode":
                return Response(200, "text/plain; charset=utf-8", PROXY_MODE.encode())
            case "/healthz":
                return Response(200, "text/plain; charset=utf-8", b"ok")
            case "/configz":
                return _json(200, {"spliceway": self._context.settings})
            case _:
                return text_response(404, "Not here; /metrics, /proxyMode, /configz and /healthz are.")

    async def private(self, request: Request) -> Response:
        """What the agent's own user may ask over the unix socket."""
        match request.path:
            case "/state":
                return await self._state()
            case "/explain":
                return await self._explain(request.query)
            case "/metrics" | "/proxyMode" | "/configz":
                return await self.metrics(request)
            case _:
                return await self.health(request)

    def _readyz(self) -> Response:
        observed = self._observed
        if observed.draining():
            return _json(503, {"ready": False, "reason": "draining"})
        if not observed.ready():
            waiting = [each.name for each in observed.sources() if not each.synced]
            reason = f"waiting for {', '.join(waiting)}" if waiting else "the first state is not applied yet"
            return _json(503, {"ready": False, "reason": reason})
        if not self._context.health.holds:
            return _json(503, {"ready": False, "reason": "the packet rules are not as they should be"})
        return _json(200, {"ready": True, "generation": observed.generation()})

    async def _metrics(self, accept: str) -> Response:
        agent = self._context.readings()
        snapshot = Snapshot.take(self._observed, agent.problems)
        health = self._context.health
        readings = AdminReadings(
            agent,
            tuple(health.healthz_codes.items()),
            tuple(health.livez_codes.items()),
            sum(server.dropped for server in self.servers),
        )

        def collect() -> Response:
            counters = self._observed.counters(all_pools=False)
            bounds = self._observed.connect_bounds()
            content_type, body = exposition(snapshot, counters, bounds, readings, accept=accept)
            return Response(200, content_type, body)

        return await trio.to_thread.run_sync(collect, limiter=self._threads, abandon_on_cancel=True)

    async def _state(self) -> Response:
        snapshot = Snapshot.take(self._observed, self._context.readings().problems)

        def collect() -> Response:
            counters = self._observed.counters(all_pools=False)
            return _json(200, agent_state(snapshot, counters, pid=os.getpid(), time=time.time()))

        return await trio.to_thread.run_sync(collect, limiter=self._threads, abandon_on_cancel=True)

    async def _explain(self, query: dict[str, str]) -> Response:
        try:
            key = FrontendKey.parse(query.get("frontend", ""))
            client = Address.parse(query.get("client", ""))
        except ValueError as error:
            return _json(400, ErrorState(f"{error}."))
        try:
            outcome = await trio.to_thread.run_sync(
                self._observed.explain, key, client, limiter=self._threads, abandon_on_cancel=True
            )
        except KeyError:
            return _json(404, ErrorState(f"The engine has no pool for {key} at this moment; ask again."))
        if outcome is None:
            return _json(404, ErrorState(f"Nothing is served at {key}; {self._suggest(key.address)}."))
        return _json(200, explain_state(str(key), str(client), outcome))

    def _suggest(self, frontend: Address) -> str:
        known = [state.frontend.key for state in self._observed.frontends().values()]
        near = [each for each in known if each.address.host == frontend.host] or [
            each for each in known if each.address.port == frontend.port
        ]
        if not near:
            return f"{len(known)} frontends are known, `spliceway status` lists them"
        more = ", ..." if len(near) > 3 else ""
        return f"near it: {', '.join(str(each) for each in near[:3])}{more}"


def _json(status: int, body: object) -> Response:
    return Response(status, _JSON, msgspec.json.encode(body, enc_hook=str))
