"""The agent: one source, one pipeline, one admin side, and the process's signals around them."""

from __future__ import annotations

import gc
import logging
import resource
import signal
from collections.abc import AsyncIterator, Iterable

import msgspec
import trio

from spliceway.capture.bind import BindCapture
from spliceway.engine import TrioEngine
from spliceway.groups import clear_error
from spliceway.model import Problem
from spliceway.observe.admin import serve_admin
from spliceway.pipeline import Pipeline
from spliceway.settings import EngineSettings, Settings
from spliceway.source import open_source

#: problems that come or go at once and get a line each; the others are summed up
LOG_LINES = 20
#: seconds between two looks at the problems, so that a flapping one cannot fill the log
LOG_INTERVAL = 0.5
#: open files that flows leave to listeners, probes, the admin side and pipes: at least so many, and this part of all
RESERVED_FILES = 256
RESERVED_PART = 10

log = logging.getLogger(__name__)


async def run_agent(settings: Settings, *, task_status: trio.TaskStatus[Pipeline] = trio.TASK_STATUS_IGNORED) -> None:
    """Run the agent until SIGTERM or SIGINT, then drain for ``settings.shutdown`` seconds and return.

    A second signal ends it at once. ``task_status`` gets the running pipeline.

    Raises:
        SourceError: the source of Services cannot be started.
        EngineError: the engine cannot be started.
    """
    engine_settings = fit_to_files(settings.engine, raise_file_limit())
    source = await trio.to_thread.run_sync(open_source, settings.source)
    engine = TrioEngine.open(engine_settings)
    capture = BindCapture()
    try:
        engine.start()
        pipeline = Pipeline(settings, engine, source, capture=capture)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipeline.run)
                nursery.start_soon(_report_problems, pipeline)
                nursery.start_soon(_report_ready, pipeline)
                nursery.start_soon(serve_admin, pipeline, settings.admin)
                task_status.started(pipeline)
                await _run_until_drained(pipeline, signals, settings.shutdown)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise clear_error(group) or group from None
    finally:
        capture.close()
        await engine.close(1.0)
    log.info("stopped")


def raise_file_limit() -> int:
    """Raise the limit on open files as far as allowed: a flow takes two. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def fit_to_files(settings: EngineSettings, files: int) -> EngineSettings:
    """Bound flows and pipes so that a limit of ``files`` open files leaves some for everything else.

    Flows that took every file would also keep probes, new frontends and `spliceway status` out.
    """
    if files == resource.RLIM_INFINITY:
        return settings
    reserved = min(max(RESERVED_FILES, files // RESERVED_PART), files // 2)
    flows = max(1, (files - reserved) // 2)
    if flows < settings.max_flows:
        log.info("the limit of %d open files allows %d connections at once, not %d", files, flows, settings.max_flows)
    return msgspec.structs.replace(
        settings, max_flows=min(settings.max_flows, flows), max_pipes=min(settings.max_pipes, reserved // 8)
    )


async def _run_until_drained(pipeline: Pipeline, signals: AsyncIterator[int], shutdown: float) -> None:
    name = await _next_end(signals)
    log.info("%s: no new connections; open ones have %g s to end, a second signal ends them now", name, shutdown)
    async with trio.open_nursery() as nursery:

        async def give_up() -> None:
            log.warning("%s again: ending at once", await _next_end(signals))
            nursery.cancel_scope.cancel()

        nursery.start_soon(give_up)
        await pipeline.drain(shutdown)
        nursery.cancel_scope.cancel()


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


async def _report_problems(pipeline: Pipeline) -> None:
    known: tuple[Problem, ...] = ()
    while True:
        now = pipeline.problems()
        if now != known:
            _log_problems(set(now).difference(known), "")
            _log_problems(set(known).difference(now), "resolved: ")
            known = now
        await pipeline.wait_change()
        await trio.sleep(LOG_INTERVAL)


def _log_problems(problems: Iterable[Problem], prefix: str) -> None:
    listed = sorted(problems, key=str)
    for problem in listed[:LOG_LINES]:
        log.log(logging.INFO if prefix else logging.WARNING, "%s%s", prefix, problem)
    if len(listed) > LOG_LINES:
        log.warning("%sand %d more problems; spliceway status lists them", prefix, len(listed) - LOG_LINES)
