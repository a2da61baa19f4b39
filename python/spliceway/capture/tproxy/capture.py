"""Transparent capture: keeps the node's packet rules as they are wanted, whatever happens to them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, TypeVar

import trio

from spliceway.capture.local import LocalAddresses
from spliceway.capture.tproxy.arrivals import Arrivals, read_counters
from spliceway.capture.tproxy.detector import classify
from spliceway.capture.tproxy.hostchecks import bridge_problems, filters_bridges
from spliceway.capture.tproxy.layout import FAMILY, REMOVAL, TABLE, Marks
from spliceway.capture.tproxy.nft import NftError, list_table, probe_nft, run_nft
from spliceway.capture.tproxy.nodeports import accepts, follows_interfaces
from spliceway.capture.tproxy.notices import Notices
from spliceway.capture.tproxy.routing import Routing, bridges, interface_addresses, remove_all, route_interface
from spliceway.capture.tproxy.sockets import TransparentListener, open_listeners
from spliceway.capture.tproxy.state import WantedTable
from spliceway.capture.tproxy.transaction import ElementChanges
from spliceway.errors import FrontendError
from spliceway.model import ClientClass, Frontend, FrontendKey, Node, Problem
from spliceway.settings import CaptureSettings

#: seconds between two reactions to notices, between two comparisons of everything, and between two looks at the machine
_PAUSE = 0.05
_COMPARE_INTERVAL = 10.0
_HOST_INTERVAL = 60.0
#: seconds between two lines in the log about repairs of the same
_LOG_INTERVAL = 60.0

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class CaptureStatistics(NamedTuple):
    """Running totals."""

    #: transactions that hold, and that failed
    changes: int
    failures: int
    #: repairs of what somebody else removed or changed
    restored: int
    #: elements in the kernel's sets and maps that stand for frontends
    elements: int
    #: seconds that the last change took
    last_duration: float


class TproxyCapture:
    """Leads packets for frontends to a few transparent listeners, which the engine serves by its routes.

    Nothing is captured before the first `change`, and what an earlier instance left stays in force until then. A change
    that fails is a problem (`problems`), and is repeated until it holds. Calls may overlap; they take turns.
    """

    def __init__(self, settings: CaptureSettings, workers: int) -> None:
        self._settings = settings
        self._workers = workers
        self._marks = Marks.of_bit(settings.mark_bit)
        self._routing = Routing(self._marks, settings.route_table, settings.rule_priority)
        self._wanted = WantedTable(settings)
        self._follows_interfaces = follows_interfaces(settings)
        self._addresses: tuple[str, ...] = ()
        self._local = LocalAddresses()
        self._notices: Notices | None = None
        self._elements = ElementChanges()
        self._lock = trio.Lock()
        #: its own, so that no other work in threads can hold up a change
        self._threads = trio.CapacityLimiter(1)
        #: the first complete state has come; the kernel has what is wanted; notices were lost, so maybe it has not
        self._begun = self._holds = self._doubtful = False
        #: what does not hold is somebody else's doing
        self._disturbed = False
        #: our hooks were registered when br_netfilter's were there; see `spliceway.capture.tproxy.rules`
        self._after_bridges = False
        self._failure: Problem | None = None
        self._arrivals = Arrivals(self._marks.both)
        self._host_problems: tuple[Problem, ...] = ()
        self._changes = self._failures = self._restored = 0
        self._last_duration = 0.0
        self._next_compare = self._next_host_look = 0.0
        #: when a repair of these may be logged again
        self._next_log: dict[str, float] = {}

    async def open(self) -> tuple[TransparentListener, ...]:
        """Open the listeners; they belong to the caller. Changes no rule yet.

        Raises:
            FrontendError: ``nft`` is missing or refuses, or CAP_NET_ADMIN is; the text says what to do.
        """
        return await self._turn(self._open)

    async def change(self, changed: Iterable[Frontend], removed: Iterable[FrontendKey]) -> None:
        """Follow these frontends, all at once. The first call installs everything."""
        await self._turn(lambda: self._change(changed, removed))

    async def update_node(self, node: Node | None) -> None:
        """Follow the Node's addresses (word ``primary``) and podCIDRs (DetectLocal.NODE_CIDR)."""
        await self._turn(lambda: self._apply(self._wanted.follow_node(node, self._present())))

    async def watch(self) -> None:
        """Restore what somebody else flushes or removes, until cancelled or `remove` was called."""
        while (notices := self._notices) is not None:
            with trio.move_on_after(self._settings.check_interval):
                try:
                    await trio.lowlevel.wait_readable(notices.fileno())
                except trio.ClosedResourceError:
                    return
            await self._turn(self._check)
            await trio.sleep(_PAUSE)

    async def remove(self) -> None:
        """Take all traces away: table, ip rules and routes. Not interrupted by cancellation; bounded in time.

        An instance that installed nothing removes nothing: what is there may be that of an agent which runs.
        """
        with trio.CancelScope(shield=True):
            await self._turn(self._remove)
        if self._notices is not None:
            trio.lowlevel.notify_closing(self._notices.fileno())
            self._notices.close()
            self._notices = None

    def classify(self, host: str) -> ClientClass:
        """The class of a client, as far as its address tells. Blocking: asks the kernel."""
        return classify(host, self._wanted.cidrs, self._wanted.detector, self._local, route_interface)

    def serves_node_port(self, host: str) -> bool:
        """Whether NodePorts are served at this address (on loopback: for the node's own processes). Blocking."""
        return accepts(self._wanted.accepted, host, self._local)

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong now: a change that does not hold, and warnings about this machine."""
        return (*((self._failure,) if self._failure else ()), *self._host_problems)

    def statistics(self) -> CaptureStatistics:
        """Running totals."""
        return CaptureStatistics(
            self._changes, self._failures, self._restored, self._wanted.elements, self._last_duration
        )

    # --- in a thread, one at a time ---------------------------------------------------------------------------------

    async def _turn(self, work: Callable[[], _Result]) -> _Result:
        async with self._lock:
            return await trio.to_thread.run_sync(work, limiter=self._threads)

    def _open(self) -> tuple[TransparentListener, ...]:
        probe_nft(self._settings.nft_timeout)
        listeners, ports = open_listeners(
            self._workers, self._marks, untracked_clients=self._settings.untracked_clients
        )
        self._wanted.ports = ports
        self._notices = Notices()
        return listeners

    def _change(self, changed: Iterable[Frontend], removed: Iterable[FrontendKey]) -> None:
        began = time.perf_counter()
        change = self._wanted.change(changed, removed)
        if self._begun:
            self._bring(partial(self._elements.commit, *change) if any(change) else None)
        else:
            self._begun = True
            self._wanted.follow_addresses(self._present())
            self._replace()
        self._last_duration = time.perf_counter() - began

    def _apply(self, text: str) -> None:
        self._bring(partial(self._run_nft, text) if text else None)

    def _bring(self, transaction: Callable[[], None] | None) -> None:
        """Bring the kernel along by this transaction, or if that fails by writing everything anew."""
        if not self._begun:
            return
        if not self._holds:
            self._replace()
        elif transaction:
            try:
                self._transact(transaction)
            except OSError as error:  # NftError is one
                self._failures += 1
                log.warning("a change of the packet rules failed, so all of them are written anew: %s", error)
                self._replace()

    def _replace(self) -> None:
        try:
            self._routing.ensure()
            after_bridges = self._wanted.bridged = filters_bridges(bridges())
            self._transact(partial(self._run_nft, self._wanted.whole()))
        except OSError as error:  # NftError is one
            self._failures += 1
            self._holds = False
            reason = str(error) if isinstance(error, FrontendError) else f"ip rules: {error.strerror or error}"
            self._failure = Problem("Capture", f"the packet rules are not as they should be: {reason}")
        else:
            self._failure = None
            self._after_bridges = after_bridges
            if self._disturbed and self._holds:
                self._disturbed = False
                self._tell_restored(f"table {FAMILY} {TABLE}")

    def _transact(self, transaction: Callable[[], None]) -> None:
        self._holds = False
        transaction()
        self._changes += 1
        self._holds = True
        self._read_notices(own=1)

    def _read_notices(self, own: int) -> None:
        """``own``: transactions of ours that the notices tell of."""
        if self._notices is None:
            return
        self._notices.routing.drain()
        seen = self._notices.table.drain()
        if seen.touches > own and self._holds:
            self._holds, self._disturbed = False, True
        if seen.lost:
            self._doubtful = True

    def _check(self) -> None:
        """Everything that may go wrong behind our back, from cheap to dear."""
        now = time.monotonic()
        self._read_notices(own=0)
        if not self._begun:
            return
        if self._doubtful and now >= self._next_compare:
            self._next_compare = now + _COMPARE_INTERVAL
            self._compare()
        if self._holds and self._follows_interfaces:
            self._apply(self._wanted.follow_addresses(self._present()))
        self._check_machine(now)
        if not self._holds:
            self._replace()
        self._check_routing()

    def _check_machine(self, now: float) -> None:
        try:
            present = bridges()
            if filters_bridges(present) != self._after_bridges:
                self._holds = False
            if now >= self._next_host_look:
                self._next_host_look = now + _HOST_INTERVAL
                bridged = bridge_problems(present, interface_addresses(), self._wanted.cidrs, self._wanted.detector)
                self._host_problems = bridged + self._arrivals.problems(read_counters())
        except OSError as error:
            log.debug("cannot look at the machine's bridges and counters: %s", error)

    def _compare(self) -> None:
        try:
            if self._holds and not self._wanted.matches(list_table(self._settings.nft_timeout)):
                self._holds, self._disturbed = False, True
            self._doubtful = False
        except NftError as error:
            log.debug("cannot compare the packet rules: %s", error)

    def _check_routing(self) -> None:
        try:
            if made := self._routing.ensure():
                self._tell_restored(", ".join(made))
        except OSError as error:
            self._failures += 1
            self._holds = False  # so that it is tried again, and the problem told, with everything else
            log.debug("cannot check the ip rules: %s", error)

    def _tell_restored(self, what: str) -> None:
        self._restored += 1
        if (now := time.monotonic()) >= self._next_log.get(what, 0.0):
            self._next_log[what] = now + _LOG_INTERVAL
            times = f"repair {self._restored} since the start"
            log.warning("restored what another program had changed or removed: %s (%s)", what, times)

    def _present(self) -> tuple[str, ...]:
        """The addresses of this machine, where they matter; the last ones known when the kernel does not tell."""
        if self._follows_interfaces:
            try:
                self._addresses = tuple(address for _, address in interface_addresses())
            except OSError as error:
                log.debug("cannot read the addresses of this machine: %s", error)
        return self._addresses

    def _remove(self) -> None:
        if not self._begun:
            return
        self._begun = self._holds = False
        for what, away in (("table", self._remove_table), ("ip rules", remove_all)):
            try:
                away()
            except OSError as error:
                self._failures += 1
                log.error("the %s could not be removed (spliceway cleanup does it): %s", what, error)

    def _remove_table(self) -> None:
        self._elements.close()
        self._run_nft(REMOVAL)

    def _run_nft(self, text: str) -> None:
        run_nft(text, self._settings.nft_timeout)
