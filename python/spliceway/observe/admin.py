"""The admin side: health endpoints and metrics over TCP, and the JSON state over a unix socket only.

It has its own listeners, bounds and two threads, so that neither a scrape nor an evil client slows the pipeline down.

- ``/livez``: 200 while the control plane runs at all
- ``/readyz``: 200 from the first complete state until shutdown begins
- ``/healthz``: 200 while no source has been silent for too long; what is known keeps being served meanwhile, so nothing
  should restart the agent for it, but somebody should look (H-09, H-10)
- ``/metrics``: Prometheus
- ``/state``, ``/explain?frontend=ADDR:PORT&client=ADDR:PORT``: unix socket only
"""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio

from spliceway.model import Address, FrontendState
from spliceway.observe.http import HttpServer, Request, Response, text_response
from spliceway.observe.metrics import exposition
from spliceway.observe.observed import Observed
from spliceway.observe.state import ErrorState, agent_state, explain_state
from spliceway.observe.statesocket import state_socket
from spliceway.observe.stats import Snapshot
from spliceway.settings import AdminSettings

logger = logging.getLogger(__name__)

#: seconds of silence after which a source makes ``/healthz`` fail: twice the time after which a watch is opened anew
STALE_AFTER = 600.0
#: seconds between attempts to open the HTTP listener when its port is taken (H-11)
REBIND_INTERVAL = 5.0
#: threads for answers that take longer than a few milliseconds
_THREADS = 2

_JSON = "application/json"


class AdminAddresses(NamedTuple):
    """Where the admin side is reached. ``http`` None: switched off, or its port is still taken."""

    http: Address | None
    socket: Path | None


