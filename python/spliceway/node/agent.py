"""The agent: one source, one pipeline, one admin side, what a node needs besides, and the process's signals."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import trio

from spliceway.engine import TrioEngine
from spliceway.errors import NodeError
from spliceway.groups import clear_error
from spliceway.model import ObjectKey
from spliceway.node.allocator import give_large_blocks_back
from spliceway.node.announce import Announcer
from spliceway.node.filelimit import fit_to_files, raise_file_limit
from spliceway.node.healthhosts import HealthHosts
from spliceway.node.problemlog import report_problems
from spliceway.node.sysctls import apply_sysctls
from spliceway.node.watch import watch_node
from spliceway.observe.admin import AdminContext, serve_admin
from spliceway.observe.healthnodeport import HealthNodePorts
from spliceway.observe.proxyhealth import ProxyHealth
from spliceway.observe.readings import AgentReadings, CaptureReading
from spliceway.pipeline import Pipeline
from spliceway.settings import CaptureMode, CaptureSettings, DetectLocal, Settings
from spliceway.source import open_source

if TYPE_CHECKING:
    from spliceway.capture.tproxy import TproxyCapture
    from spliceway.source.eventrecord import EventRecord

#: seconds that flows have when the agent ends because of its Node: it is restarted at once
NODE_SHUTDOWN = 1.0
#: seconds that the packet rules have to go at the end
REMOVAL_TIMEOUT = 10.0

log = logging.getLogger(__name__)


async def run_agent(settings: Settings, *, task_status: trio.TaskStatus[Pipeline] = trio.TASK_STATUS_IGNORED) -> None:
    """Run the agent until SIGTERM or SIGINT, then drain for ``settings.shutdown`` seconds and return.

    A second signal ends it at once. ``task_status`` gets the running pipeline.

    Raises:
        SourceError: the source of Services cannot be started.
        EngineError: the engine cannot be started.
        FrontendError: frontends cannot be served on this machine at all, or an admin address is taken for good.
        SettingsError: a kernel setting is missing that cannot be made, the state socket is taken, or another agent
            captures on this node.
        NodeError: the Node is not what it was at start (W-23).
    """
    async with _capturing_alone(settings.capture):
        await _run(settings, task_status)


def _capturing_alone(settings: CaptureSettings) -> AbstractAsyncContextManager[None]:
    """Ordinary sockets need no such care: who comes second cannot bind them."""
    if settings.mode is CaptureMode.BIND:
        return nullcontext()
    from spliceway.capture.tproxy.presence import captures_alone

    return captures_alone()


async def _run(settings: Settings, task_status: trio.TaskStatus[Pipeline]) -> None:
    give_large_blocks_back()
    engine_settings = fit_to_files(settings.engine, raise_file_limit())
    source = await trio.to_thread.run_sync(open_source, settings.source, settings.node)
    announcer = await _open_announcer(settings)
    if settings.capture.mode is CaptureMode.TPROXY:
        await trio.to_thread.run_sync(apply_sysctls, settings.node)
    engine = TrioEngine.open(engine_settings)
    rules: TproxyCapture | None = None
    try:
        engine.start()
        rules = _open_rules(settings, engine)
        pipeline = Pipeline(settings, engine, source, rules=rules)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipeline.run)
                nursery.start_soon(_report_ready, pipeline)
                _start_observers(nursery, pipeline, settings, announcer, rules)
                task_status.started(pipeline)
                ended_by = await _run_until_drained(pipeline, signals, settings)
                nursery.cancel_scope.cancel()
        await _leave_rules(rules, ended_by)
    except BaseExceptionGroup as group:
        raise clear_error(group) or group from None
    finally:
        await engine.close(1.0)
    log.info("stopped")


async def _leave_rules(rules: TproxyCapture | None, ended_by: str) -> None:
    """Who presses Ctrl-C wants no trace; anything else is followed by another agent.

    Until it comes, packets of new clients are dropped, so that TCP clients ask again; without rules they would be
    refused, or go where nobody is. `spliceway cleanup` removes the rules of an agent that nobody follows (W-09).
    """
    if rules is None:
        return
    if ended_by == signal.SIGINT.name:
        with trio.move_on_after(REMOVAL_TIMEOUT):
            await rules.remove()
    else:
        log.info("the packet rules stay for the next agent: clients wait for it; `spliceway cleanup` removes them")


def _start_observers(
    nursery: trio.Nursery,
    pipeline: Pipeline,
    settings: Settings,
    announcer: Announcer | None,
    rules: TproxyCapture | None,
) -> None:
    """Start what looks at the pipeline and tells of it."""
    name = settings.node.name
    health = ProxyHealth(pipeline, on_node=name is not None, holds=lambda: rules is None or _holds(rules))
    ports = HealthNodePorts(
        pipeline,
        lambda: health.serving,
        HealthHosts(settings.capture, pipeline.node),
        partial(_tell_health_port, announcer),
    )
    if settings.capture.mode is CaptureMode.TPROXY:
        nursery.start_soon(ports.run)

    def readings() -> AgentReadings:
        return AgentReadings(
            _capture_reading(rules),
            ports.problems(),
            len(ports.listeners),
            announcer.written if announcer else 0,
            announcer.dropped if announcer else 0,
        )

    def tell_admin_failure(message: str) -> None:
        if announcer and name is not None:
            announcer.node(name, "FailedToStartProxierHealthcheck", "StartSpliceway", message, warning=True)

    context = AdminContext(health, settings, readings, tell_admin_failure)
    nursery.start_soon(serve_admin, pipeline, settings.admin, context)
    if announcer and name is not None:
        announcer.node(name, "Starting", "StartSpliceway", "")
        nursery.start_soon(announcer.run)
        nursery.start_soon(report_problems, pipeline, announcer.problem)
    else:
        nursery.start_soon(report_problems, pipeline)


def _tell_health_port(announcer: Announcer | None, service: ObjectKey, message: str) -> None:
    if announcer:
        announcer.service(service, "FailedToStartServiceHealthcheck", "Listen", message)


async def _open_announcer(settings: Settings) -> Announcer | None:
    """Events are written by the service proxy of a Node only, into the API that Services come from."""
    name = settings.node.name
    if name is None or not settings.node.events or settings.source.manifests:
        return None

    def open_writer() -> Callable[[EventRecord], None]:
        from spliceway.source.eventwriter import EventWriter

        return EventWriter(settings.source, name).write

    return Announcer(await trio.to_thread.run_sync(open_writer))


def _open_rules(settings: Settings, engine: TrioEngine) -> TproxyCapture | None:
    """The packet rules; None: ordinary sockets."""
    if settings.capture.mode is CaptureMode.BIND:
        return None
    from spliceway.capture.tproxy import TproxyCapture

    capture = settings.capture
    if capture.detect_local is DetectLocal.CLUSTER_CIDR and not capture.cluster_cidrs:
        log.warning("without --cluster-cidr no client counts as a Pod: all of them are treated as from outside (M-01)")
    return TproxyCapture(capture, engine.counters(all_pools=False).workers)


def _holds(rules: TproxyCapture) -> bool:
    """The kernel has taken the last change of the packet rules."""
    return all(problem.warning for problem in rules.problems())


def _capture_reading(rules: TproxyCapture | None) -> CaptureReading | None:
    if rules is None:
        return None
    now = rules.statistics()
    return CaptureReading(now.changes, now.failures, now.restored, now.elements, now.last_duration)


async def _run_until_drained(pipeline: Pipeline, signals: AsyncIterator[int], settings: Settings) -> str:
    """Wait for a signal that ends the agent, and for the drain; return the signal's name."""
    try:
        name = await _wait_for_end(pipeline, signals, settings)
    except NodeError:
        await pipeline.drain(NODE_SHUTDOWN)
        raise
    shutdown = settings.shutdown
    new = "new clients are still served" if settings.capture.mode is CaptureMode.TPROXY else "no new connections"
    log.info("%s: %s; open connections have %g s to end, a second signal ends them now", name, new, shutdown)
    async with trio.open_nursery() as nursery:

        async def give_up() -> None:
            log.warning("%s again: ending at once", await _next_end(signals))
            nursery.cancel_scope.cancel()

        nursery.start_soon(give_up)
        await pipeline.drain(shutdown)
        nursery.cancel_scope.cancel()
    return name


async def _wait_for_end(pipeline: Pipeline, signals: AsyncIterator[int], settings: Settings) -> str:
    """The name of the signal that ends the agent. Raises `NodeError` when its Node does."""
    try:
        async with trio.open_nursery() as nursery:
            if settings.node.name is not None:
                nursery.start_soon(watch_node, pipeline, settings.node, settings.capture)
            name = await _next_end(signals)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise clear_error(group) or group from None
    return name


async def _next_end(signals: AsyncIterator[int]) -> str:
    """Wait for a signal that ends the agent, and return its name."""
    while True:
        number = signal.Signals(await anext(signals))
        if number != signal.SIGHUP:
            return number.name
        log.info("SIGHUP: nothing to do, changed files are read when they change")


async def _report_ready(pipeline: Pipeline) -> None:
    await pipeline.wait_ready()
    # What exists now mostly stays; without this, the garbage collector would walk all of it time and again.
    gc.freeze()
    frontends = pipeline.frontends()
    serving = sum(state.state == "serving" for state in frontends.values())
    log.info("ready: generation %d, %d of %d frontends serve", pipeline.generation(), serving, len(frontends))
