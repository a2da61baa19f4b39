"""Services and EndpointSlices of a test in the real API, and what an agent says about them."""

from __future__ import annotations

import itertools
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Self

from spliceway.cli.agent import fetch_explanation
from spliceway.errors import AgentUnreachableError
from spliceway.model import Address, FrontendKey, Protocol
from spliceway.observe.state import AgentState
from spliceway.observe.stats import ServicePortRow
from support.agentprocess import AgentProcess

from .api import Api, ApiError, Object

#: of the agents under test; the network namespace has nobody else on it
ADMIN = Address("127.0.0.2", 10256)
METRICS = Address("127.0.0.2", 10249)
#: the agent's flags for them
ADMIN_FLAGS = ("--healthz-bind-address", str(ADMIN), "--metrics-bind-address", str(METRICS))
#: the longest wait of an agent between two attempts to reach the API server is 30 s, and then it must list
RECONNECT_SECONDS = 45.0
PROXY_NAME = "service.kubernetes.io/service-proxy-name"


class Cluster:
    """Makes objects in the namespace `default`, and deletes what is left of them when the block ends."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._made: dict[tuple[str, str], None] = {}
        self._numbers = itertools.count(1)

    def service(
        self,
        name: str,
        ports: dict[str, int] | None = None,
        *,
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
        **spec: Any,
    ) -> str:
        """Create a Service and return its ClusterIP as the API server gave it ("None", "" for those without)."""
        named = [{"name": port, "port": number} for port, number in (ports or {"http": 80}).items()]
        metadata = {"name": name, "labels": labels or {}, "annotations": annotations or {}}
        created = self._create({"kind": "Service", "metadata": metadata, "spec": {"ports": named, **spec}})
        return str(created["spec"].get("clusterIP", ""))

    def slice(self, service: str, *endpoints: Object, ports: dict[str, int] | None = None) -> str:
        """Create an EndpointSlice of the Service and return its name."""
        name = f"{service}-{next(self._numbers)}"
        body = {
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"name": port, "port": number} for port, number in (ports or {"http": 8080}).items()],
            "endpoints": list(endpoints),
        }
        self._create(body)
        return name

    def set_endpoints(self, name: str, *endpoints: Object) -> None:
        """Replace the endpoints of a slice."""
        self.api.patch("EndpointSlice", name, {"endpoints": list(endpoints)})

    def delete(self, kind: str, name: str) -> None:
        self.api.delete(kind, name)
        self._made.pop((kind, name), None)

    def _create(self, body: Object) -> Object:
        created = self.api.create(body)
        self._made[body["kind"], body["metadata"]["name"]] = None
        return created

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for kind, name in self._made:
            with suppress(ApiError):
                self.api.delete(kind, name)


def endpoint(host: str, **conditions: bool) -> Object:
    """An endpoint of a slice; without conditions it is ready."""
    return {"addresses": [host], "conditions": conditions or {"ready": True}}


def row_of(state: AgentState, pool: str) -> ServicePortRow | None:
    """Return what the agent says about ``default/…``."""
    return next((row for row in state.services if row.pool == f"default/{pool}"), None)


def served_by(agent: AgentProcess, address: Address) -> list[str]:
    """Return the backends that the engine has for an address, in the order in which one certain client tries them."""
    try:
        found = fetch_explanation(agent.socket, FrontendKey(address, Protocol.TCP), Address("198.18.0.1", 40_000))
    except AgentUnreachableError:  # it says that nothing is served there
        return []
    return [candidate.address for candidate in found.candidates]


def wait_for(agent: AgentProcess, condition: Callable[[AgentState], bool]) -> AgentState:
    """Return the agent's state when it fulfils the condition.

    Unlike `AgentProcess.wait` this is patient enough for an agent that waits between attempts to reach the API server.
    """
    deadline = time.monotonic() + RECONNECT_SECONDS
    while True:
        try:
            return agent.wait(condition)
        except AssertionError:
            if agent.process.poll() is not None or time.monotonic() > deadline:
                raise


def wait_served(agent: AgentProcess, address: Address, *hosts: str, port: int = 8080) -> None:
    """Return when new connections to the address go to these endpoints and to no other."""
    wanted = sorted(f"{host}:{port}" for host in hosts)
    wait_for(agent, lambda _: sorted(served_by(agent, address)) == wanted)


def has_none(pool: str) -> Callable[[AgentState], bool]:
    """A condition: the agent opens no address for the service port."""

    def condition(state: AgentState) -> bool:
        row = row_of(state, pool)
        return row is None or not row.frontends

    return condition


def problems_of(state: AgentState, text: str) -> list[str]:
    """Return the present problems that hold the text."""
    return [str(problem) for problem in state.problems if text in str(problem)]


def http_status(path: str) -> int:
    """Return the status with which the agent's admin side answers."""
    try:
        with urllib.request.urlopen(f"http://{ADMIN}{path}", timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def metric(name: str, labels: Iterable[str] = ()) -> float:
    """Return the sum of all samples of a metric that have these labels, given as `service="shop"`."""
    with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    samples = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
    assert samples, f"there is no metric {name}"
    return sum(float(line.rpartition(" ")[2]) for line in samples if all(label in line for label in labels))
