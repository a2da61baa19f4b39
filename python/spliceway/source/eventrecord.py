"""A Kubernetes Event as it is to be written. Pure, and cheap to import."""

from __future__ import annotations

from typing import NamedTuple


class EventRecord(NamedTuple):
    """One Event, and how often it happened. Times in seconds since the Unix epoch."""

    #: object that it is about; an empty namespace for a Node
    kind: str
    namespace: str
    name: str
    reason: str
    action: str
    note: str
    warning: bool
    first: float
    last: float
    #: 1: not a series (yet)
    times: int = 1
    #: every node's agent says the same: one Event is enough for all of them
    shared: bool = False


class EventWriteError(Exception):
    """The API has not taken an Event. ``passing``: it may take it later. ``forbidden``: we may not write it."""

    def __init__(self, message: str, *, passing: bool, forbidden: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.passing = passing
        self.forbidden = forbidden
