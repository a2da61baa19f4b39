"""Frontends as packet rules. A wrong order lets a client through to an empty pool, or keeps it out of a full one."""

from __future__ import annotations

import msgspec
import pytest

from spliceway.apply import Applier, CapturedFrontends
from spliceway.diff import CloseFrontend, OpenFrontend, RejectFrontend, RemovePools, RetargetFrontend, UpsertPools
from spliceway.engine import TrioEngine
from spliceway.model import (
    NO_CLIENT,
    Address,
    Backend,
    ClientClass,
    ExternalRoute,
    Frontend,
    FrontendKey,
    FrontendKind,
    FrontendVerdict,
    PoolSpec,
    Problem,
    Protocol,
)
from support.fakeengine import FakeEngine
from support.fakerules import FakeRules

VIP = Address("10.96.0.1", 80)
KEY = FrontendKey(VIP, Protocol.TCP)


@pytest.fixture
def applier(fake: FakeEngine) -> Applier:
    rules = FakeRules(fake.calls, problems=(Problem("Rules", "somebody else's"),))
    return Applier(engine := TrioEngine(fake), CapturedFrontends(engine, rules))


def frontend(
    verdict: FrontendVerdict = FrontendVerdict.SERVE,
    external: ExternalRoute | None = None,
    keep: ClientClass = NO_CLIENT,
) -> Frontend:
    return Frontend(
        VIP, "a/b", verdict, kind=FrontendKind.CLUSTER_IP, external=external, keep_source=keep, protocol=Protocol.TCP
    )


POOL = UpsertPools((PoolSpec("a/b", (Backend("10.0.0.1", 80),)),))
EMPTY = UpsertPools((PoolSpec("a/b", ()),))


async def test_clients_are_led_here_only_when_their_pool_is_there(fake: FakeEngine, applier: Applier) -> None:
    """One connect that is accepted without a backend fails a client for good (N-07)."""
    await applier.execute((POOL, OpenFrontend(frontend())), 1)
    assert [call[0] for call in fake.calls] == ["apply", "route", "apply", "rules", "apply"]
    assert fake.generation == 1


async def test_clients_are_refused_before_their_pool_is_empty(fake: FakeEngine, applier: Applier) -> None:
    """Else some would be accepted and cut, instead of refused."""
    await applier.execute((POOL, OpenFrontend(frontend())), 1)
    fake.calls.clear()
    await applier.execute((RejectFrontend(frontend(FrontendVerdict.REJECT)), EMPTY), 2)
    assert fake.calls[0] == ("rules", (("10.96.0.1:80", "reject"),), ())
    state = applier.state(KEY)
    assert state is not None
    assert state.state == "rejecting"


async def test_a_route_goes_after_its_rule(fake: FakeEngine, applier: Applier) -> None:
    """A rule without a route resets clients that another proxy or the network could still serve."""
    await applier.execute((POOL, OpenFrontend(frontend())), 1)
    fake.calls.clear()
    await applier.execute((CloseFrontend(KEY), RemovePools(("a/b",))), 2)
    assert [call[0] for call in fake.calls] == ["rules", "unroute", "apply"]
    assert (fake.routes, fake.pools, dict(applier.frontends())) == ({}, {}, {})


async def test_an_endpoint_change_touches_no_rule(fake: FakeEngine, applier: Applier) -> None:
    """Rules cost milliseconds; endpoints change a thousand times as often as Services."""
    await applier.execute((POOL, OpenFrontend(frontend())), 1)
    fake.calls.clear()
    await applier.execute((UpsertPools((PoolSpec("a/b", (Backend("10.0.0.2", 80),)),)),), 2)
    assert fake.calls == [("apply", ("a/b",), (), 2)]


