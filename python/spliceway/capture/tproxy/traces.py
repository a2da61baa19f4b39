"""Takes away what any instance, with whatever settings, left in the kernel. Blocking; needs no other part to run."""

from __future__ import annotations

import errno

from spliceway.capture.tproxy import netlink
from spliceway.capture.tproxy.layout import FAMILY, INET, REMOVAL, TABLE
from spliceway.capture.tproxy.nft import run_nft
from spliceway.capture.tproxy.routing import remove_all

_GET_TABLE = (10 << 8) | 1
_TABLE_NAME = 1


def table_exists() -> bool:
    """Whether our table is there. Raises `OSError` when the kernel does not tell."""
    body = INET + netlink.attribute(_TABLE_NAME, TABLE.encode() + b"\0")
    try:
        netlink.request(netlink.NETLINK_NETFILTER, _GET_TABLE, body)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def remove_traces(timeout: float) -> tuple[list[str], list[str]]:
    """Remove table, ip rules and routes. Returns what was removed, and what could not be, each with its reason."""
    removed: list[str] = []
    failed: list[str] = []
    try:
        if table_exists():
            run_nft(REMOVAL, timeout)
            removed.append(f"nftables table {FAMILY} {TABLE}")
    except OSError as error:
        failed.append(f"nftables table {FAMILY} {TABLE}: {error.strerror or error}")
    try:
        removed += remove_all()
    except OSError as error:
        failed.append(f"ip rules and routes: {error.strerror or error}")
    return removed, failed
