"""Runs a test of transparent capture in a process that is a node in namespaces of its own."""

from __future__ import annotations

import os
import shutil

import pytest

from support.child import run_child

#: marks of a module whose tests do this
NEEDS_NODE = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces; run the tests as root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs the program nft (package nftables)"),
]

#: Common to all: the node's rules are changed by `change`, and each listener answers with its class.
PREAMBLE = """
import trio
from support.captureworld import *
from spliceway.capture.tproxy import TproxyCapture
from spliceway.model import *
from spliceway.settings import CaptureSettings, DetectLocal
SERVE, REJECT, DROP = FrontendVerdict.SERVE, FrontendVerdict.REJECT, FrontendVerdict.DROP
BOTH = (Protocol.TCP, Protocol.UDP)
VIPS = (VIP4, VIP6)
def frontend(host, port, verdict=SERVE, protocol=Protocol.TCP, **more):
    return Frontend(Address(host, port), "default/shop:http", verdict, protocol, **more)
def everything(verdict=SERVE, **more):
    "the VIPs and a NodePort, in both families, for TCP and UDP"
    return [
        frontend(host, port, verdict, protocol, **more)
        for host, port in ((VIP4, 80), (VIP6, 80), ("0.0.0.0", 30080), ("::", 30080))
        for protocol in BOTH
    ]
def keys(frontends):
    return [each.key for each in frontends]
def settings(**more):
    usual = {"cluster_cidrs": PODS, "localhost_node_ports": True, "untracked_clients": UNTRACKED}
    return CaptureSettings(**(usual | more))
async def opened(**more):
    capture = TproxyCapture(settings(**more), 2)
    opened.sockets = serve_listeners(await capture.open())
    return capture
TARGETS = ((VIP4, 80), (VIP6, 80), (NODE4, 30080), (NODE6, 30080))
UNTRACKED = False
"""

#: What firewalls begin with: an answer that conntrack does not know is dropped, coming or going.
INVALID_DROPPED = """
table inet filter {
    chain input { type filter hook input priority 0; policy accept; ct state invalid drop; }
    chain output { type filter hook output priority 0; policy accept; ct state invalid drop; }
}
"""


def in_node(code: str, *, untracked: bool = False, timeout: float = 60.0) -> str:
    """Run ``code`` after `PREAMBLE`, with ``CaptureSettings.untracked_clients`` as told, and return what it prints."""
    return run_child(
        f"{PREAMBLE}UNTRACKED = {untracked}\n{code}", prefix=("unshare", "--net", "--mount"), timeout=timeout
    )
