"""The embedding API over the real engine. A failure breaks programs that load-balance with `pip install spliceway`."""

from __future__ import annotations

import gc
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import spliceway
from spliceway import LoadBalancer
from spliceway.errors import EngineClosedError, EngineError, FrontendError, SettingsError, SourceError
from spliceway.events import EventFan
from spliceway.model import Fact, FrontendKey, HealthCheck, Protocol, RetryPolicy, SourceStatistics


class Named:
    """A TCP backend that says its name and then echoes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = ""
        self.scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async def handle(stream: trio.SocketStream) -> None:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(self.name.encode())
                async for data in stream:
                    await stream.send_all(data)

        async with trio.open_nursery() as nursery:
            with self.scope:
                (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
                self.address = "{}:{}".format(*listener.socket.getsockname())
                task_status.started()
                await trio.serve_listeners(handle, [listener])
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def backends(*names: str) -> AsyncIterator[list[Named]]:
    made = [Named(name) for name in names]
    async with trio.open_nursery() as nursery:
        for each in made:
            await nursery.start(each.run)
        yield made
        nursery.cancel_scope.cancel()


async def ask(address: Any) -> str:
    """The name of the backend that answers, or what went wrong."""
    with trio.fail_after(10):
        try:
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                return (await stream.receive_some(100)).decode()
        except (OSError, trio.BrokenResourceError) as error:
            cause = error.__cause__ or error
            inner = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause
            return type(inner.__cause__ or inner).__name__


async def answers(address: Any, wanted: str) -> None:
    """Wait until ``wanted`` is what a new client gets."""
    with trio.fail_after(10):
        while (got := await ask(address)) != wanted:
            assert got
            await trio.lowlevel.checkpoint()


async def test_serves_updates_and_counts() -> None:
    async with backends("a", "b") as (a, b), LoadBalancer() as lb:
        service = await lb.serve("127.0.0.1:0", [a.address], balance="round-robin")
        assert service.address.port != 0
        assert {await ask(service.address) for _ in range(4)} == {"a"}
        await service.update([(b.address.split(":")[0], int(b.address.split(":")[1]), 3)])
        assert {await ask(service.address) for _ in range(4)} == {"b"}
        counted = service.statistics()
        assert (counted.name, counted.flows, counted.failed) == (service.pool, 8, 0)
        assert lb.problems() == ()


async def test_a_backend_that_dies_is_not_seen_by_clients_and_is_reported() -> None:
    """The promise of the whole project, in its smallest form."""
    async with backends("a", "b") as (a, b), LoadBalancer() as lb:
        service = await lb.serve("127.0.0.1:0", [a.address, b.address], balance="round-robin", health={"fall": 2})
        with service.events() as events:
            a.scope.cancel()
            assert {await ask(service.address) for _ in range(20)} == {"b"}
            with trio.fail_after(5):
                while not lb.pipeline.unhealthy():
                    await lb.pipeline.wait_change()
                seen = [await events.receive()]
        assert {(event.kind, event.pool, event.backend) for event in seen} == {
            ("connect-failed", service.pool, a.address)
        }
        assert service.statistics().saved > 0
        assert service.statistics().failed == 0


async def test_a_port_without_backends_stays_open_and_resets_clients() -> None:
    async with backends("a") as (a,), LoadBalancer() as lb:
        service = await lb.serve("127.0.0.1:0", [])
        assert await ask(service.address) in ("ConnectionResetError", "")
        await service.update([a.address])
        assert await ask(service.address) == "a"


async def test_drain_lets_a_flow_end_and_cuts_it_at_the_deadline() -> None:
    async with backends("a") as (a,), LoadBalancer() as lb:
        service = await lb.serve("127.0.0.1:0", [a.address])
        stream = await trio.open_tcp_stream(*service.address)
        assert await stream.receive_some(1) == b"a"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(service.drain, deadline=60.0))
            with trio.fail_after(10):
                await answers(service.address, "ConnectionRefusedError")
                await stream.send_all(b"x")
                assert await stream.receive_some(1) == b"x"
                await stream.aclose()
        with pytest.raises(EngineError, match="is not served"):
            service.statistics()
        second = await lb.serve("127.0.0.1:0", [a.address])
        stream = await trio.open_tcp_stream(*second.address)
        assert await stream.receive_some(1) == b"a"
        with trio.fail_after(10):
            await second.drain(deadline=0.0)
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some(1)
        await stream.aclose()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("127.0.0.1", ["127.0.0.1:1"]), "address: "),
        (("pod:80", ["127.0.0.1:1"]), "address: "),
        (("127.0.0.1:0", ["127.0.0.1:1", "pod:80"]), "backends[1]: "),
        (("127.0.0.1:0", ["127.0.0.1:0"]), "backends[0]: 127.0.0.1:0 needs a port"),
        (("127.0.0.1:0", [("127.0.0.1", 1, -1)]), "backends[0]: weight -1"),
        (("127.0.0.1:0", [("127.0.0.1", "1")]), "backends[0]: port '1'"),
        (("127.0.0.1:0", ["127.0.0.1:1", ("127.0.0.1", 1)]), "backends[1]: 127.0.0.1:1 is listed twice"),
    ],
)
async def test_bad_arguments_are_named(arguments: tuple[Any, Any], part: str) -> None:
    async with LoadBalancer() as lb:
        with pytest.raises(SettingsError) as caught:
            await lb.serve(*arguments)
        assert str(caught.value).startswith(part)
        assert lb.pipeline.plans() == {}


@pytest.mark.parametrize(
    ("option", "part"),
    [
        ({"balance": "best"}, "balance: 'best' is not one of maglev"),
        ({"retry": {"tries": 0}, "name": "web"}, "pool web is left as it was: tries must be"),
        ({"drain": -1.0}, "drain: -1.0 is not a number of seconds"),
        ({"drain": "x"}, "drain: 'x' is not"),
        ({"retry": {"tries": 2**70}}, "retry: tries is out of range"),
        ({"retry": RetryPolicy(budget_reserve=2**64)}, "retry: budget_reserve is out of range"),
        ({"retry": RetryPolicy(deadline="x")}, "retry: "),  # type: ignore[arg-type]
        ({"health": HealthCheck(interval="x")}, "health: "),  # type: ignore[arg-type]
        ({"health": 5}, "health: 5 is not"),
        ({"name": 5}, "name: 5 is not"),
        ({"name": "\udc80"}, "name: "),
        ({"retry": {"trys": 1}}, "retry: 'trys' is not one of tries"),
        ({"retry": {"deadline": "1"}}, "retry: "),
        ({"health": {"kind": "ping"}}, "health check: kind 'ping'"),
        ({"name": "a/b"}, "name: 'a/b'"),
    ],
)
async def test_bad_options_are_named(option: dict[str, Any], part: str) -> None:
    async with LoadBalancer() as lb:
        with pytest.raises(SettingsError) as caught:
            await lb.serve("127.0.0.1:0", ["127.0.0.1:1"], **option)
        assert str(caught.value).startswith(part)
        assert (lb.pipeline.frontends(), lb.problems()) == ({}, ())


async def test_an_address_that_cannot_be_opened_is_an_error_and_leaves_nothing() -> None:
    async with LoadBalancer() as lb:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = "{}:{}".format(*taken.getsockname())
            with pytest.raises(FrontendError, match=f"{address}: cannot listen: address already in use"):
                await lb.serve(address, ["127.0.0.1:1"])
        first = await lb.serve(address, ["127.0.0.1:1"], name="web")
        with pytest.raises(FrontendError):
            await lb.serve(address, ["127.0.0.1:1"], name="other")
        with pytest.raises(SettingsError, match="name: 'web' is taken"):
            await lb.serve("127.0.0.1:0", ["127.0.0.1:1"], name="web")
        assert list(lb.pipeline.frontends()) == [FrontendKey(first.address, Protocol.TCP)]
        await first.close()
        await first.close()
        await first.drain()
        assert lb.pipeline.frontends() == {}
        with pytest.raises(EngineError, match="pool web is closed"):
            await first.update(["127.0.0.1:1"])
        await lb.serve(first.address, ["127.0.0.1:1"], name="web")


async def test_backends_that_the_engine_refuses_change_nothing() -> None:
    """`update` that returns means that new flows use the new backends."""
    async with backends("a") as (a,), LoadBalancer() as lb:
        service = await lb.serve("127.0.0.1:0", [a.address])
        for wrong in (["0.0.0.0:80"], ["224.0.0.1:80"], ["255.255.255.255:80"], ["[fe80::1%lo]:80"], None, [5], [()]):
            with pytest.raises(SettingsError, match=r"^backends"):
                await service.update(wrong)  # type: ignore[arg-type]
        many = [(f"10.{number >> 8}.{number & 255}.1", 80) for number in range(65_536)]
        with pytest.raises(SettingsError, match="65536 backends are more than"):
            await service.update(many)
        assert lb.problems() == ()
        assert [f"{each.host}:{each.port}" for each in service.statistics().backends] == [a.address]
        with pytest.raises(SettingsError, match=r"^deadline: "):
            await service.drain(float("nan"))
        assert await ask(service.address) == "a"


def manifest(pods: list[str]) -> str:
    """Service default/shop with its Pods, as kubectl prints it."""
    items = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "shop", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]},
        },
        *(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": f"shop-{number}", "labels": {"kubernetes.io/service-name": "shop"}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": int(pod.split(":")[1])}],
                "endpoints": [{"addresses": [pod.split(":")[0]]}],
            }
            for number, pod in enumerate(pods)
        ),
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


async def test_a_clusters_service_is_served_and_followed(tmp_path: Path) -> None:
    path = tmp_path / "shop.json"
    async with backends("a", "b") as (a, b):
        path.write_text(manifest([a.address]))
        async with LoadBalancer(manifests=[tmp_path]) as lb:
            with trio.fail_after(10):
                service = await lb.serve_service("127.0.0.1:0", "default/shop:http")
                assert (service.pool, lb.problems()) == ("default/shop:http", ())
                assert await ask(service.address) == "a"
                assert list(lb.pipeline.frontends()) == [FrontendKey(service.address, Protocol.TCP)], (
                    "the ClusterIP is not bound"
                )
                replacement = tmp_path / ".shop.json.new"
                replacement.write_text(manifest([b.address]))
                replacement.rename(path)
                await answers(service.address, "b")
                missing = await lb.serve_service("127.0.0.1:0", "default/nothing")
                assert await ask(missing.address) == "ConnectionRefusedError"
                assert "Service default/nothing does not exist" in lb.problems()[0].message
                with pytest.raises(EngineError, match="is not served"):
                    missing.statistics()
                await missing.close()
                with socket.socket() as other:
                    other.bind(missing.address)
                await service.close()
                assert (lb.problems(), lb.pipeline.frontends()) == ((), {})
                assert await ask(service.address) == "ConnectionRefusedError"


async def test_an_address_belongs_to_one_handle(tmp_path: Path) -> None:
    """Clean-up code closes twice, and a Service without Pods keeps its address although nobody listens there."""
    async with backends("a") as (a,):
        (tmp_path / "shop.json").write_text(manifest([a.address]))
        async with LoadBalancer(manifests=tmp_path) as lb:
            with trio.fail_after(10):
                idle = await lb.serve_service("127.0.0.1:0", "default/nothing")
                for again in (lb.serve(idle.address, [a.address]), lb.serve_service(idle.address, "default/shop")):
                    with pytest.raises(FrontendError, match="this LoadBalancer serves it already"):
                        await again
                assert await ask(idle.address) == "ConnectionRefusedError"
                await idle.close()
                old = await lb.serve_service(idle.address, "default/shop")
                await old.close()
                new = await lb.serve_service(idle.address, "default/shop")
                await old.close()
                await idle.close()
                assert await ask(new.address) == "a"
                for call in (old.statistics, lambda: old.pool):
                    with pytest.raises(EngineError, match="is not served"):
                        call()
                await new.close()
                pool = await lb.serve(idle.address, [a.address])
                await pool.drain()
                await lb.serve(idle.address, [a.address])
                await pool.close()
                assert await ask(idle.address) == "a"


async def test_services_need_a_source_that_can_be_opened(tmp_path: Path) -> None:
    async with LoadBalancer() as lb:
        with pytest.raises(SettingsError, match="needs a LoadBalancer with manifests"):
            await lb.serve_service("127.0.0.1:0", "default/shop")
    with pytest.raises(SourceError, match="does not exist"):
        async with LoadBalancer(manifests=[tmp_path / "none.yaml"]):
            pytest.fail("it must not start")
    (tmp_path / "empty.yaml").write_text("")
    async with LoadBalancer(manifests=tmp_path / "empty.yaml") as lb:
        with pytest.raises(SettingsError, match="is not NAMESPACE/SERVICE"):
            await lb.serve_service("127.0.0.1:0", "shop")


async def test_the_programs_own_exception_comes_out_as_it_is() -> None:
    async def fail() -> None:
        async with LoadBalancer() as lb:
            await lb.serve("127.0.0.1:0", ["127.0.0.1:1"])
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        await fail()


async def test_a_cancel_ends_it_promptly_and_it_is_over_afterwards() -> None:
    before = threads()
    with trio.fail_after(10):
        with trio.move_on_after(0.05) as scope:
            async with LoadBalancer() as lb:
                service = await lb.serve("127.0.0.1:0", ["127.0.0.1:1"])
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert await ask(service.address) == "ConnectionRefusedError"
        with pytest.raises(EngineClosedError):
            await service.update(["127.0.0.1:1"])
        with pytest.raises(EngineError):
            async with lb:
                pytest.fail("it must not start again")
    assert threads() <= before
    with pytest.raises(EngineClosedError):
        LoadBalancer().problems()


class Failing:
    """A source that gives up."""

    name = "failing"
    synced_names: tuple[str, ...] = ("failing",)

    async def run(self, facts: trio.MemorySendChannel[tuple[Fact, ...]]) -> None:
        await trio.lowlevel.checkpoint()
        raise SourceError("the cluster is gone for good")

    def statistics(self) -> tuple[SourceStatistics, ...]:
        return ()


async def test_a_source_that_gives_up_ends_the_block_with_one_clear_error() -> None:
    with trio.fail_after(10), pytest.raises(SourceError, match="gone for good"):
        async with LoadBalancer(source=Failing()):
            await trio.sleep_forever()


def threads() -> set[str]:
    """Names of the engine's threads in this process."""
    tasks = Path("/proc/self/task")
    gc.collect()
    return {name for task in tasks.iterdir() if "splice" in (name := (task / "comm").read_text())}


