"""Reads what embedding programs pass in, forgiving in form and strict in value. Pure.

Every function raises `SettingsError` with one sentence that names the argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from spliceway.errors import SettingsError
from spliceway.model import Address, Backend, Balance, HealthCheck, RetryPolicy

#: ``"10.0.0.1:80"``, ``("10.0.0.1", 80)``, ``("10.0.0.1", 80, 3)`` (with a weight), or a `Backend`
BackendLike = str | tuple[str, int] | tuple[str, int, int] | Backend
AddressLike = str | tuple[str, int] | Address

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def address_of(value: AddressLike, argument: str, *, lowest_port: int = 1) -> Address:
    """An address in canonical form; port 0 passes only with ``lowest_port`` 0."""
    try:
        if isinstance(value, str):
            address = Address.parse(value)
        else:
            host, port = value
            if not _is_number(port):
                raise ValueError(f"port {port!r} is not a number")
            address = Address.parse(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{argument}: {error}") from None
    if address.port < lowest_port:
        raise SettingsError(f"{argument}: {address} needs a port of 1 to 65535")
    return address


def backends_of(values: Iterable[BackendLike]) -> tuple[Backend, ...]:
    """Backends with their weights; each address may occur once."""
    backends: dict[Address, Backend] = {}
    for number, value in enumerate(values):
        argument = f"backends[{number}]"
        address = address_of(value if isinstance(value, str) else (value[0], value[1]), argument)
        weight = 1 if isinstance(value, str) or len(value) < 3 else value[2]
        if not _is_number(weight) or not 0 <= weight <= 65535:
            raise SettingsError(f"{argument}: weight {weight!r} is not a number of 0 to 65535")
        if address in backends:
            raise SettingsError(f"{argument}: {address} is listed twice")
        backends[address] = Backend(address.host, address.port, weight)
    return tuple(backends.values())


def balance_of(value: str) -> Balance:
    """A balance by its name."""
    try:
        return Balance(value)
    except ValueError:
        raise SettingsError(f"balance: {value!r} is not one of {', '.join(Balance)}") from None


def health_of(value: HealthCheck | Mapping[str, Any] | None) -> HealthCheck | None:
    """A health check, also as a mapping of its fields; None: the load balancer's own."""
    if value is None or isinstance(value, HealthCheck):
        return value
    return _convert(value, HealthCheck, "health")


def retry_of(value: RetryPolicy | Mapping[str, Any] | None) -> RetryPolicy:
    """A retry policy, also as a mapping of its fields; None: the default one. The engine knows the limits."""
    if value is None or isinstance(value, RetryPolicy):
        return value or RetryPolicy()
    return _convert(value, RetryPolicy, "retry")


def service_of(value: str) -> tuple[str, str, str | None]:
    """Namespace, Service name and port name of ``namespace/service[:port]``."""
    path, _, port = value.partition(":")
    namespace, slash, name = path.partition("/")
    if not (slash and namespace and name) or "/" in name:
        raise SettingsError(f"service: {value!r} is not NAMESPACE/SERVICE or NAMESPACE/SERVICE:PORTNAME")
    return namespace, name, port or None


def _is_number(value: object) -> bool:
    """Callers may ignore the types, and True is an int."""
    return isinstance(value, int) and not isinstance(value, bool)


def _convert(value: Mapping[str, Any], kind: type[_Struct], argument: str) -> _Struct:
    unknown = sorted(set(value) - set(kind.__struct_fields__))
    if unknown:
        raise SettingsError(f"{argument}: {unknown[0]!r} is not one of {', '.join(kind.__struct_fields__)}")
    try:
        return msgspec.convert(dict(value), kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{argument}: {error}") from None
