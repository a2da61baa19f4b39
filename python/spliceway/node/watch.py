"""Watches the Node that the agent serves, and ends the agent when it is not any more what it was at start (W-23).

A restart is the safe answer to a Node that has other addresses: everything that depends on them begins anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import trio

from spliceway.errors import NodeError
from spliceway.model import Node
from spliceway.settings import CaptureSettings, DetectLocal, NodeSettings

log = logging.getLogger(__name__)


class Watched(Protocol):
    """The part of the pipeline that is looked at."""

    def ready(self) -> bool:
        """The source has said everything once."""
        ...

    def node(self) -> Node | None:
        """The Node, as the API last told of it."""
        ...

    async def wait_change(self) -> None:
        """Wait until something changed."""
        ...


async def watch_node(watched: Watched, settings: NodeSettings, capture: CaptureSettings) -> None:
    """Watch until the Node ends the agent. Waits at first for what a new Node gets only after a while (W-05).

    Raises:
        NodeError: the Node was deleted, has other addresses than at start, or (detection by NodeCIDR) has no podCIDR or
            other ones than at start; the text says which.
    """
    name = settings.name
    by_cidr = capture.detect_local is DetectLocal.NODE_CIDR
    await _until(watched, watched.ready)
    with trio.move_on_after(settings.address_wait) as waited:
        await _until(watched, lambda: _addresses(watched))
    if waited.cancelled_caught:
        what = "has no addresses" if watched.node() else "does not exist; is --hostname-override right?"
        log.warning("Node %s %s after %g s; going on without", name, what, settings.address_wait)
    addresses = _addresses(watched)
    if by_cidr:
        with trio.move_on_after(settings.pod_cidr_wait) as waited:
            await _until(watched, lambda: _pod_cidrs(watched))
        if waited.cancelled_caught:
            wait = f"{settings.pod_cidr_wait:g} s"
            raise NodeError(f"Node {name} has no podCIDRs after {wait}, which --detect-local-mode NodeCIDR needs")
    pod_cidrs = _pod_cidrs(watched)
    known = watched.node() is not None
    while True:
        if known and watched.node() is None:
            raise NodeError(f"Node {name} was deleted")
        known = watched.node() is not None
        if known and _addresses(watched) != addresses:
            change = f"{_list(_addresses(watched))}, not {_list(addresses)}"
            raise NodeError(f"Node {name} has other addresses than at start: {change}")
        if known and by_cidr and _pod_cidrs(watched) != pod_cidrs:
            change = f"{_list(_pod_cidrs(watched))}, not {_list(pod_cidrs)}"
            raise NodeError(f"Node {name} has other podCIDRs than at start: {change}")
        await watched.wait_change()


async def _until(watched: Watched, condition: Callable[[], object]) -> None:
    while not condition():
        await watched.wait_change()


def _addresses(watched: Watched) -> tuple[str, ...]:
    node = watched.node()
    return node.addresses if node else ()


def _pod_cidrs(watched: Watched) -> tuple[str, ...]:
    node = watched.node()
    return node.pod_cidrs if node else ()


def _list(values: tuple[str, ...]) -> str:
    return ", ".join(values) or "none"
