"""The monitor: real probes of real sockets, on Trio's own clock or a virtual one."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing

from spliceway.errors import SettingsError
from spliceway.health import monitor as monitor_module
from spliceway.health.monitor import HealthMonitor
from spliceway.model import Address, Evidence, HealthCheck, Target, Verdict

POOL = "default/shop:http"
FAST = HealthCheck(interval=0.02, timeout=1.0, rise=2, fall=2)


class Verdicts:
    """Folds the verdicts that a monitor sends, and lets a test wait for a state."""

    def __init__(self, channel: trio.MemoryReceiveChannel[tuple[Verdict, ...]]) -> None:
        self.channel = channel
        self.unhealthy: dict[Target, str] = {}

    async def wait(self, condition: Callable[[dict[Target, str]], bool]) -> None:
        with trio.fail_after(10):
            while not condition(self.unhealthy):
                for verdict in await self.channel.receive():
                    if verdict.healthy:
                        self.unhealthy.pop(verdict.target, None)
                    else:
                        self.unhealthy[verdict.target] = verdict.reason


@asynccontextmanager
async def running(monitor: HealthMonitor) -> AsyncIterator[Verdicts]:
    send, receive = trio.open_memory_channel[tuple[Verdict, ...]](100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run, send)
        yield Verdicts(receive)
        nursery.cancel_scope.cancel()


def listen(port: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen()
    return sock


def address_of(sock: socket.socket) -> Address:
    return Address(*sock.getsockname())


def failures(backend: Address, count: int) -> Evidence:
    return Evidence(Target(POOL, backend), False, "traffic", "connection refused", count)


async def test_traffic_evidence_gives_a_verdict_at_once() -> None:
    """Every new client would try the dead backend first until a probe noticed."""
    dead, alive = Address("127.0.0.1", 1), Address("127.0.0.1", 2)
    monitor = HealthMonitor(HealthCheck(), 4, seed=1)
    monitor.update_pool(POOL, (dead, alive))
    async with running(monitor) as verdicts:
        started = trio.current_time()
        monitor.observe(failures(dead, 3))
        await verdicts.wait(lambda unhealthy: list(unhealthy) == [Target(POOL, dead)])
        assert trio.current_time() - started < 0.5  # nothing is polled on the way; the bound is for a busy machine
        assert monitor.unhealthy() == (Verdict(Target(POOL, dead), False, "connection refused"),)


async def test_suspect_comes_back_when_it_answers_again() -> None:
    """A restarted Pod would stay set aside for ever."""
    with listen() as sock:
        backend = address_of(sock)
        monitor = HealthMonitor(FAST, 4, seed=1)
        monitor.update_pool(POOL, (backend,))
        async with running(monitor) as verdicts:
            monitor.observe(failures(backend, 3))
            await verdicts.wait(lambda unhealthy: len(unhealthy) == 1)
            await verdicts.wait(lambda unhealthy: not unhealthy)
            assert monitor.statistics().scheduled == 0
            assert monitor.statistics().suspects == 0


async def test_passive_probes_nobody_who_works(autojump_clock: trio.testing.MockClock) -> None:
    """10,000 Services would be probed day and night although traffic tells enough."""
    monitor = HealthMonitor(HealthCheck(), 4)
    for number in range(1000):
        monitor.update_pool(f"default/s{number}", tuple(Address("192.0.2.1", 1 + port) for port in range(10)))
    async with running(monitor):
        await trio.sleep(3600)
        statistics = monitor.statistics()
    assert (statistics.pools, statistics.scheduled, statistics.suspects, statistics.probes) == (1000, 0, 0, 0)


async def test_tcp_probes_find_a_dead_backend_without_traffic() -> None:
    """The first client after a quiet night would pay for the dead Pod."""
    with listen() as sock, listen() as other:
        dead = address_of(sock)
        monitor = HealthMonitor(msgspec.structs.replace(FAST, kind="tcp"), 4, seed=1)
        monitor.update_pool(POOL, (dead, address_of(other)))
        async with running(monitor) as verdicts:
            sock.close()
            await verdicts.wait(lambda unhealthy: unhealthy == {Target(POOL, dead): "connection refused"})
            with listen(dead.port):
                await verdicts.wait(lambda unhealthy: not unhealthy)


async def test_removed_target_is_forgotten_and_said_to_be_healthy() -> None:
    """Another Pod that gets the address later would start set aside, and nobody would ever probe it."""
    backend = Address("127.0.0.1", 1)
    monitor = HealthMonitor(HealthCheck(), 4, seed=1)
    monitor.update_pool(POOL, (backend,))
    async with running(monitor) as verdicts:
        monitor.observe(failures(backend, 3))
        await verdicts.wait(lambda unhealthy: len(unhealthy) == 1)
        monitor.update_pool(POOL, ())
        await verdicts.wait(lambda unhealthy: not unhealthy)
        monitor.observe(failures(backend, 3))
        monitor.update_pool(POOL, (backend,))
        monitor.observe(failures(backend, 3))
        await verdicts.wait(lambda unhealthy: len(unhealthy) == 1)
        monitor.remove_pool(POOL)
        await verdicts.wait(lambda unhealthy: not unhealthy)
        monitor.observe(failures(backend, 3))
        assert monitor.unhealthy() == ()
        assert monitor.statistics().pools == 0


@pytest.mark.parametrize("seed", range(20))
async def test_verdicts_add_up_to_the_present_state(seed: int) -> None:
    """The plan would set a backend aside for ever that health has long forgotten."""
    rng = random.Random(seed)
    monitor = HealthMonitor(HealthCheck(), 4, seed=seed)
    backends = [Address("192.0.2.1", 1 + number) for number in range(4)]
    checks = [None, None, None, HealthCheck(fall=1), HealthCheck(kind="off"), HealthCheck(kind="tcp", interval=1e4)]
    async with running(monitor) as verdicts:
        for _ in range(200):
            pool = rng.choice(["a/b", "a/c"])
            match rng.randrange(8):
                case 0:
                    members = tuple(rng.sample(backends, rng.randrange(5)))
                    monitor.update_pool(pool, members, rng.choice(checks))
                case 1:
                    monitor.remove_pool(pool)
                case _:
                    target = Target(pool, rng.choice(backends))
                    monitor.observe(Evidence(target, rng.random() < 0.2, "traffic", "r", rng.randrange(1, 4)))
            await trio.lowlevel.checkpoint()
        await verdicts.wait(lambda unhealthy: set(unhealthy) == {verdict.target for verdict in monitor.unhealthy()})
        for pool in ("a/b", "a/c"):
            monitor.remove_pool(pool)
        await verdicts.wait(lambda unhealthy: not unhealthy)
        statistics = monitor.statistics()
        assert (statistics.pools, statistics.scheduled, statistics.suspects) == (0, 0, 0)


async def test_off_uses_no_evidence() -> None:
    """Who switched health off would still have backends set aside."""
    backend = Address("127.0.0.1", 1)
    monitor = HealthMonitor(HealthCheck(), 4)
    monitor.update_pool(POOL, (backend,), HealthCheck(kind="off"))
    monitor.observe(failures(backend, 100))
    assert monitor.unhealthy() == ()


async def test_changed_check_starts_anew() -> None:
    """A pool switched from passive to active checks would keep verdicts that the new check never made."""
    backend = Address("127.0.0.1", 1)
    monitor = HealthMonitor(HealthCheck(), 4)
    monitor.update_pool(POOL, (backend,))
    monitor.observe(failures(backend, 3))
    monitor.update_pool(POOL, (backend,), HealthCheck(kind="tcp"))
    assert monitor.unhealthy() == ()
    assert monitor.statistics().scheduled == 1
    monitor.update_pool(POOL, (backend,), HealthCheck(kind="off"))
    assert monitor.statistics().scheduled == 0


async def test_no_more_probes_than_the_limit(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rack that lost power would open a socket for each of its Pods at once."""
    now_running = most = 0

    async def slow_probe(target: Target, check: HealthCheck) -> Evidence:
        nonlocal now_running, most
        now_running += 1
        most = max(most, now_running)
        await trio.sleep(check.timeout)
        now_running -= 1
        return Evidence(target, False, "probe", "no answer within 1 s")

    monkeypatch.setattr(monitor_module, "probe", slow_probe)
    monitor = HealthMonitor(HealthCheck(kind="tcp", interval=1.0), 8, seed=1)
    monitor.update_pool(POOL, tuple(Address("192.0.2.1", 1 + port) for port in range(100)))
    async with running(monitor):
        with trio.fail_after(120):
            while len(monitor.unhealthy()) < 100:  # noqa: ASYNC110 - on a virtual clock this costs nothing
                await trio.sleep(1)
    assert most == 8
    assert monitor.statistics().limit_waits > 0


