"""HTTP listeners that wait for their port: kube-proxy's habits with addresses that are taken (H-11)."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import trio

from spliceway.errors import FrontendError
from spliceway.model import Address
from spliceway.observe.http import HttpServer

logger = logging.getLogger(__name__)

#: seconds between attempts to open a listener whose port is taken (H-11)
REBIND_INTERVAL = 5.0
_BACKLOG = 128


async def listen(address: Address, *, one_family: bool = False) -> trio.SocketListener:
    """Open a TCP listener. A wildcard address of either family answers both, unless ``one_family``.

    Raises:
        OSError: the port is taken, or the address is not local.
    """
    wildcard = address.host in ("0.0.0.0", "::") and not one_family
    if wildcard and has_ipv6():
        return await _open(Address("::", address.port), dual=True)
    return await _open(address, dual=False)


async def serve_at(
    server: HttpServer,
    address: Address,
    what: str,
    *,
    hard_fail: bool = False,
    on_failure: Callable[[str], None] = lambda message: None,
    task_status: trio.TaskStatus[Address | None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. A taken port is a warning and is tried again every 5 s.

    Args:
        server: answers the requests.
        address: where; port 0 asks the kernel for one.
        what: what is missing while the address is taken, for the message.
        hard_fail: give up instead.
        on_failure: told of the first failure.
        task_status: gets the real address, or None while it is still taken.

    Raises:
        FrontendError: the address cannot be opened, and ``hard_fail`` is set.
    """
    waiting = False
    while True:
        try:
            listener = await listen(address)
            break
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            message = f"Admin address {address}: cannot listen: {reason}"
            if not waiting:
                on_failure(message)
            if hard_fail:
                raise FrontendError(message) from None
            if not waiting:
                logger.warning("%s; %s until it is free (tried every %g s).", message, f"no {what}", REBIND_INTERVAL)
                task_status.started(None)
                waiting = True
            await trio.sleep(REBIND_INTERVAL)
    name = listener.socket.getsockname()
    real = Address(address.host, name[1])
    if waiting:
        logger.info("Admin address %s: listening.", real)
    else:
        task_status.started(real)
    await server.serve(listener)


async def _open(address: Address, *, dual: bool) -> trio.SocketListener:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # whatever the machine's default is
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not dual))
        await sock.bind(tuple(address))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(sock)


def has_ipv6() -> bool:
    """The kernel has IPv6, and it is not switched off."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("::", 0))
    except OSError:
        return False
    return True
