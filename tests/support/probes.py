"""What a test asks of the worker in a network namespace, and what it answers: one JSON text per line, either way."""

from __future__ import annotations

from typing import Literal

import msgspec

Protocol = Literal["TCP", "UDP"]


class Probe(msgspec.Struct, frozen=True):
    """New flows from the namespace to one address, one after the other, each with a port of its own.

    There are at least ``at_least`` of them, then more, up to ``at_most``, until each name of ``want`` has answered. An
    attempt without any answer for ``timeout`` seconds counts as dropped, and two of those are enough.
    """

    protocol: Protocol
    host: str
    port: int
    at_least: int = 1
    at_most: int = 1
    want: tuple[str, ...] = ()
    timeout: float = 0.8
    payload: str = "?"


class Observed(msgspec.Struct, frozen=True):
    """How the attempts of a probe ended."""

    #: by the name of the backend
    answers: dict[str, int] = {}
    #: the client's addresses, as the backend of this name saw them
    sources: dict[str, tuple[str, ...]] = {}
    #: connection refused, or ICMP port unreachable
    refused: int = 0
    #: silence
    dropped: int = 0
    #: anything else, by name: reset or ended after it was accepted (``broken``), or an errno
    faults: dict[str, int] = {}


class ProbeAll(msgspec.Struct, frozen=True, tag=True):
    """Make all the probes, as many at once as ``parallel`` says. Answer: `Observed` of each, in this order."""

    probes: tuple[Probe, ...]
    parallel: int = 48


class Serve(msgspec.Struct, frozen=True, tag=True):
    """Answer on these addresses, by TCP (each line) and UDP: with the name, the client's address, and what it sent."""

    name: str
    hosts: tuple[str, ...]
    port: int
    protocols: tuple[Protocol, ...] = ("TCP", "UDP")


class Cease(msgspec.Struct, frozen=True, tag=True):
    """Close what `Serve` of this name opened, with the connections that it has."""

    name: str


class Fetch(msgspec.Struct, frozen=True, tag=True):
    """Ask for a page by HTTP GET. Answer: `Page`."""

    host: str
    port: int
    path: str = "/"
    timeout: float = 2.0


class Ward(msgspec.Struct, frozen=True, tag=True):
    """Kill this process, if it still runs, when the test's process is gone."""

    pid: int


class Page(msgspec.Struct, frozen=True):
    """An HTTP answer; names of headers in lower case. ``status`` 0: none came, and ``body`` says why."""

    status: int
    headers: dict[str, str] = {}
    body: str = ""


Order = ProbeAll | Serve | Cease | Fetch | Ward


class Request(msgspec.Struct, frozen=True):
    number: int
    order: Order


class Response(msgspec.Struct, frozen=True):
    """``error`` is empty when the order was carried out."""

    number: int
    result: msgspec.Raw
    error: str = ""
