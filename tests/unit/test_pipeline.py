"""The stages together, over real sockets and a fake engine. On failure changes are lost, late or half done."""

from __future__ import annotations

import socket

import msgspec
import pytest
import trio

from spliceway.errors import EngineClosedError
from spliceway.events import EVENTS_PER_SUBSCRIBER
from spliceway.model import (
    Address,
    Backend,
    Delete,
    EndpointSlice,
    FrontendKey,
    HealthCheck,
    Kind,
    Problem,
    Problems,
    Protocol,
    Service,
    Synced,
)
from spliceway.plan.service import EmbeddedPool
from spliceway.settings import Listen, Settings
from support.objects import endpoints, key, service, upserts
from support.scripted import pipeline

Objects = list[Service | EndpointSlice]


def free_port() -> int:
    with socket.create_server(("127.64.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def vip() -> Address:
    return Address("127.64.0.1", free_port())


@pytest.fixture
def shop(vip: Address) -> Objects:
    return [service("shop", vip.host, ports={"": vip.port}), endpoints("shop.0", "10.0.0.1", "10.0.0.2")]


async def test_nothing_is_served_before_everything_is_known(shop: Objects, vip: Address) -> None:
    """U-30, N-07: a client that connects during start must not meet half a state."""
    async with pipeline() as running:
        await running.source.send(*upserts(shop))
        with trio.fail_after(10):
            await running.pipeline.wait_change()
        assert not running.pipeline.ready()
        assert running.fake.calls == []
        await running.source.send(Synced("script"))
        with trio.fail_after(10):
            await running.pipeline.wait_ready()
        assert running.pipeline.generation() == running.fake.generation == 1
        assert running.fake.addresses() == {vip: "default/shop"}


async def test_an_empty_cluster_is_a_complete_state() -> None:
    """Otherwise the agent on a new cluster would never become ready."""
    async with pipeline(objects=[]) as running:
        assert running.fake.generation == 1


async def test_a_change_touches_what_it_concerns(shop: Objects, vip: Address) -> None:
    async with pipeline(objects=[*shop, service("blog", "127.64.0.1", ports={"": free_port()})]) as running:
        before = len(running.fake.calls)
        await running.change(*upserts([endpoints("shop.0", "10.0.0.1")]))
        assert running.fake.calls[before:] == [("apply", ("default/shop",), (), 2)]
        assert running.fake.backends("default/shop") == [("10.0.0.1", 8080)]
        await running.change(*upserts([endpoints("shop.0")]))
        assert vip not in running.fake.addresses(), "no usable endpoint: refused at once"
        assert running.pipeline.frontends()[FrontendKey(vip, Protocol.TCP)].state == "rejecting"
        await running.change(Delete("api", Kind.SERVICE, key("shop")))
        assert FrontendKey(vip, Protocol.TCP) not in running.pipeline.frontends()
        assert "default/shop" not in running.fake.pools
        assert key("shop") not in running.pipeline.plans()


async def test_a_burst_becomes_few_generations(shop: Objects) -> None:
    """A rolling update of a big cluster must not queue up one engine call for each event."""
    async with pipeline(objects=shop) as running:
        first = running.pipeline.generation()
        for number in range(200):
            await running.source.send(*upserts([endpoints("shop.0", f"10.0.1.{number}")]))
        await running.until(lambda: running.fake.backends("default/shop") == [("10.0.1.199", 8080)])
        assert running.pipeline.generation() - first < 200


async def test_connect_failures_set_a_backend_aside_and_a_success_brings_it_back(shop: Objects) -> None:
    """The loop that closes between engine and plan: without it every flow tries the dead Pod again."""
    async with pipeline(objects=shop) as running:
        running.fake.emit("connect-failed", "default/shop", "10.0.0.1:8080", "connection refused", count=3)
        await running.until(lambda: running.fake.backends("default/shop") == [("10.0.0.2", 8080)])
        (verdict,) = running.pipeline.unhealthy()
        assert verdict.target == ("default/shop", Address("10.0.0.1", 8080))
        running.fake.emit("connect-recovered", "default/shop", "10.0.0.1:8080")
        running.fake.emit("connect-recovered", "default/shop", "10.0.0.1:8080")
        await running.until(lambda: len(running.fake.backends("default/shop")) == 2)


async def test_a_backend_that_left_unhealthy_comes_back_healthy(shop: Objects) -> None:
    """Another Pod may get the address; it must not inherit the grudge."""
    async with pipeline(objects=shop) as running:
        running.fake.emit("connect-failed", "default/shop", "10.0.0.1:8080", count=3)
        await running.until(lambda: running.fake.backends("default/shop") == [("10.0.0.2", 8080)])
        await running.change(*upserts([endpoints("shop.0", "10.0.0.2")]))
        await running.source.send(*upserts(shop))
        await running.until(lambda: len(running.fake.backends("default/shop")) == 2)
        assert running.pipeline.unhealthy() == ()


async def test_a_deleted_service_is_not_probed_any_more(shop: Objects) -> None:
    async with pipeline(objects=shop) as running:
        running.fake.emit("connect-failed", "default/shop", "10.0.0.1:8080", count=3)
        await running.until(running.pipeline.unhealthy)
        await running.change(Delete("api", Kind.SERVICE, key("shop")))
        assert running.pipeline.unhealthy() == ()


async def test_a_port_in_use_is_a_problem_until_it_is_free(shop: Objects, vip: Address) -> None:
    settings = Settings(rebind_interval=0.01)
    other = service("blog", "127.64.0.1", ports={"": free_port()})
    pods = endpoints("blog.0", "10.0.0.3")
    with socket.create_server(vip):
        async with pipeline(settings, [*shop, other, pods]) as running:
            assert running.pipeline.frontends()[FrontendKey(vip, Protocol.TCP)].state == "failed"
            (problem,) = running.pipeline.problems()
            assert problem.subject == f"Frontend {vip} (default/shop)"
            assert list(running.fake.addresses().values()) == ["default/blog"], "the other Service is served"
    async with pipeline(settings) as running:
        with socket.create_server(vip):
            await running.source.say(*shop)
            with trio.fail_after(10):
                await running.pipeline.wait_ready()
            assert running.fake.addresses() == {}
        await running.until(lambda: running.fake.addresses() == {vip: "default/shop"})
        assert running.pipeline.problems() == ()


async def test_problems_come_from_every_stage_and_go(shop: Objects, vip: Address) -> None:
    second = service("zzz", vip.host, ports={"": vip.port})
    async with pipeline(objects=[*shop, second]) as running:
        await running.source.send(Problems("a.yaml", (Problem("", "is not YAML", "a.yaml", 3),)))
        await running.until(lambda: len(running.pipeline.problems()) == 2)
        texts = [str(problem) for problem in running.pipeline.problems()]
        assert texts[0] == "a.yaml:3: is not YAML"
        assert "Service default/zzz: asks for" in texts[1]
        await running.change(Delete("api", Kind.SERVICE, key("shop")))
        await running.source.send(Problems("a.yaml", ()))
        await running.until(lambda: running.pipeline.problems() == ())


async def test_listens_serve_a_service_and_nothing_else(shop: Objects) -> None:
    listen = Listen(Address("0.0.0.0", free_port()), "default", "shop")
    async with pipeline(Settings(listens=(listen,))) as running:
        await running.source.say()
        with trio.fail_after(10):
            await running.pipeline.wait_ready()
        assert "Service default/shop does not exist" in running.pipeline.problems()[0].message
        await running.change(*upserts(shop))
        assert running.fake.addresses() == {listen.address: "default/shop"}
        client = Address("127.0.0.1", 5000)
        for address in (listen.address, Address("127.0.0.1", listen.address.port)):
            outcome = running.pipeline.explain(FrontendKey(address, Protocol.TCP), client)
            assert outcome is not None
            assert (outcome.pool, outcome.state, outcome.client_class) == ("default/shop", "serving", None)
            assert outcome.explanation is not None
        for elsewhere in (Address("127.0.0.1", 1), Address("192.0.2.7", listen.address.port)):
            assert running.pipeline.explain(FrontendKey(elsewhere, Protocol.TCP), client) is None


async def test_embedded_pools_do_not_wait_for_the_cluster(vip: Address) -> None:
    spec = EmbeddedPool("web", vip, (Backend("10.0.0.1", 80),))
    async with pipeline(gateway=True) as running:
        with trio.fail_after(10):
            await running.pipeline.embed("web", spec, HealthCheck(fall=1))
            assert running.fake.addresses() == {vip: "web"}
            running.fake.emit("connect-failed", "web", "10.0.0.1:80")
            await running.until(lambda: running.fake.backends("web") == [])
            await running.pipeline.embed("web", msgspec.structs.replace(spec, backends=()))
            assert running.fake.addresses() == {vip: "web"}, "the port stays open without backends"
            await running.pipeline.embed("web", None)
        assert (running.fake.addresses(), running.fake.pools) == ({}, {})
        assert not running.pipeline.ready()


async def test_a_slow_subscriber_loses_events_and_holds_nobody_up(shop: Objects) -> None:
    """A program that stops to read its events must neither stop health nor fill the memory."""
    async with pipeline(objects=shop) as running:
        slow, other = running.pipeline.subscribe("default/shop"), running.pipeline.subscribe("default/other")
        for _ in range(EVENTS_PER_SUBSCRIBER + 10):
            running.fake.emit("no-backend", "default/shop")
        running.fake.emit("connect-failed", "default/shop", "10.0.0.1:8080", count=3)
        await running.until(lambda: running.fake.backends("default/shop") == [("10.0.0.2", 8080)])
        assert running.pipeline.events_dropped() == 11
        assert slow.statistics().current_buffer_used == EVENTS_PER_SUBSCRIBER
        assert other.statistics().current_buffer_used == 0
        slow.close()
        running.fake.emit("no-backend", "default/shop")
        running.fake.emit("drained", "default/other")
        with trio.fail_after(5):
            assert (await other.receive()).kind == "drained"
        assert running.pipeline.events_dropped() == 11, "who closed its channel loses nothing"


async def test_drain_closes_every_frontend_and_opens_none(shop: Objects, vip: Address) -> None:
    async with pipeline(objects=shop) as running:
        with trio.fail_after(5):
            await running.pipeline.drain(60.0)
        assert running.pipeline.draining()
        assert running.fake.addresses() == {}
        await running.change(
            *upserts([service("new", vip.host, ports={"": free_port()}), endpoints("new.0", "10.0.0.1")])
        )
        assert running.fake.addresses() == {}


async def test_nobody_waits_for_a_pipeline_that_has_stopped(shop: Objects) -> None:
    async with pipeline(objects=shop) as running:
        events = running.pipeline.subscribe("")
    with trio.fail_after(5):
        for wait in (running.pipeline.wait_change, lambda: running.pipeline.wait_generation(1000)):
            with pytest.raises(EngineClosedError):
                await wait()
        with pytest.raises(EngineClosedError):
            await running.pipeline.embed("web", None)
        assert [event async for event in events] == []


async def test_one_change_among_ten_thousand_services_reaches_the_engine_in_milliseconds() -> None:
    """The first goal is 10 ms; the bound here is wide because other work may share the machine."""
    many: Objects = []
    for number in range(10_000):
        high, low = divmod(number, 250)
        many.append(service(f"s{number}", f"127.{100 + high}.{low}.1"))
        many.append(endpoints(f"s{number}.0", *(f"10.{high}.{low}.{each}" for each in range(10))))
    refusing = [endpoints(each.key.name) if number % 2 and number > 9 else each for number, each in enumerate(many)]
    async with pipeline(objects=refusing) as running:
        assert len(running.pipeline.plans()) == 10_000
        times = []
        for number in range(30):
            start = trio.current_time()
            await running.change(*upserts([endpoints("s3.0", f"10.200.0.{number}")]))
            times.append(trio.current_time() - start)
        assert sorted(times)[len(times) // 2] < 0.01
