"""Frontends as entries of the node's packet rules; a few transparent listeners serve them by the engine's routes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol as Face

from spliceway.apply.frontends import DROPPING, REJECTING, SERVING, frontend_journal, subject
from spliceway.engine import ROUTE_CLASSES, RouteRecord, TrioEngine
from spliceway.model import (
    ClientClass,
    Frontend,
    FrontendKey,
    FrontendState,
    FrontendVerdict,
    Node,
    Problem,
    Protocol,
)


class Listener(Face):
    """A transparent socket for one class of client."""

    @property
    def fd(self) -> int:
        """The file descriptor, which belongs to who asked for it."""
        ...

    @property
    def client_class(self) -> ClientClass:
        """The class of the clients that come here."""
        ...


class Rules(Face):
    """The packet rules. `spliceway.capture.tproxy` has them."""

    async def open(self) -> Sequence[Listener]:
        """The sockets that packets are led to."""
        ...

    async def change(self, changed: Iterable[Frontend], removed: Iterable[FrontendKey]) -> None:
        """Follow these frontends, all at once. A failure is kept as a problem and repaired by itself."""
        ...

    async def update_node(self, node: Node | None) -> None:
        """Follow the Node's own addresses and podCIDRs."""
        ...

    async def watch(self) -> None:
        """Keep the rules as they should be, until cancelled."""
        ...

    def classify(self, host: str) -> ClientClass:
        """The class of a client, as far as its address tells. Asks the kernel: call it in a thread."""
        ...

    def serves_node_port(self, host: str) -> bool:
        """Whether NodePorts are served at this address. Asks the kernel."""
        ...

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the rules now."""
        ...


class CapturedFrontends:
    """Implements `spliceway.apply.frontends.Frontends`.

    The engine's routes follow the frontends, whatever their verdict; who is served, refused or dropped is the rules'.
    """

    def __init__(self, engine: TrioEngine, rules: Rules) -> None:
        self._engine = engine
        self._rules = rules
        self._states: dict[FrontendKey, FrontendState] = {}
        self._journal = frontend_journal()
        self._accepting = True
        #: the first complete state was offered
        self._begun = False
        #: what is to be withdrawn with it
        self._held: list[Frontend] = []

    async def start(self) -> None:
        """Open the transparent listeners.

        Raises:
            FrontendError: not permitted, or ``nft`` is missing; the text says what to do.
        """
        for listener in await self._rules.open():
            self._engine.add_transparent_listener(listener.fd, listener.client_class)

    def routes(self, offered: Sequence[Frontend]) -> list[RouteRecord]:
        """One route for each frontend."""
        return [_route(frontend) for frontend in offered]

    async def withdraw(self, rejected: Sequence[Frontend]) -> None:
        """The rules refuse or drop their clients when this returns.

        Before the first complete state there are none but those of an earlier instance. They stay until all can be
        replaced at once: with the refusals alone, what is served would not be captured for a moment.
        """
        if not self._begun:
            self._held.extend(rejected)
        elif rejected:
            await self._follow(rejected, ())

    async def offer(self, offered: Sequence[Frontend], closed: Sequence[FrontendKey]) -> None:
        """The rules lead clients to the engine when this returns.

        The first call is for the rules even with nothing to offer: an earlier instance may have left its own.
        """
        held, self._held = self._held, []
        first, self._begun = not self._begun, True
        if first or offered or closed:
            await self._follow([*held, *offered], closed)

    async def retry_failed(self) -> bool:
        """The rules repair themselves."""
        return False

    async def stop_accepting(self) -> None:
        """Follow no change any more. The rules stay, for the next agent: until it listens, they drop."""
        self._accepting = False

    def failing(self) -> bool:
        """The rules repair themselves."""
        return False

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the rules now."""
        return self._rules.problems()

    def states(self) -> Mapping[FrontendKey, FrontendState]:
        """What became of every frontend; a copy."""
        return self._states.copy()

    def state(self, key: FrontendKey) -> FrontendState | None:
        """What became of one frontend."""
        return self._states.get(key)

    async def _follow(self, changed: Sequence[Frontend], closed: Sequence[FrontendKey]) -> None:
        if not self._accepting:
            return
        await self._rules.change(changed, closed)
        for frontend in changed:
            self._note(frontend)
        for key in closed:
            if state := self._states.pop(key, None):
                self._journal.note(f"{subject(state.frontend)} closed")
        self._journal.write()

    def _note(self, frontend: Frontend) -> None:
        state, message = _state(frontend)
        known = self._states.get(frontend.key)
        self._states[frontend.key] = FrontendState(frontend, state, message)
        if known is None or known.state != state:
            what = {SERVING: "serves", REJECTING: "refuses clients", DROPPING: "drops"}[state]
            self._journal.note(f"{subject(frontend)} {what}")


def _state(frontend: Frontend) -> tuple[str, str]:
    if frontend.served:
        if frontend.external and frontend.external.verdict is FrontendVerdict.DROP:
            return SERVING, "no endpoint on this node: clients from outside are dropped"
        return SERVING, ""
    if FrontendVerdict.DROP in (frontend.verdict, frontend.external.verdict if frontend.external else None):
        return DROPPING, "no endpoint on this node, and only such may be used: packets are dropped"
    return REJECTING, "no usable endpoint"


def _route(frontend: Frontend) -> RouteRecord:
    """Pool and source for each class, in the engine's order of classes."""

    def target(client: ClientClass) -> tuple[str, bool] | None:
        pool, verdict = frontend.pool, frontend.verdict
        if client is ClientClass.EXT and frontend.external:
            pool, verdict = frontend.external
        # Connections that were let through just before the rules refuse or drop go to the last endpoints, which the
        # engine knows by the pool. Sessions of datagrams end.
        if verdict is not FrontendVerdict.SERVE and frontend.protocol is not Protocol.TCP:
            return None
        return pool, bool(client & frontend.keep_source)

    pod, node, ext = (target(client) for client in ROUTE_CLASSES)
    address = frontend.address
    return (frontend.protocol.value.lower(), address.host, address.port, (pod, node, ext))
