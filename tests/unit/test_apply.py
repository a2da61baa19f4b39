"""Carrying out steps. A failure leaves frontends dead, or lets one bad pool or port stop all the others."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from spliceway.apply import Applier, BoundFrontends
from spliceway.apply.applier import CHUNK
from spliceway.capture.bind import BindCapture
from spliceway.diff import CloseFrontend, OpenFrontend, RejectFrontend, RemovePools, RetargetFrontend, UpsertPools
from spliceway.engine import PoolRecord, TrioEngine
from spliceway.model import Address, Backend, Frontend, FrontendKey, FrontendVerdict, PoolSpec, Protocol
from support.fakeengine import FakeEngine


@pytest.fixture
def applier(fake: FakeEngine) -> Applier:
    engine = TrioEngine(fake)
    return Applier(engine, BoundFrontends(engine, BindCapture()))


@pytest.fixture
def address() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return Address(*free.getsockname())


def pool(name: str, *hosts: str) -> PoolSpec:
    return PoolSpec(name, tuple(Backend(host, 80) for host in hosts))


async def test_a_frontend_opens_moves_refuses_and_closes(fake: FakeEngine, applier: Applier, address: Address) -> None:
    frontend = Frontend(address, "a")
    await applier.execute((UpsertPools((pool("a", "10.0.0.1"),)), OpenFrontend(frontend)), 1)
    assert fake.addresses() == {address: "a"}
    moved = Frontend(address, "b")
    await applier.execute((UpsertPools((pool("b"),)), RetargetFrontend(moved), RemovePools(("a",))), 2)
    assert fake.addresses() == {address: "b"}
    assert set(fake.pools) == {"b"}
    rejecting = Frontend(address, "b", FrontendVerdict.REJECT)
    await applier.execute((RejectFrontend(rejecting),), 3)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    state = applier.state(FrontendKey(address, Protocol.TCP))
    assert state is not None
    assert (state.state, state.message) == ("rejecting", "no usable endpoint")
    await applier.execute((OpenFrontend(moved),), 4)
    await applier.execute((CloseFrontend(FrontendKey(address, Protocol.TCP)), RemovePools(("b",))), 5)
    assert (fake.addresses(), fake.pools, dict(applier.frontends())) == ({}, {}, {})
    assert fake.generation == 5


async def test_the_generation_is_published_when_all_of_it_is_there(
    fake: FakeEngine, applier: Applier, address: Address
) -> None:
    """Whoever waits for a generation must find its frontends open and its pools complete."""
    many = tuple(pool(f"p{number}", "10.0.0.1") for number in range(CHUNK * 2 + 1))
    await applier.execute((UpsertPools(many), OpenFrontend(Frontend(address, "p0"))), 7)
    sizes = [(len(call[1]), call[3]) for call in fake.calls if call[0] == "apply"]
    assert sizes == [(200, 6), (200, 6), (1, 6), (0, 7)]
    await applier.execute((UpsertPools(many[:1]),), 8)
    assert fake.calls[-1] == ("apply", ("p0",), (), 8), "a single change costs a single call"


async def test_a_bad_pool_does_not_stop_the_others(fake: FakeEngine, applier: Applier) -> None:
    fake.refuse_pool = "bad"
    await applier.execute((UpsertPools((pool("a"), pool("bad"), pool("c"))),), 1)
    assert set(fake.pools) == {"a", "c"}
    assert [str(problem) for problem in applier.problems()] == ["Pool bad: is left as it was: refused by the test"]
    assert fake.generation == 1
    fake.refuse_pool = ""
    await applier.execute((UpsertPools((pool("bad"),)),), 2)
    assert applier.problems() == ()
    assert fake.generation == 2


@pytest.mark.parametrize("error", [TypeError("bad type"), OverflowError("too large"), UnicodeError("not text")])
async def test_a_pool_that_does_not_cross_the_boundary_does_not_stop_the_others(
    fake: FakeEngine, applier: Applier, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """An exception here would end the whole agent, with all its Services."""
    apply = fake.apply

    def refuse(upserts: list[PoolRecord], *rest: Any) -> None:
        if any(record[0] == "bad" for record in upserts):
            raise error
        apply(upserts, *rest)

    monkeypatch.setattr(fake, "apply", refuse)
    await applier.execute((UpsertPools((pool("a"), pool("bad"), pool("c"))),), 1)
    assert set(fake.pools) == {"a", "c"}
    assert [str(problem) for problem in applier.problems()] == [f"Pool bad: is left as it was: {error}"]


async def test_a_port_in_use_is_told_and_tried_again(fake: FakeEngine, applier: Applier) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(*taken.getsockname())
        other = Frontend(Address("127.0.0.1", 1), "a")
        await applier.execute((OpenFrontend(Frontend(address, "a")), OpenFrontend(other)), 1)
        assert fake.addresses() == {other.address: "a"}, "the other one serves"
        (problem,) = applier.problems()
        assert str(problem).startswith(
            f"Frontend {address} (a): cannot listen: address already in use by another process;"
        )
        assert not await applier.retry_failed()
    assert await applier.retry_failed()
    assert not applier.failing()
    assert applier.problems() == ()
    assert address in fake.addresses()


async def test_a_failed_frontend_that_nobody_wants_is_forgotten(applier: Applier) -> None:
    address = Address("192.0.2.1", 80)
    await applier.execute((OpenFrontend(Frontend(address, "a")),), 1)
    await applier.execute((RetargetFrontend(Frontend(address, "b")),), 2)
    assert [problem.subject for problem in applier.problems()] == ["Frontend 192.0.2.1:80 (b)"]
    await applier.execute((CloseFrontend(FrontendKey(address, Protocol.TCP)),), 3)
    assert (applier.problems(), applier.failing()) == ((), False)


async def test_an_address_opens_when_the_one_in_its_way_closes(
    fake: FakeEngine, applier: Applier, address: Address
) -> None:
    """Make before break must not leave a port dead that moves from all addresses to one."""
    await applier.execute((OpenFrontend(Frontend(Address("0.0.0.0", address.port), "a")),), 1)
    await applier.execute(
        (
            OpenFrontend(Frontend(address, "a")),
            CloseFrontend(FrontendKey(Address("0.0.0.0", address.port), Protocol.TCP)),
        ),
        2,
    )
    assert fake.addresses() == {address: "a"}
    assert applier.problems() == ()


async def test_nothing_opens_during_shutdown(fake: FakeEngine, applier: Applier, address: Address) -> None:
    """A client accepted while the agent drains would be cut at its end."""
    await applier.stop_accepting()
    await applier.execute((OpenFrontend(Frontend(address, "a")),), 1)
    assert not await applier.retry_failed()
    assert fake.addresses() == {}
