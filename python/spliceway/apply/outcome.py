"""What becomes of one client at a frontend of the packet rules: what the rules and routes do, in words. Pure."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from spliceway.apply.frontends import DROPPING, REJECTING, SERVING
from spliceway.model import ClientClass, Frontend, FrontendVerdict


class Outcome(NamedTuple):
    """``state`` as that of a frontend, but for this client; ``pool`` is the one that its class may use."""

    pool: str
    state: str
    reason: str = ""


def outcome_of(frontend: Frontend, client: ClientClass, host: str) -> Outcome:
    """What becomes of the client at ``host``, in the order of the rules: source ranges (T-18), then class (T-13)."""
    pool, verdict = frontend.pool, frontend.verdict
    if client is ClientClass.EXT and frontend.external:
        pool, verdict = frontend.external
    if frontend.sources and not _inside(host, frontend.sources):
        ranges = ", ".join(frontend.sources)
        return Outcome(pool, DROPPING, f"the client is not in the source ranges of the Service ({ranges})")
    match verdict:
        case FrontendVerdict.SERVE:
            return Outcome(pool, SERVING)
        case FrontendVerdict.REJECT:
            return Outcome(pool, REJECTING, "no usable endpoint: clients are refused")
        case FrontendVerdict.DROP:
            return Outcome(pool, DROPPING, "no endpoint on this node, and only such may be used: packets are dropped")


def _inside(host: str, ranges: tuple[str, ...]) -> bool:
    address = ipaddress.ip_address(host)
    return any(address in ipaddress.ip_network(each) for each in ranges)
