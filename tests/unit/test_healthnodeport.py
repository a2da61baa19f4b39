"""healthCheckNodePort over real sockets (H-01 to H-06): cloud load balancers find a Service's nodes by it."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from spliceway.model import Address, HealthNodePort, ObjectKey, ServicePlan
from spliceway.observe import healthnodeport
from spliceway.observe.healthnodeport import HealthNodePorts
from support.fakeobserved import SHOP, FakeObserved


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healthnodeport, "INTERVAL", 0.001)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def plan(port: int, ipv4: int | None = None, ipv6: int | None = None, key: ObjectKey = SHOP) -> ServicePlan:
    return ServicePlan(key, health_node_port=HealthNodePort(port, ipv4, ipv6))


def loopback(family: int) -> tuple[str, ...]:
    return ("::1",) if family == 6 else ("127.0.0.1",)


@asynccontextmanager
async def running(ports: HealthNodePorts) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ports.run)
        with trio.fail_after(10):
            yield
        nursery.cancel_scope.cancel()


async def until_open(ports: HealthNodePorts, *addresses: Address) -> None:
    while set(ports.listeners) != set(addresses):
        await trio.lowlevel.checkpoint()


async def ask(address: Address, request: str = "GET /healthz") -> tuple[int, dict[str, str], bytes]:
    async with await trio.open_tcp_stream(address.host, address.port) as stream:
        await stream.send_all(f"{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = b""
        async for data in stream:
            received += data
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, value in headers.items()}, body


async def test_the_answer_is_kube_proxys() -> None:
    """A load balancer's check, written for kube-proxy, would fail (H-02, H-04, H-05)."""
    observed = FakeObserved()
    port = free_port()
    observed.plan_map = {SHOP: plan(port, ipv4=2)}
    ports = HealthNodePorts(observed, lambda: True, loopback)
    where = Address("127.0.0.1", port)
    async with running(ports):
        await until_open(ports, where)
        status, headers, body = await ask(where)
        assert status == 200
        assert headers["content-type"] == "application/json"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-load-balancing-endpoint-weight"] == "2"
        assert body == (
            b'{\n\t"service": {\n\t\t"namespace": "default",\n\t\t"name": "shop"\n\t},\n'
            b'\t"localEndpoints": 2,\n\t"serviceProxyHealthy": true\n}'
        )
        for request in ("POST /", "PUT /any/path?x=1", "OPTIONS /"):  # any path and method (H-01)
            assert (await ask(where, request))[0] == 200


async def test_counts_are_those_of_the_moment_and_of_the_family() -> None:
    """A load balancer would send clients to a node that has no endpoint any more (H-03)."""
    observed = FakeObserved()
    port = free_port()
    observed.plan_map = {SHOP: plan(port, ipv4=1, ipv6=0)}
    healthy = [True]
    ports = HealthNodePorts(observed, lambda: healthy[0], loopback)
    ipv4, ipv6 = Address("127.0.0.1", port), Address("::1", port)
    async with running(ports):
        await until_open(ports, ipv4, ipv6)
        assert ((await ask(ipv4))[0], (await ask(ipv6))[0]) == (200, 503)
        observed.plan_map[SHOP] = plan(port, ipv4=0, ipv6=3)  # nobody was told of a change yet
        assert ((await ask(ipv4))[0], (await ask(ipv6))[0]) == (503, 200)
        healthy[0] = False
        status, _, body = await ask(ipv6)
        assert (status, json.loads(body)["serviceProxyHealthy"], json.loads(body)["localEndpoints"]) == (503, False, 3)


async def test_wildcards_serve_only_their_family() -> None:
    """A Service of one family would answer for the other one (H-01)."""
    observed = FakeObserved()
    port = free_port()
    observed.plan_map = {SHOP: plan(port, ipv6=1)}
    ports = HealthNodePorts(observed, lambda: True)
    async with running(ports):
        await until_open(ports, Address("::", port))
        assert (await ask(Address("::1", port)))[0] == 200
        with pytest.raises(OSError, match="all attempts to connect"):
            await ask(Address("127.0.0.1", port))
        observed.plan_map[SHOP] = plan(port, ipv4=1, ipv6=1)
        observed.change()
        await until_open(ports, Address("::", port), Address("0.0.0.0", port))
        assert (await ask(Address("127.0.0.1", port)))[0] == 200


async def test_ports_follow_the_plans() -> None:
    """The port of a deleted Service would stay open, and be missing for the next one (H-06)."""
    observed = FakeObserved()
    first, second = free_port(), free_port()
    observed.plan_map = {SHOP: plan(first, ipv4=1)}
    ports = HealthNodePorts(observed, lambda: True, loopback)
    async with running(ports):
        await until_open(ports, Address("127.0.0.1", first))
        observed.plan_map[SHOP] = plan(second, ipv4=1)
        observed.change()
        await until_open(ports, Address("127.0.0.1", second))
        with pytest.raises(OSError, match="all attempts to connect"):
            await ask(Address("127.0.0.1", first))
        other = ObjectKey("default", "other")  # takes the port over in one change
        observed.plan_map = {SHOP: plan(first, ipv4=1), other: plan(second, ipv4=1, key=other)}
        observed.change()
        await until_open(ports, Address("127.0.0.1", first), Address("127.0.0.1", second))
        _, _, body = await ask(Address("127.0.0.1", second))
        assert json.loads(body)["service"]["name"] == "other"
        observed.plan_map = {other: msgspec.structs.replace(observed.plan_map[other], health_node_port=None)}
        observed.change()
        await until_open(ports)
        assert ports.problems() == ()


async def test_a_taken_port_is_told_once_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would learn why a load balancer sees no node, or the Service would need a change to heal (H-06)."""
    monkeypatch.setattr(healthnodeport, "RETRY_INTERVAL", 0.001)
    observed = FakeObserved()
    told: list[tuple[ObjectKey, str]] = []
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        observed.plan_map = {SHOP: plan(port, ipv4=1)}
        ports = HealthNodePorts(observed, lambda: True, loopback, lambda key, message: told.append((key, message)))
        async with running(ports):
            while not ports.problems():
                await trio.lowlevel.checkpoint()
            message = f"healthCheckNodePort {port} cannot be opened at 127.0.0.1: address already in use"
            assert told == [(SHOP, message)]
            assert [str(problem) for problem in ports.problems()] == [f"Service default/shop: {message}"]
            holder.close()
            await until_open(ports, Address("127.0.0.1", port))
            assert (await ask(Address("127.0.0.1", port)))[0] == 200
            assert ports.problems() == ()
            assert len(told) == 1


async def test_a_thousand_ports_are_not_a_thousand_lines(caplog: pytest.LogCaptureFixture) -> None:
    """At the start of an agent the log would be full of ports, and what matters would be out of sight."""
    planned = FakeObserved()
    keys = [ObjectKey("default", f"shop-{number}") for number in range(14)]
    planned.plan_map = {key: plan(free_port(), 1, key=key) for key in keys}
    ports = HealthNodePorts(planned, lambda: True, loopback)
    with caplog.at_level("INFO", logger="spliceway.observe.healthnodeport"):
        async with running(ports):
            while len(ports.listeners) < len(keys) or not caplog.messages:
                await trio.lowlevel.checkpoint()
    assert len(caplog.messages) == 11
    assert caplog.messages[-1] == "and 4 more health check ports changed"
