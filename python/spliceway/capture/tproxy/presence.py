"""One agent captures on a node: who captures holds a name that nobody else in the network namespace can have.

The name is that of an abstract unix socket, so it belongs to the namespace whose rules are changed, whatever the
agent's other settings are, and the kernel takes it away with the process, however that ends.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from spliceway.errors import SettingsError

_NAME = "\0spliceway/agent"
#: seconds that a predecessor may take to end, and between two looks
PATIENCE = 10.0
_INTERVAL = 0.1


@asynccontextmanager
async def captures_alone() -> AsyncGenerator[None]:
    """Be the agent that captures here. Waits a while for one that is just ending.

    Raises:
        SettingsError: another agent captures on this node.
        OSError: the kernel refused a socket.
    """
    held = _take()
    with trio.move_on_after(PATIENCE):
        while held is None:
            await trio.sleep(_INTERVAL)
            held = _take()
    if held is None:
        raise SettingsError(
            "another spliceway agent captures on this node already; stop it first (only one agent of a node may have "
            "--capture tproxy, whatever its other settings)"
        )
    with held:
        yield


def agent_captures() -> bool:
    """Whether an agent captures on this node. Raises `OSError` when the kernel refuses a socket."""
    held = _take()
    if held is None:
        return True
    held.close()
    return False


def _take() -> socket.socket | None:
    """The socket that has the name; None when somebody else has it."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(_NAME)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return made
