"""The kernel settings that kube-proxy makes for connection tracking, and that Pods rely on (P-06). Blocking.

In a container without privileges /proc/sys is read-only; ``spliceway run --init-only`` in a privileged init container
makes the settings, and the agent finds them made (P-05).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

from spliceway.errors import SettingsError
from spliceway.settings import NodeSettings

#: more entries are never asked for, whatever the number of CPUs
MAX_LIMIT = 1_048_576
#: entries for each bucket of the hash table, at most
ENTRIES_PER_BUCKET = 4

_MAX = "proc/sys/net/netfilter/nf_conntrack_max"
_BUCKETS = "sys/module/nf_conntrack/parameters/hashsize"
_ESTABLISHED = "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established"
_CLOSE_WAIT = "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait"

log = logging.getLogger(__name__)


class Wish(NamedTuple):
    """A kernel setting below the root folder. ``floor``: a greater value is fine as well."""

    path: str
    value: int
    floor: bool = False

    def granted(self, present: int) -> bool:
        """Nothing need be written."""
        return present >= self.value if self.floor else present == self.value


def wishes(settings: NodeSettings, cpus: int) -> tuple[Wish, ...]:
    """What ``settings`` ask for on a machine with so many CPUs. Zeros leave the kernel's value alone."""
    found: list[Wish] = []
    if settings.conntrack_max_per_core:
        limit = min(max(settings.conntrack_max_per_core * cpus, settings.conntrack_min), MAX_LIMIT)
        found.append(Wish(_MAX, limit, floor=True))
        found.append(Wish(_BUCKETS, limit // ENTRIES_PER_BUCKET, floor=True))
    for path, seconds in (
        (_ESTABLISHED, settings.conntrack_tcp_established),
        (_CLOSE_WAIT, settings.conntrack_tcp_close_wait),
    ):
        if seconds:
            found.append(Wish(path, round(seconds)))
    return tuple(found)


def apply_sysctls(settings: NodeSettings, root: Path = Path("/")) -> None:
    """Make the kernel settings, and log each change.

    A setting that cannot be written is a warning where the kernel has a good enough value, and where connection
    tracking is not there at all.

    Raises:
        SettingsError: a setting is needed and cannot be written; the text says what to do.
    """
    for wish in wishes(settings, os.cpu_count() or 1):
        _grant(wish, root)


def _grant(wish: Wish, root: Path) -> None:
    path = root / wish.path
    try:
        present = int(path.read_text())
    except FileNotFoundError:
        log.warning("kernel setting %s does not exist (connection tracking is not loaded); left alone", path)
        return
    except (OSError, ValueError) as error:
        raise SettingsError(f"kernel setting {path} cannot be read: {_reason(error)}") from None
    if wish.granted(present):
        return
    try:
        path.write_text(str(wish.value))
    except OSError as error:
        if wish.path == _BUCKETS:  # only a hash table that is smaller than it might be
            log.warning(
                "kernel setting %s stays %d, %d cannot be written: %s", path, present, wish.value, _reason(error)
            )
            return
        raise SettingsError(
            f"kernel setting {path} is {present}, must be {wish.value} and cannot be written ({_reason(error)}); run "
            "`spliceway run --capture tproxy --init-only` in a privileged (init) container, or turn the setting off "
            "with its --conntrack flag set to 0"
        ) from None
    log.info("kernel setting %s: %d, was %d", path, wish.value, present)


def _reason(error: OSError | ValueError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