async def test_each_class_of_client_has_its_pool_and_its_source(fake: FakeEngine, applier: Applier) -> None:
    """Section 2.8: with ETP=Local Pods get every endpoint, outsiders those of this node, with their own addresses."""
    outside = ExternalRoute("a/b@local", FrontendVerdict.SERVE)
    kept = frontend(external=outside, keep=ClientClass.POD | ClientClass.EXT)
    await applier.execute((POOL, OpenFrontend(kept)), 1)
    assert fake.routes["tcp", VIP.host, VIP.port] == (("a/b", True), ("a/b", False), ("a/b@local", True))
    dropped = frontend(external=ExternalRoute("a/b@local", FrontendVerdict.DROP))
    await applier.execute((RetargetFrontend(dropped),), 2)
    assert fake.routes["tcp", VIP.host, VIP.port] == (("a/b", False), ("a/b", False), ("a/b@local", False))
    state = applier.state(KEY)
    assert state is not None
    assert (state.state, "outside" in state.message) == ("serving", True)


async def test_shutdown_leaves_the_rules_to_the_next_agent(fake: FakeEngine, applier: Applier) -> None:
    """Without rules, clients would be refused until the next agent is there, instead of waiting a moment (W-09)."""
    await applier.execute((POOL, OpenFrontend(frontend())), 1)
    fake.calls.clear()
    await applier.stop_accepting()
    await applier.execute((CloseFrontend(KEY),), 2)
    assert not [call for call in fake.calls if call[0] == "rules"]


async def test_the_first_complete_state_comes_in_one_change(fake: FakeEngine, applier: Applier) -> None:
    """A restart would take every Service away for a moment, only because one of them has no endpoint."""
    refused = msgspec.structs.replace(frontend(FrontendVerdict.REJECT), address=Address("10.96.0.9", 80))
    await applier.execute((RejectFrontend(refused), POOL, OpenFrontend(frontend())), 1)
    changes = [call for call in fake.calls if call[0] == "rules"]
    assert changes == [("rules", (("10.96.0.9:80", "reject"), ("10.96.0.1:80", "serve")), ())]


async def test_a_first_state_without_frontends_reaches_the_rules_as_well(fake: FakeEngine, applier: Applier) -> None:
    """What an agent that crashed has left would hold Services for ever that nobody asks this one to serve."""
    await applier.execute((), 1)
    assert ("rules", (), ()) in fake.calls


async def test_an_agent_that_ends_before_its_first_state_changes_no_rule(fake: FakeEngine, applier: Applier) -> None:
    """The rules that are there may be those of another agent, which serves."""
    await applier.stop_accepting()
    assert not [call for call in fake.calls if call[0] == "rules"]


def test_what_is_wrong_with_the_rules_is_told(applier: Applier) -> None:
    """Somebody who flushes the rules must be found by looking at the agent."""
    assert [str(problem) for problem in applier.problems()] == ["Rules: somebody else's"]


async def test_a_bad_route_does_not_stop_the_others(fake: FakeEngine, applier: Applier) -> None:
    """An exception here would end the whole agent, with all its Services."""
    many = [Frontend(Address(f"10.96.0.{number}", 80), "a/b") for number in range(1, 20)]
    fake.refuse_route = "10.96.0.7"
    await applier.execute((POOL, *map(OpenFrontend, many)), 1)
    assert {host for _, host, _ in fake.routes} == {each.address.host for each in many} - {"10.96.0.7"}
    told = [str(problem) for problem in applier.problems() if problem.subject != "Rules"]
    assert told == ["Frontend 10.96.0.7:80 (a/b): its route is left as it was: route 10.96.0.7:80: refused by the test"]
    assert fake.generation == 1
    await applier.execute((CloseFrontend(many[6].key), CloseFrontend(many[7].key)), 2)
    assert ("tcp", "10.96.0.8", 80) not in fake.routes
    assert [problem.subject for problem in applier.problems()] == ["Rules"]
    assert fake.generation == 2
    await applier.execute((OpenFrontend(many[6]),), 3)
    fake.refuse_route = ""
    await applier.execute((RetargetFrontend(many[6]),), 4)
    assert [problem.subject for problem in applier.problems()] == ["Rules"], "what is right again is told no more"
    assert ("tcp", "10.96.0.7", 80) in fake.routes