async def serve_admin(
    observed: Observed,
    settings: AdminSettings,
    *,
    task_status: trio.TaskStatus[AdminAddresses] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. A taken TCP port is a warning and is tried again every 5 s.

    Raises:
        SettingsError: the state socket cannot be opened, or another agent answers on it.
    """
    admin = Admin(observed)
    public = HttpServer(admin.public, timeout=settings.timeout, max_connections=settings.max_connections)
    private = HttpServer(admin.private, timeout=settings.timeout, max_connections=settings.max_connections)
    admin.servers = (public, private)
    with state_socket(settings.socket) if settings.socket else nullcontext() as sock:
        async with trio.open_nursery() as nursery:
            if sock is not None:
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
                nursery.start_soon(private.serve, listener)
            http = None
            if settings.address is not None:
                http = await nursery.start(_serve_http, public, settings.address)
            task_status.started(AdminAddresses(http, settings.socket))


async def _serve_http(
    server: HttpServer, address: Address, *, task_status: trio.TaskStatus[Address | None] = trio.TASK_STATUS_IGNORED
) -> None:
    waiting = False
    while True:
        try:
            listener = await _listen(address)
            break
        except OSError as error:
            if not waiting:
                reason = (error.strerror or str(error)).lower()
                logger.warning(
                    "Admin address %s: cannot listen: %s; health endpoints and metrics are missing until it is free "
                    "(tried every %g s).",
                    address,
                    reason,
                    REBIND_INTERVAL,
                )
                task_status.started(None)
                waiting = True
            await trio.sleep(REBIND_INTERVAL)
    name = listener.socket.getsockname()
    real = Address(name[0], name[1])
    if waiting:
        logger.info("Admin address %s: listening.", real)
    else:
        task_status.started(real)
    await server.serve(listener)


async def _listen(address: Address) -> trio.SocketListener:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # [::] answers both families, whatever the machine's default is (H-11).
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host != "::"))
        await sock.bind(tuple(address))
        sock.listen(128)
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(sock)


class Admin:
    """Answers requests about one pipeline."""

    def __init__(self, observed: Observed) -> None:
        self.servers: tuple[HttpServer, ...] = ()
        self._observed = observed
        self._threads = trio.CapacityLimiter(_THREADS)
        self._last_healthy = _now()

    async def public(self, request: Request) -> Response:
        """What anybody who reaches the TCP port may ask."""
        match request.path:
            case "/livez":
                return _json(200, {"live": True})
            case "/readyz":
                return self._readyz()
            case "/healthz":
                return self._healthz()
            case "/metrics":
                return await self._metrics(request.accept)
            case _:
                return text_response(404, "Not here; /healthz, /livez, /readyz and /metrics are.")

    async def private(self, request: Request) -> Response:
        """What the agent's own user may ask over the unix socket besides."""
        match request.path:
            case "/state":
                return await self._state()
            case "/explain":
                return await self._explain(request.query)
            case _:
                return await self.public(request)

    def _readyz(self) -> Response:
        observed = self._observed
        if observed.draining():
            return _json(503, {"ready": False, "reason": "draining"})
        if not observed.ready():
            waiting = [each.name for each in observed.sources() if not each.synced]
            reason = f"waiting for {', '.join(waiting)}" if waiting else "the first state is not applied yet"
            return _json(503, {"ready": False, "reason": reason})
        return _json(200, {"ready": True, "generation": observed.generation()})

    def _healthz(self) -> Response:
        sources = self._observed.sources()
        stale = [each.name for each in sources if each.staleness > STALE_AFTER]
        now = _now()
        if not stale:
            self._last_healthy = now
        body = {
            "lastUpdated": self._last_healthy,
            "currentTime": now,
            "healthy": not stale,
            "ready": self._observed.ready(),
            "draining": self._observed.draining(),
            "generation": self._observed.generation(),
            "stale": stale,
            "sources": sources,
        }
        return _json(503 if stale else 200, body)

    async def _metrics(self, accept: str) -> Response:
        snapshot = Snapshot.take(self._observed)
        dropped = sum(server.dropped for server in self.servers)

        def collect() -> Response:
            counters = self._observed.counters(all_pools=False)
            content_type, body = exposition(
                snapshot, counters, self._observed.connect_bounds(), dropped=dropped, accept=accept
            )
            return Response(200, content_type, body)

        return await trio.to_thread.run_sync(collect, limiter=self._threads, abandon_on_cancel=True)

    async def _state(self) -> Response:
        snapshot = Snapshot.take(self._observed)

        def collect() -> Response:
            counters = self._observed.counters(all_pools=False)
            return _json(200, agent_state(snapshot, counters, pid=os.getpid(), time=time.time()))

        return await trio.to_thread.run_sync(collect, limiter=self._threads, abandon_on_cancel=True)

    async def _explain(self, query: dict[str, str]) -> Response:
        try:
            frontend = Address.parse(query.get("frontend", ""))
            client = Address.parse(query.get("client", ""))
        except ValueError as error:
            return _json(400, ErrorState(f"{error}."))
        state = self._find(frontend)
        if state is None:
            return _json(404, ErrorState(f"Nothing is served at {frontend}; {self._suggest(frontend)}."))
        address = state.frontend.address
        try:
            explanation = self._observed.explain(address, client)
        except KeyError:
            return _json(404, ErrorState(f"The engine has no pool for {address} at this moment; ask again."))
        return _json(200, explain_state(str(frontend), str(client), state.state, state.message, explanation))

    def _find(self, frontend: Address) -> FrontendState | None:
        """The frontend that takes a connection to this address: its own, or a wildcard of its port."""
        frontends = self._observed.frontends()
        for host in (frontend.host, "0.0.0.0" if ":" not in frontend.host else "::", "::"):
            state = frontends.get(Address(host, frontend.port))
            if state is not None:
                return state
        return None

    def _suggest(self, frontend: Address) -> str:
        known = [state.frontend.address for state in self._observed.frontends().values()]
        near = [each for each in known if each.host == frontend.host] or [
            each for each in known if each.port == frontend.port
        ]
        if not near:
            return f"{len(known)} frontends are known, `spliceway status` lists them"
        more = ", ..." if len(near) > 3 else ""
        return f"near it: {', '.join(str(each) for each in near[:3])}{more}"


def _json(status: int, body: object) -> Response:
    return Response(status, _JSON, msgspec.json.encode(body))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