async def test_flows_may_end_when_the_block_ends() -> None:
    async with backends("a") as (a,):
        stream: trio.SocketStream
        async with trio.open_nursery() as nursery, LoadBalancer(shutdown=30.0) as lb:
            service = await lb.serve("127.0.0.1:0", [a.address])
            stream = await trio.open_tcp_stream(*service.address)
            assert await stream.receive_some(1) == b"a"

            async def finish() -> None:
                await answers(service.address, "ConnectionRefusedError")
                await stream.send_all(b"late")
                assert await stream.receive_some(10) == b"late"
                await stream.aclose()

            nursery.start_soon(finish)
        assert os.fstat(0), "the program goes on"


def test_names_of_the_package() -> None:
    """Whoever reads the README must find the names it uses."""
    for name in spliceway.__all__:
        assert getattr(spliceway, name).__name__ == name
    assert spliceway.__version__
    assert set(spliceway.__all__) <= set(dir(spliceway))
    with pytest.raises(AttributeError):
        _ = spliceway.nothing


async def test_a_close_that_was_cancelled_can_be_made_good() -> None:
    """A program that was interrupted while it closed an address must be able to close it after all."""
    async with LoadBalancer() as balancer:
        served = await balancer.serve("127.0.0.1:0", [])
        with trio.CancelScope() as scope:
            scope.cancel()
            await served.close()
        await served.close()
        again = await balancer.serve(str(served.address), [], name="again")
        await again.close()


