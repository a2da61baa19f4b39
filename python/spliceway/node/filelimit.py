"""The limit on open files, and what of it flows and sessions may take."""

from __future__ import annotations

import logging
import resource

import msgspec

from spliceway.settings import EngineSettings

#: open files that flows and sessions leave to listeners, probes, the admin side and pipes: at least so many, and this
#: part of all
RESERVED_FILES = 256
RESERVED_PART = 10

log = logging.getLogger(__name__)


def raise_file_limit() -> int:
    """Raise the limit on open files as far as allowed: a flow takes two. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def fit_to_files(settings: EngineSettings, files: int) -> EngineSettings:
    """Bound flows, UDP sessions and pipes so that a limit of ``files`` open files leaves some for everything else.

    Flows that took every file would also keep probes, new frontends and `spliceway status` out. A session takes one and
    keeps it until it is idle, so a third is for sessions (more where fewer flows are allowed): many clients of a DNS
    Service must not keep all connections out.
    """
    if files == resource.RLIM_INFINITY:
        return settings
    reserved = min(max(RESERVED_FILES, files // RESERVED_PART), files // 2)
    left = files - reserved
    sessions = min(settings.max_sessions, max(1, left // 3, left - 2 * settings.max_flows))
    flows = min(settings.max_flows, max(1, (left - sessions) // 2))
    if flows < settings.max_flows:
        log.info("the limit of %d open files allows %d connections at once, not %d", files, flows, settings.max_flows)
    if sessions < settings.max_sessions:
        log.info(
            "the limit of %d open files allows %d UDP sessions at once, not %d", files, sessions, settings.max_sessions
        )
    return msgspec.structs.replace(
        settings, max_flows=flows, max_sessions=sessions, max_pipes=min(settings.max_pipes, reserved // 8)
    )
