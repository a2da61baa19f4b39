"""10,000 Services of 10 endpoints in the API server, and those that change while the bench looks."""

from __future__ import annotations

from typing import NamedTuple

import manifests
from manifests import Object
from nodecluster import BACKEND_PORT, NodeCluster

from support.nodes import each

SERVICE_PORT = 80
TEAMS = 50
#: requests to the API server under way at once
WRITERS = 8

#: the Service that changes, and the ports at which its two endpoints answer in turn
CHANGING = "changing"
CHANGING_VIP = "198.18.170.1"
CHANGING_PORT = 18080

_ENDPOINTS_NET = "198.19"
#: endpoints with addresses of their own (of 198.19.128.0/17); further ones have another port
_ADDRESSES = 32_000


class Size(NamedTuple):
    """How much is in the cluster."""

    services: int
    endpoints: int

    @property
    def ports(self) -> list[int]:
        """The ports that the backend has to listen on."""
        return [BACKEND_PORT + number for number in range(-(-self.services * self.endpoints // _ADDRESSES))]


def vip(number: int) -> str:
    """The ClusterIP of a Service of the many."""
    return f"198.18.{129 + number // 250}.{number % 250 + 1}"


def new_vip(number: int) -> str:
    """The ClusterIP of a Service that comes later."""
    return f"198.18.171.{number + 1}"


def fill(cluster: NodeCluster, size: Size) -> None:
    """Create the namespaces, and Services and slices without what changes later. Raises ApiError."""
    for number in range(TEAMS):
        cluster.api.create({"kind": "Namespace", "metadata": {"name": _team(number)}})

    def create(number: int) -> None:
        for body in _objects(number, size):
            cluster.api.create(body)

    each(range(size.services), create, at_once=WRITERS)


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


def changing_slice(cluster: NodeCluster, turn: int) -> tuple[Object, str]:
    """Its slice with one endpoint, another one each turn, and the name by which that one answers."""
    host = cluster.backends[turn % 2].partition(":")[0]
    body = manifests.for_api(manifests.endpoint_slice(CHANGING, [host], CHANGING_PORT))
    return body, f"{host}:{CHANGING_PORT}"


def changing_listens(cluster: NodeCluster) -> list[str]:
    """Where the backend answers for the changing Service."""
    return [changing_slice(cluster, turn)[1] for turn in range(2)]


def new_service(number: int) -> Object:
    """A Service that comes later."""
    return manifests.for_api(manifests.service(f"new-{number:03d}", new_vip(number), SERVICE_PORT))


def new_slice(cluster: NodeCluster, number: int) -> Object:
    """Its slice, which is there before."""
    hosts = [backend.partition(":")[0] for backend in cluster.backends]
    return manifests.for_api(manifests.endpoint_slice(f"new-{number:03d}", hosts, BACKEND_PORT))
