"""Evidence from traffic: what the engine's events say about a backend. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spliceway.model import Address, Evidence, Target

if TYPE_CHECKING:
    from spliceway._engine import Event

#: event kinds that speak about a backend's health, and whether for it
_SPEAKS = {"connect-failed": False, "backend-aborted": False, "connect-recovered": True}

_WORDS = {"connect-recovered": "answers again", "backend-aborted": "closed before its first byte"}


def evidence_from_event(event: Event) -> Evidence | None:
    """Return what ``event`` says about a backend, or None when it says nothing about one.

    A backend that aborted a flow counts like one that refused it, although a client can provoke that with bytes that
    the backend dislikes. Little can come of it: a single success ends the run, a suspect is probed within a second, and
    a pool whose backends are all set aside is used as a whole.
    """
    ok = _SPEAKS.get(event.kind)
    if ok is None:
        return None
    try:
        backend = Address.parse(event.backend)
    except ValueError:
        return None
    reason = _WORDS.get(event.kind) or event.reason or "connect failed"
    return Evidence(Target(event.pool, backend), ok, "traffic", reason, max(1, event.count))
