"""What `explain` says of a client of the packet rules. A wrong answer sends its reader to the wrong place."""

from __future__ import annotations

import msgspec
import pytest

from spliceway.apply.outcome import Outcome, outcome_of
from spliceway.capture.tproxy.nodeports import Accepted, accepts
from spliceway.diff import OpenFrontend, RejectFrontend, UpsertPools
from spliceway.engine import TrioEngine
from spliceway.model import (
    Address,
    Backend,
    ClientClass,
    ExternalRoute,
    Frontend,
    FrontendKey,
    FrontendKind,
    FrontendVerdict,
    PoolSpec,
    Protocol,
)
from spliceway.observe.observed import FlowOutcome
from spliceway.pipeline import Pipeline
from spliceway.settings import Settings
from support.fakeengine import FakeEngine
from support.fakerules import FakeRules

POOL, LOCAL = "a/b:http", "a/b:http@local"
VIP = Address("10.96.0.1", 80)
POD, NODE, EXT = "10.244.0.5", "192.0.2.1", "198.51.100.7"
EXTERNAL = Frontend(VIP, POOL, kind=FrontendKind.LOAD_BALANCER, external=ExternalRoute(LOCAL, FrontendVerdict.DROP))


async def pipeline_with(fake: FakeEngine, *frontends: Frontend) -> Pipeline:
    classes = {POD: ClientClass.POD, NODE: ClientClass.NODE}
    rules = FakeRules(fake.calls, classes=classes, node_addresses=(NODE, "fd00::1"))
    pipeline = Pipeline(Settings(), TrioEngine(fake), rules=rules)
    pools = (PoolSpec(POOL, (Backend("10.244.9.9", 8080),)), PoolSpec(LOCAL, ()))
    steps = [OpenFrontend(each) if each.served else RejectFrontend(each) for each in frontends]
    await pipeline._applier.execute((UpsertPools(pools), *steps), 1)
    return pipeline


def ask(pipeline: Pipeline, host: str, port: int, client: str, protocol: Protocol = Protocol.TCP) -> FlowOutcome | None:
    return pipeline.explain(FrontendKey(Address(host, port), protocol), Address(client, 4711))


@pytest.mark.parametrize(
    ("client", "client_class", "state"),
    [(POD, ClientClass.POD, "serving"), (NODE, ClientClass.NODE, "serving"), (EXT, ClientClass.EXT, "dropping")],
)
async def test_clients_from_outside_meet_their_own_verdict(
    fake: FakeEngine, client: str, client_class: ClientClass, state: str
) -> None:
    """The answer would list backends for somebody whose packets are dropped."""
    outcome = ask(await pipeline_with(fake, EXTERNAL), VIP.host, VIP.port, client)
    assert outcome is not None
    assert (outcome.client_class, outcome.state) == (client_class, state)
    if state == "serving":
        assert outcome.pool == POOL
        assert outcome.explanation is not None
        assert [each.host for each in outcome.explanation.candidates] == ["10.244.9.9"]
    else:
        assert (outcome.pool, outcome.explanation) == (LOCAL, None)
        assert "no endpoint on this node" in outcome.reason


def test_a_rejected_class_is_named_so() -> None:
    """Refused and dropped look alike to whoever reads, and are not alike to the client."""
    rejected = msgspec.structs.replace(EXTERNAL, external=ExternalRoute(LOCAL, FrontendVerdict.REJECT))
    assert outcome_of(rejected, ClientClass.EXT, EXT).state == "rejecting"
    nobody = msgspec.structs.replace(EXTERNAL, verdict=FrontendVerdict.REJECT)
    assert outcome_of(nobody, ClientClass.POD, POD) == Outcome(
        POOL, "rejecting", "no usable endpoint: clients are refused"
    )


def test_source_ranges_come_before_the_verdict() -> None:
    """A client outside loadBalancerSourceRanges would be told that it is served (T-18)."""
    guarded = Frontend(VIP, POOL, sources=("198.51.100.0/29", "fd00::/64"))
    assert outcome_of(guarded, ClientClass.EXT, EXT).state == "serving"
    assert outcome_of(guarded, ClientClass.POD, "fd00::7").state == "serving"
    for host in ("198.51.100.8", "fd00:0:0:1::7"):
        state, reason = outcome_of(guarded, ClientClass.POD, host)[1:]
        assert state == "dropping"
        assert "not in the source ranges of the Service (198.51.100.0/29, fd00::/64)" in reason


async def test_node_ports_are_only_at_the_nodes_addresses(fake: FakeEngine) -> None:
    """Any address in the world with a NodePort's number would be explained as if it were this node's."""
    node_port = Frontend(Address("0.0.0.0", 30080), POOL, kind=FrontendKind.NODE_PORT)
    pipeline = await pipeline_with(fake, node_port, EXTERNAL)
    found = ask(pipeline, NODE, 30080, EXT)
    assert found is not None
    assert found.state == "serving"
    assert ask(pipeline, "192.0.2.2", 30080, EXT) is None, "another node"
    assert ask(pipeline, "fd00::1", 30080, "fd00::9") is None, "the Service has no IPv6"
    assert ask(pipeline, NODE, 30080, EXT, Protocol.UDP) is None


async def test_a_frontend_that_refuses_all_has_no_candidates(fake: FakeEngine) -> None:
    outcome = ask(await pipeline_with(fake, Frontend(VIP, LOCAL, FrontendVerdict.REJECT)), VIP.host, VIP.port, POD)
    assert outcome is not None
    assert (outcome.state, outcome.explanation) == ("rejecting", None)


@pytest.mark.parametrize(
    ("accepted", "host", "served"),
    [
        (Accepted(None), NODE, True),
        (Accepted(None), "192.0.2.2", False),
        (Accepted((NODE,)), NODE, True),
        (Accepted(("192.0.2.9",)), NODE, False),
        (Accepted(None), "127.0.0.1", False),
        (Accepted((), loopback=True), "127.0.0.2", True),
    ],
)
def test_the_accepted_addresses_are_those_of_the_rules(accepted: Accepted, host: str, served: bool) -> None:
    """The answer would differ from what the packet rules do (D-06 to D-09)."""
    assert accepts({4: accepted, 6: Accepted(None)}, host, lambda each: each == NODE) == served
