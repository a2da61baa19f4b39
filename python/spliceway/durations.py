"""Reads times as people write them, on the command line and in annotations. Pure."""

from __future__ import annotations

import re

_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|s|m|h)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float:
    """Seconds of ``2``, ``0.25``, ``250ms``, ``1m`` or ``2h``.

    Raises:
        ValueError: it is none of these; the text says so.
    """
    match = _SECONDS.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a time such as 2, 0.25, 250ms or 1m")
    return float(match[1]) * _UNITS[match[2] or "s"]
