"""Tells of problems when they come and when they go: a line in the log, and an Event where users look for one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

import trio

from spliceway.model import Problem

#: problems that come or go at once and get a line each; the others are summed up
LOG_LINES = 20
#: seconds between two looks at the problems, so that a flapping one cannot fill the log
LOG_INTERVAL = 0.5

log = logging.getLogger(__name__)


class Problematic(Protocol):
    """The part of the pipeline that is looked at."""

    def problems(self) -> tuple[Problem, ...]:
        """All present problems."""
        ...

    async def wait_change(self) -> None:
        """Wait until something changed."""
        ...


async def report_problems(pipeline: Problematic, tell: Callable[[Problem], None] = lambda problem: None) -> None:
    """Log problems until cancelled; ``tell`` somebody else of each one that comes up."""
    known: tuple[Problem, ...] = ()
    while True:
        now = pipeline.problems()
        if now != known:
            new = set(now).difference(known)
            log_problems(new, "")
            log_problems(set(known).difference(now), "resolved: ")
            for problem in sorted(new, key=str):
                tell(problem)
            known = now
        await pipeline.wait_change()
        await trio.sleep(LOG_INTERVAL)


def log_problems(problems: Iterable[Problem], prefix: str) -> None:
    """One line each, or a summary of very many."""
    listed = sorted(problems, key=str)
    for problem in listed[:LOG_LINES]:
        log.log(logging.INFO if prefix else logging.WARNING, "%s%s", prefix, problem)
    if len(listed) > LOG_LINES:
        log.warning("%sand %d more problems; spliceway status lists them", prefix, len(listed) - LOG_LINES)
