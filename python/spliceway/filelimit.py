"""The limit on open files, and what of it flows may take."""

from __future__ import annotations

import logging
import resource

import msgspec

from spliceway.settings import EngineSettings

#: open files that flows leave to listeners, probes, the admin side and pipes: at least so many, and this part of all
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