async def test_subscribers_that_went_are_forgotten() -> None:
    """A program that looks at events now and then must not grow."""
    fan = EventFan()
    for _ in range(100):
        fan.subscribe("quiet").close()
    assert fan.subscribers <= 1


async def test_a_udp_pool_is_served_beside_a_tcp_pool_on_the_same_port() -> None:
    """A gateway for DNS needs both; without it a Python program would have to relay datagrams itself."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as backend,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        backend.bind(("127.0.0.1", 0))
        backend.settimeout(10)
        client.settimeout(10)
        async with LoadBalancer() as lb:
            udp = await lb.serve("127.9.8.7:0", [backend.getsockname()], protocol="udp")
            tcp = await lb.serve(udp.address, ["127.0.0.1:1"])
            assert (udp.address, udp.pool != tcp.pool) == (tcp.address, True)
            client.sendto(b"ping", udp.address)
            question, peer = await trio.to_thread.run_sync(backend.recvfrom, 100)
            backend.sendto(question.upper(), peer)
            assert await trio.to_thread.run_sync(client.recv, 100) == b"PING"
            assert (udp.statistics().flows, tcp.statistics().flows) == (1, 0)
            await udp.close()
            with pytest.raises(SettingsError, match="protocol: 'icmp' is neither tcp nor udp"):
                await lb.serve("127.0.0.1:0", [], protocol="icmp")
