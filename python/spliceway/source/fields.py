"""Checks of single fields that objects of several kinds have. Pure."""

from __future__ import annotations

import re

from spliceway.model import Protocol
from spliceway.source.salvage import Fault
from spliceway.source.salvage import Path as FieldPath

_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_PROTOCOLS = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}
_LAST_PORT = 65535
_LEFT_OUT = "; this port is left out"


def is_name(text: str) -> bool:
    """Say whether this can be the name of an object: lower-case letters, digits, '-' and '.'."""
    return _NAME.fullmatch(text) is not None


def name_fault(path: FieldPath, text: str | None) -> Fault | None:
    """Return what is wrong with the name of an object, None when it is sound."""
    if text is None or text == "":
        return Fault(path, "is missing")
    if is_name(text):
        return None
    return Fault(path, f"{text[:64]!r} is not a name: write lower-case letters, digits, '-' and '.'")


def protocol_of(text: str | None, path: FieldPath, faults: list[Fault]) -> Protocol | None:
    """Return the protocol of a port, TCP by default; None and a fault when it is unknown."""
    protocol = _PROTOCOLS.get(text or "TCP")
    if protocol is None:
        faults.append(Fault((*path, "protocol"), f"{str(text)[:64]!r} is none of TCP, UDP, SCTP" + _LEFT_OUT))
    return protocol


def port_is_sound(port: int, name: str, path: FieldPath, faults: list[Fault]) -> bool:
    """Check number and name of a port; add a fault for the first that is bad."""
    if not 1 <= port <= _LAST_PORT:
        faults.append(Fault((*path, "port"), f"{shown(port)} is not a port number (1 to 65535)" + _LEFT_OUT))
        return False
    if name and not (len(name) <= 63 and "." not in name and is_name(name)):
        message = f"{name[:64]!r} is not a port name: write lower-case letters, digits and '-'" + _LEFT_OUT
        faults.append(Fault((*path, "name"), message))
        return False
    return True


def optional_port(port: int | None, path: FieldPath, faults: list[Fault]) -> int:
    """Return a port number that need not be given, 0 for none; add a fault when it is bad."""
    if not port:
        return 0
    if 1 <= port <= _LAST_PORT:
        return port
    faults.append(Fault(path, f"{shown(port)} is not a port number (1 to 65535); it is left out"))
    return 0


def shown(number: int) -> str:
    """A number for a message."""
    return str(number) if abs(number) < 10**12 else "a huge number"
