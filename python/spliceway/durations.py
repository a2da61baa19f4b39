"""Reads times as people write them, on the command line and in annotations. Pure."""

from __future__ import annotations

import re

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_PART = re.compile(rf"({_NUMBER})(ms|s|m|h)")
_PLAIN = re.compile(_NUMBER)
_WHOLE = re.compile(rf"(?:{_NUMBER}(?:ms|s|m|h))+")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float:
    """Seconds of ``2``, ``0.25``, ``250ms``, ``1m``, or of several parts as kube-proxy's flags have them, ``24h0m0s``.

    Raises:
        ValueError: it is none of these; the text says so.
    """
    stripped = text.strip()
    if _PLAIN.fullmatch(stripped):
        return float(stripped)
    if not _WHOLE.fullmatch(stripped):
        raise ValueError(f"{text!r} is not a time such as 2, 0.25, 250ms, 1m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(stripped))
