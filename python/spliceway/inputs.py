"""Reads what embedding programs pass in, forgiving in form and strict in value. Pure.

Every function raises `SettingsError` with one sentence that names the argument. Callers may ignore the types, and what
passes here must not make the engine or the pipeline stumble, so types are checked as well.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard, TypeVar, cast

import msgspec

from spliceway.errors import SettingsError
from spliceway.model import Address, Backend, Balance, HealthCheck, Protocol, RetryPolicy

#: ``"10.0.0.1:80"``, ``("10.0.0.1", 80)``, ``("10.0.0.1", 80, 3)`` (with a weight), or a `Backend`
BackendLike = str | tuple[str, int] | tuple[str, int, int] | Backend
AddressLike = str | tuple[str, int] | Address

#: seconds, about 30 years: more would only overflow somewhere
LONGEST = 1e9
#: whole numbers of a policy; the engine and the health check know the narrower limits of each
LARGEST = 2**31 - 1

_BROADCAST = "255.255.255.255"

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def address_of(value: AddressLike, argument: str, *, lowest_port: int = 1) -> Address:
    """An address in canonical form; port 0 passes only with ``lowest_port`` 0."""
    try:
        address = Address.parse(_address_text(value))
    except ValueError as error:
        raise SettingsError(f"{argument}: {error}") from None
    if address.port < lowest_port:
        raise SettingsError(f"{argument}: {address} needs a port of 1 to 65535")
    return address


def backends_of(values: Iterable[BackendLike]) -> tuple[Backend, ...]:
    """Backends with their weights; each address can be dialled and may occur once."""
    if not _is(values, Iterable) or _is(values, str | bytes | Mapping):
        raise SettingsError(f"backends: {values!r} is not a list of backends")
    backends: dict[Address, Backend] = {}
    for number, value in enumerate(values):
        argument = f"backends[{number}]"
        backend = _backend(value, argument)
        if backend.address in backends:
            raise SettingsError(f"{argument}: {backend.address} is listed twice")
        backends[backend.address] = backend
    return tuple(backends.values())


def balance_of(value: str) -> Balance:
    """A balance by its name."""
    try:
        return Balance(value)
    except ValueError:
        raise SettingsError(f"balance: {value!r} is not one of {', '.join(Balance)}") from None


def protocol_of(value: str) -> Protocol:
    """``tcp`` or ``udp``."""
    found = {"tcp": Protocol.TCP, "udp": Protocol.UDP}.get(value)
    if found is None:
        raise SettingsError(f"protocol: {value!r} is neither tcp nor udp")
    return found


def health_of(value: HealthCheck | Mapping[str, Any] | None) -> HealthCheck | None:
    """A health check, also as a mapping of its fields; None: the load balancer's own. The monitor knows the limits."""
    return None if value is None else _convert(value, HealthCheck, "health")


def retry_of(value: RetryPolicy | Mapping[str, Any] | None) -> RetryPolicy:
    """A retry policy, also as a mapping of its fields; None: the default one. The engine knows the limits."""
    return RetryPolicy() if value is None else _convert(value, RetryPolicy, "retry")


def service_of(value: str) -> tuple[str, str, str | None]:
    """Namespace, Service name and port name of ``namespace/service[:port]``."""
    path, _, port = value.partition(":") if _is_text(value) else ("", "", "")
    namespace, slash, name = path.partition("/")
    if not (slash and namespace and name) or "/" in name:
        raise SettingsError(f"service: {value!r} is not NAMESPACE/SERVICE or NAMESPACE/SERVICE:PORTNAME")
    return namespace, name, port or None


def name_of(value: str | None) -> str | None:
    """A pool's name; None: it gets one."""
    if value is not None and not _is_text(value):
        raise SettingsError(f"name: {value!r} is not a text of printable characters")
    return value


def seconds_of(value: float, argument: str) -> float:
    """A time in seconds."""
    if not (_is_number(value) or _is(value, float)) or not 0 <= value <= LONGEST:
        raise SettingsError(f"{argument}: {value!r} is not a number of seconds from 0 to {LONGEST:.0f}")
    return float(value)


def count_of(value: int, argument: str) -> int:
    """How many of something."""
    if not _is_number(value) or not 0 <= value <= LARGEST:
        raise SettingsError(f"{argument}: {value!r} is not a whole number of 0 to {LARGEST}")
    return value


def _address_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, tuple | list) or len(pair := cast("tuple[object, ...]", tuple(value))) != 2:
        raise ValueError(f"{value!r} is not ADDRESS:PORT, nor an address and a port")
    host, port = pair
    if not isinstance(host, str):
        raise ValueError(f"address {host!r} is not a text")
    if not _is_number(port):
        raise ValueError(f"port {port!r} is not a number")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _backend(value: BackendLike, argument: str) -> Backend:
    where: Any = value
    weight: object = 1
    if _is(value, tuple | list) and len(value) > 2:
        where, weight = (value[0], value[1]), value[2]
    address = address_of(where, argument)
    if not _is_number(weight) or not 0 <= weight <= 65535:
        raise SettingsError(f"{argument}: weight {weight!r} is not a number of 0 to 65535")
    ip = ipaddress.ip_address(address.host)
    if ip.is_unspecified or ip.is_multicast or address.host == _BROADCAST:
        raise SettingsError(f"{argument}: {address} cannot be dialled; name the address of one host")
    return Backend(address.host, address.port, weight)


def _is(value: object, kind: Any) -> bool:
    """For values whose type the checkers believe."""
    return isinstance(value, kind)


def _is_number(value: object) -> TypeGuard[int]:
    """A whole number. True is an int as well."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    """Text that can be printed, so that it is one line in a log, and encoded: lone surrogates cannot be."""
    return isinstance(value, str) and value.isprintable()


def _convert(value: _Struct | Mapping[str, Any], kind: type[_Struct], argument: str) -> _Struct:
    """A ``kind`` whose fields have the types that it says, whole numbers within what the engine can take."""
    if not isinstance(value, kind | Mapping):
        raise SettingsError(f"{argument}: {value!r} is not a {kind.__name__} or a mapping of its fields")
    fields = dict(value) if isinstance(value, Mapping) else msgspec.structs.asdict(value)
    for field in fields:
        if field not in kind.__struct_fields__:
            raise SettingsError(f"{argument}: {field!r} is not one of {', '.join(kind.__struct_fields__)}")
    try:
        made = msgspec.convert(fields, kind)
    except (msgspec.ValidationError, OverflowError) as error:
        raise SettingsError(f"{argument}: {error}") from None
    for field, number in msgspec.structs.asdict(made).items():
        if _is_number(number) and not -LARGEST <= number <= LARGEST:
            raise SettingsError(f"{argument}: {field} is out of range")
    return made