async def test_target_that_returns_during_its_probe_is_not_lost(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Pod that is removed and added within a second would crash the monitor, or never be probed again."""
    probes = 0

    async def slow_probe(target: Target, check: HealthCheck) -> Evidence:
        nonlocal probes
        probes += 1
        await trio.sleep(5)
        return Evidence(target, True, "probe", "answers")

    monkeypatch.setattr(monitor_module, "probe", slow_probe)
    monitor = HealthMonitor(HealthCheck(kind="tcp", interval=1.0), 8, seed=1)
    backend = Address("192.0.2.1", 1)
    async with running(monitor):
        for _ in range(3):
            monitor.update_pool(POOL, (backend,))
            await trio.sleep(1.5)
            monitor.update_pool(POOL, ())
        monitor.update_pool(POOL, (backend,))
        before = probes
        await trio.sleep(60)
    assert probes > before + 5
    assert monitor.statistics().scheduled == 1


@pytest.mark.parametrize(
    ("check", "field"),
    [
        (HealthCheck(kind="icmp"), "kind"),
        (HealthCheck(interval=0), "interval"),
        (HealthCheck(timeout=float("nan")), "timeout"),
        (HealthCheck(rise=0), "rise"),
        (HealthCheck(fall=0), "fall"),
        (HealthCheck(port=70_000), "port"),
        (HealthCheck(path="ready"), "path"),
        (HealthCheck(path="/a b"), "path"),
        (HealthCheck(expect=(399, 200)), "expect"),
    ],
)
def test_unusable_check_is_named(check: HealthCheck, field: str) -> None:
    """A typo would silently switch health checks off."""
    with pytest.raises(SettingsError, match=field):
        HealthMonitor(check, 4)
