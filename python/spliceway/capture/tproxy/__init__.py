"""Capture on a node: packets for frontends are led to a few transparent listeners by nftables rules and TPROXY.

``docs/capture.md`` tells how. `TproxyCapture` is all that the rest of the program needs.
"""

from spliceway.capture.tproxy.capture import CaptureStatistics, TproxyCapture
from spliceway.capture.tproxy.sockets import TransparentListener

__all__ = ["CaptureStatistics", "TproxyCapture", "TransparentListener"]
