"""Thousands of Services of many endpoints in the API server, and those that change while the bench looks.

All endpoints are addresses of the range that the first Pod of each stand takes as its own.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import manifests
from manifests import Object

SERVICE_PORT = 80
BACKEND_PORT = 8080
TEAMS = 50
#: requests to the API server under way at once
WRITERS = 8

#: the Service that changes, and the ports at which its two endpoints answer in turn
CHANGING = "changing"
CHANGING_VIP = "198.18.170.1"
CHANGING_PORT = 18080
_CHANGING_HOSTS = ("198.19.255.251", "198.19.255.252")

_ENDPOINTS_NET = "198.19"
#: endpoints with addresses of their own (of 198.19.128.0/17); further ones have another port
_ADDRESSES = 32_000


class Writer(Protocol):
    """A client of the API server."""

    def create(self, body: Object) -> Object:
        """Create an object and return it as stored."""


class Size(NamedTuple):
    """How much is in the cluster."""

    services: int
    endpoints: int

    @property
    def ports(self) -> list[int]:
        """The ports that the backend has to listen on."""
        return [BACKEND_PORT + number for number in range(-(-self.services * self.endpoints // _ADDRESSES))]

    @property
    def listens(self) -> list[str]:
        """Where the backend has to answer, ADDR:PORT, for the changing Service too."""
        return [*(f"0.0.0.0:{port}" for port in self.ports), *(f"{host}:{CHANGING_PORT}" for host in _CHANGING_HOSTS)]


def vip(number: int) -> str:
    """The ClusterIP of a Service of the many."""
    return f"198.18.{129 + number // 250}.{number % 250 + 1}"


def new_vip(number: int) -> str:
    """The ClusterIP of a Service that comes later."""
    return f"198.18.171.{number + 1}"


def fill(api: Writer, size: Size) -> None:
    """Create the namespaces, and Services and slices without what changes later. Raises ApiError."""

    def create(number: int) -> None:
        for body in _objects(number, size):
            api.create(body)

    for number in range(TEAMS):
        api.create({"kind": "Namespace", "metadata": {"name": _team(number)}})
    with ThreadPoolExecutor(WRITERS) as writers:
        for _ in writers.map(create, range(size.services)):
            pass  # the first error is raised here


def _objects(number: int, size: Size) -> list[Object]:
    name = f"svc-{number:05d}"
    first = number * size.endpoints
    places = [(first + offset) % _ADDRESSES for offset in range(size.endpoints)]
    hosts = [f"{_ENDPOINTS_NET}.{128 + place // 250}.{place % 250 + 1}" for place in places]
    port = BACKEND_PORT + first // _ADDRESSES
    return [
        manifests.for_api(manifests.service(name, vip(number), SERVICE_PORT, namespace=_team(number))),
        manifests.for_api(manifests.endpoint_slice(name, hosts, port, namespace=_team(number))),
    ]


def _team(number: int) -> str:
    return f"team-{number % TEAMS:02d}"


def changing_service() -> Object:
    """The Service whose endpoint changes."""
    return manifests.for_api(manifests.service(CHANGING, CHANGING_VIP, SERVICE_PORT))


def changing_slice(turn: int) -> tuple[Object, str]:
    """Its slice with one endpoint, another one each turn, and the name by which that one answers."""
    host = _CHANGING_HOSTS[turn % 2]
    body = manifests.for_api(manifests.endpoint_slice(CHANGING, [host], CHANGING_PORT))
    return body, f"{host}:{CHANGING_PORT}"


def new_service(number: int) -> Object:
    """A Service that comes later."""
    return manifests.for_api(manifests.service(f"new-{number:03d}", new_vip(number), SERVICE_PORT))


def new_slice(number: int) -> Object:
    """Its slice, which is there before."""
    hosts = [f"{_ENDPOINTS_NET}.128.{offset + 1}" for offset in range(3)]
    return manifests.for_api(manifests.endpoint_slice(f"new-{number:03d}", hosts, BACKEND_PORT))
