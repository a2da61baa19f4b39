"""Types of command-line values, and options that several commands share."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from spliceway.durations import parse_seconds
from spliceway.model import Address, FrontendKey
from spliceway.settings import Listen

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # generic only in later versions of click
    _ParamType = click.ParamType

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: a DNS label, as Kubernetes asks for in names of namespaces, Services and ports
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")


class AddressParam(_ParamType):
    """``ADDR:PORT``; with ``off``, that word gives None."""

    def __init__(self, *, off: bool = False) -> None:
        self.name = "addr:port|off" if off else "addr:port"
        self._off = off

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Give an `Address`, or fail with one sentence."""
        if value is None or isinstance(value, Address):
            return value
        if self._off and value in ("off", ""):
            return OFF
        try:
            return Address.parse(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


class _Off:
    """Said ``off``, which is not the same as not having said anything."""

    def __str__(self) -> str:
        return "off"


OFF = _Off()


class ClientParam(_ParamType):
    """``IP`` or ``IP:PORT``."""

    name = "ip[:port]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Give an `Address`, with port 0 when none was said."""
        if isinstance(value, Address):
            return value
        for text in (value, f"{value}:0", f"[{value}]:0"):
            with suppress(ValueError):
                return Address.parse(text)
        return self.fail(f"{value!r} is not an IP address, with or without a port.", param, ctx)


class FrontendParam(_ParamType):
    """``ADDR:PORT``, with ``/udp`` for the UDP frontend there."""

    name = "addr:port[/udp]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Give a `FrontendKey`, or fail with one sentence."""
        if isinstance(value, FrontendKey):
            return value
        try:
            return FrontendKey.parse(value)
        except ValueError as error:
            return self.fail(f"{error}.", param, ctx)


class ListenParam(_ParamType):
    """``ADDR:PORT=NAMESPACE/SERVICE[:PORTNAME]``."""

    name = "addr:port=namespace/service[:portname]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Give a `Listen`, or fail with one sentence."""
        if isinstance(value, Listen):
            return value
        address, equals, service_port = value.partition("=")
        namespace, slash, rest = service_port.partition("/")
        service, colon, port_name = rest.partition(":")
        if not equals or not slash:
            self.fail(f"{value!r} is not ADDR:PORT=NAMESPACE/SERVICE[:PORTNAME].", param, ctx)
        try:
            parsed = Address.parse(address)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)
        if not parsed.port:
            self.fail(f"{value!r} asks for port 0; name a port.", param, ctx)
        if not _LABEL.fullmatch(namespace) or not _NAME.fullmatch(service):
            self.fail(f"{value!r}: {service_port!r} is not the name of a Service.", param, ctx)
        if colon and not _LABEL.fullmatch(port_name):
            self.fail(f"{value!r}: {port_name!r} is not the name of a port.", param, ctx)
        return Listen(parsed, namespace, service, port_name if colon else None)


class SecondsParam(_ParamType):
    """A time: seconds, or a number with ``ms``, ``s``, ``m`` or ``h``."""

    name = "seconds"

    def __init__(self, low: float = 0.0, high: float = math.inf) -> None:
        self._low = low
        self._high = high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Give seconds, or fail with one sentence."""
        if value is None or isinstance(value, float | int):
            return value
        try:
            seconds = parse_seconds(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)
        if not self._low <= seconds <= self._high:
            upper = f" and at most {self._high:g} s" if self._high < math.inf else ""
            self.fail(f"{value!r} is out of range: it must be at least {self._low:g} s{upper}.", param, ctx)
        return seconds


class ListParam(_ParamType):
    """Words with commas between them."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Give a tuple of words, or fail with one sentence."""
        if value is None or isinstance(value, tuple):
            return value
        words = tuple(word.strip() for word in value.split(","))
        if not all(words):
            self.fail(f"{value!r} has an empty entry.", param, ctx)
        return words


class FilePathParam(click.Path):
    """A path that exists."""

    def __init__(self) -> None:
        super().__init__(exists=True, path_type=Path)


def option(*names: str, **attributes: Any) -> Callable[[_Function], _Function]:
    """`click.option` that can also be set by ``SPLICEWAY_<NAME>`` and shows that and its default in the help text."""
    flag = names[0].split("/")[0].lstrip("-")
    attributes.setdefault("envvar", f"SPLICEWAY_{flag.replace('-', '_').upper()}")
    attributes.setdefault("show_envvar", True)
    attributes.setdefault("show_default", True)
    return click.option(*names, **attributes)


def default_state_socket() -> Path:
    """Where an agent of this user has its state socket unless told otherwise."""
    if os.geteuid() == 0:
        return Path("/run/spliceway/state.sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "spliceway" / "state.sock"
    return Path(tempfile.gettempdir()) / f"spliceway-{os.geteuid()}" / "state.sock"


state_socket_option = option(
    "--state-socket",
    type=click.Path(path_type=Path, dir_okay=False, readable=False),  # who may not read it learns so when asking
    default=default_state_socket,
    show_default="/run/spliceway/state.sock for root, else below $XDG_RUNTIME_DIR",
    help="Unix socket on which the agent answers `status` and `explain`.",
)
