"""What annotations under ``spliceway.io/`` ask for, on Services and EndpointSlices. Pure.

Everything that an annotation may say is in one table, `SERVICE_ANNOTATIONS`; ``docs/annotations.md`` explains it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import msgspec

from spliceway.durations import parse_seconds
from spliceway.model import Balance, EndpointSlice, HealthCheck, Problem, RetryPolicy, Service

_DAY = 86400.0
MAX_WEIGHT = 65535

#: the names that IPVS has for what we do as well
IPVS_NAMES = {
    "rr": Balance.ROUND_ROBIN,
    "wrr": Balance.ROUND_ROBIN,
    "lc": Balance.LEAST_CONN,
    "wlc": Balance.LEAST_CONN,
    "sh": Balance.SOURCE_HASH,
    "mh": Balance.MAGLEV,
    "twos": Balance.P2C,
    # sed and nq are Balance's own names
}
_ONE_DESTINATION = "chooses by the destination, of which a Service port has one, so one endpoint would take everything"
_ONE_ENDPOINT = "sends everything to one endpoint"
#: those that make no sense for a Service, and why
REFUSED_IPVS_NAMES = {
    "dh": _ONE_DESTINATION,
    "lblc": _ONE_DESTINATION,
    "lblcr": _ONE_DESTINATION,
    "fo": f"{_ONE_ENDPOINT}, the one with the highest weight",
    "ovf": f"{_ONE_ENDPOINT} until it has as many connections as its weight says",
}
HEALTH_KINDS = ("off", "passive", "tcp", "http")


class Tuning(msgspec.Struct, frozen=True):
    """How the pools of a Service behave; what no annotation says comes from the settings."""

    balance: Balance = Balance.MAGLEV
    retry: RetryPolicy = RetryPolicy()
    #: seconds that flows to a removed endpoint may still run; None: until they end
    drain: float | None = None
    health: HealthCheck = HealthCheck()


class Annotation(NamedTuple):
    """What one annotation sets. ``part`` is the field of `Tuning` that holds ``field``; empty: ``field`` is its own."""

    part: str
    field: str
    #: raises `ValueError` with a clause that follows the value, such as ``is not a whole number``
    parse: Callable[[str], object]


def _parse_balance(text: str) -> Balance:
    if text in REFUSED_IPVS_NAMES:
        raise ValueError(f"is refused: it {REFUSED_IPVS_NAMES[text]}")
    if text in IPVS_NAMES:
        return IPVS_NAMES[text]
    if text not in set(Balance):
        raise ValueError(f"is not one of {', '.join([*Balance, *IPVS_NAMES])}")
    return Balance(text)


def _parse_flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("is neither true nor false")
    return text == "true"


def _parse_health_kind(text: str) -> str:
    if text not in HEALTH_KINDS:
        raise ValueError(f"is not one of {', '.join(HEALTH_KINDS)}")
    return text


def _parse_path(text: str) -> str:
    if not text.startswith("/") or not all("!" <= character <= "~" for character in text):
        raise ValueError("does not begin with / or has characters that a URL may not have")
    return text


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            seconds = parse_seconds(text)
        except ValueError:
            raise ValueError("is not a time such as 2, 0.25, 250ms, 1m or 1h30m") from None
        if not low <= seconds <= high:
            raise ValueError(f"is not from {low:g} to {high:g} seconds")
        return seconds

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # Longer texts are out of range anyway, and Python refuses to convert very long ones.
        if not (text.isascii() and text.isdigit() and len(text) <= 10) or not low <= int(text) <= high:
            raise ValueError(f"is not a whole number of {low} to {high}")
        return int(text)

    return parse


#: by the name after ``spliceway.io/``. The limits are those of the engine and of the health monitor.
SERVICE_ANNOTATIONS = {
    "balance": Annotation("", "balance", _parse_balance),
    "replay": Annotation("retry", "replay", _parse_flag),
    "tries": Annotation("retry", "tries", _whole(1, 16)),
    "connect-timeout": Annotation("retry", "connect_timeout", _seconds(0.001, 3600.0)),
    "retry-deadline": Annotation("retry", "deadline", _seconds(0.001, 3600.0)),
    "drain": Annotation("", "drain", _seconds(0.0, 30 * _DAY)),
    "health-check": Annotation("health", "kind", _parse_health_kind),
    "health-interval": Annotation("health", "interval", _seconds(0.01, _DAY)),
    "health-timeout": Annotation("health", "timeout", _seconds(0.01, _DAY)),
    "health-path": Annotation("health", "path", _parse_path),
    "health-port": Annotation("health", "port", _whole(1, 65535)),
    "health-rise": Annotation("health", "rise", _whole(1, 1000)),
    "health-fall": Annotation("health", "fall", _whole(1, 1000)),
}
#: the only annotation of an EndpointSlice, and what it may say
WEIGHT = "weight"
_parse_weight = _whole(0, MAX_WEIGHT)


def read_tuning(service: Service, default: Tuning) -> tuple[Tuning, list[Problem]]:
    """The tuning of ``service``; an unusable value is a warning, and the default is used."""
    if not service.tuning:
        return default, []
    tuning, complaints = _tune(service.tuning, default)
    return tuning, [Problem(f"Service {service.key}", each, warning=True) for each in complaints]


def read_weight(piece: EndpointSlice) -> tuple[int, list[Problem]]:
    """The weight of every endpoint of ``piece``; an unusable value is a warning, and 1 is used."""
    weight = 1
    complaints: list[str] = []
    for name, value in piece.tuning:
        if name != WEIGHT:
            complaints.append(f"{_place(name)} is not known on an EndpointSlice and has no effect; known is {WEIGHT}")
            continue
        try:
            weight = _parse_weight(value)
        except ValueError as error:
            complaints.append(f"{_place(name)}: {_quoted(value)} {error}; 1 is used")
    return weight, [Problem(f"EndpointSlice {piece.key}", each, warning=True) for each in complaints]


@lru_cache(maxsize=4096)  # thousands of Services with the same annotations share one policy
def _tune(pairs: tuple[tuple[str, str], ...], default: Tuning) -> tuple[Tuning, tuple[str, ...]]:
    """The tuning that annotations ask for, and what is wrong with them."""
    parts: dict[str, dict[str, object]] = {"": {}, "retry": {}, "health": {}}
    complaints: list[str] = []
    for name, value in pairs:
        known = SERVICE_ANNOTATIONS.get(name)
        if known is None:
            names = ", ".join(SERVICE_ANNOTATIONS)
            complaints.append(f"{_place(name)} is not known on a Service and has no effect; known are {names}")
            continue
        try:
            parts[known.part][known.field] = known.parse(value)
        except ValueError as error:
            holder = getattr(default, known.part) if known.part else default
            used = _shown(getattr(holder, known.field))
            complaints.append(f"{_place(name)}: {_quoted(value)} {error}; {used} is used")
    changed = parts.pop("")
    for part, fields in parts.items():
        if fields:
            changed[part] = msgspec.structs.replace(getattr(default, part), **fields)
    return msgspec.structs.replace(default, **changed), tuple(complaints)


def _place(name: str) -> str:
    return f"metadata.annotations[spliceway.io/{name}]"


def _quoted(value: str) -> str:
    """Annotations may hold 256 KiB; a sentence should not."""
    return repr(value) if len(value) <= 64 else f"{value[:64]!r}..."


def _shown(value: object) -> str:
    """A default as a user would write it."""
    if value is None:
        return "no value"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g} s" if isinstance(value, float) else str(value)
