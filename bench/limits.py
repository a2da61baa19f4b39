"""Limits that the bench's processes inherit."""

from __future__ import annotations

import contextlib
import resource

#: what a container of a cluster usually may have
_OPEN_FILES = 1 << 20


def raise_open_files() -> None:
    """Let all processes of the bench have as many open files as this user may have, as root a million."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, _OPEN_FILES), max(hard, _OPEN_FILES)))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
