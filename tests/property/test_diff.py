"""Laws of diff and claims. A failure leaves the engine in a state that nobody asked for."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceway.diff import (
    CloseFrontend,
    Desired,
    OpenFrontend,
    RejectFrontend,
    RemovePools,
    RetargetFrontend,
    Step,
    UpsertPools,
    apply_steps,
    diff,
)
from spliceway.model import (
    Address,
    Backend,
    ClientClass,
    ExternalRoute,
    Frontend,
    FrontendKey,
    FrontendKind,
    FrontendVerdict,
    ObjectKey,
    PoolSpec,
    Protocol,
    ServicePlan,
)
from spliceway.plan.claims import Claims

ADDRESSES = st.builds(Address, st.sampled_from(["10.0.0.1", "10.0.0.2", "127.0.0.1", "0.0.0.0"]), st.integers(80, 82))
BACKENDS = st.lists(ADDRESSES, max_size=3, unique=True).map(lambda each: tuple(Backend(*address) for address in each))
POOL_NAMES = st.sampled_from(["default/a", "default/b", "default/c"])
POOLS = st.dictionaries(POOL_NAMES, BACKENDS).map(lambda each: {name: PoolSpec(name, each[name]) for name in each})
PROTOCOLS = st.sampled_from([Protocol.TCP, Protocol.UDP])
VERDICTS = st.sampled_from(FrontendVerdict)
FRONTENDS = st.lists(
    st.builds(
        Frontend,
        ADDRESSES,
        POOL_NAMES,
        VERDICTS,
        PROTOCOLS,
        kind=st.sampled_from(FrontendKind),
        external=st.none() | st.builds(ExternalRoute, POOL_NAMES, VERDICTS),
        keep_source=st.sampled_from([ClientClass(0), ClientClass.POD]),
        sources=st.sampled_from([(), ("10.0.0.0/8",)]),
    )
).map(lambda each: {one.key: one for one in each})
DESIRED = st.builds(Desired, POOLS, FRONTENDS)


def pools_of(frontend: Frontend) -> set[str]:
    """The pools that clients of ``frontend`` are led to."""
    return {frontend.pool, frontend.external.pool if frontend.external else frontend.pool}


#: states in which every frontend's pool exists
COMPLETE = DESIRED.map(
    lambda each: Desired(
        {**{name: PoolSpec(name, ()) for one in each.frontends.values() for name in pools_of(one)}, **each.pools},
        each.frontends,
    )
)


@settings(deadline=None)
@given(DESIRED, DESIRED)
def test_the_steps_lead_from_one_state_to_the_other(before: Desired, after: Desired) -> None:
    assert apply_steps(diff(before, after), before) == after


@settings(deadline=None)
@given(DESIRED)
def test_no_difference_needs_no_step(state: Desired) -> None:
    assert diff(state, state) == ()


ORDER: list[type[Step]] = [RejectFrontend, UpsertPools, OpenFrontend, RetargetFrontend, CloseFrontend, RemovePools]


@settings(deadline=None)
@given(COMPLETE, COMPLETE)
def test_make_before_break(before: Desired, after: Desired) -> None:
    """At no step does an open frontend lead to a pool that is not there: its clients would be reset."""
    steps = diff(before, after)
    places = [ORDER.index(OpenFrontend if isinstance(step, RetargetFrontend) else type(step)) for step in steps]
    assert places == sorted(places)
    for step in steps:
        if isinstance(step, OpenFrontend | RetargetFrontend):
            old = before.frontends.get(step.frontend.key)
            assert step.frontend.served
            assert (old is not None and old.served) == isinstance(step, RetargetFrontend)
        if isinstance(step, RejectFrontend):
            assert not step.frontend.served
    for count in range(len(steps) + 1):
        state = apply_steps(steps[:count], before)
        serving = [each for each in state.frontends.values() if each.served]
        assert {name for frontend in serving for name in pools_of(frontend)} <= state.pools.keys()


@st.composite
def plans(draw: st.DrawFn) -> ServicePlan:
    key = ObjectKey("default", draw(st.sampled_from("abc")))
    protocol = draw(PROTOCOLS)
    pool = PoolSpec(str(key), draw(BACKENDS), protocol=protocol)
    verdict = FrontendVerdict.SERVE if pool.backends else FrontendVerdict.REJECT
    addresses = draw(st.lists(ADDRESSES, max_size=3, unique=True))
    frontends = tuple(Frontend(each, pool.name, verdict, protocol) for each in addresses)
    return ServicePlan(key, (pool,), frontends, created=draw(st.sampled_from(["", "2026-01-01", "2026-01-02"])))


CHANGES = st.lists(
    plans() | st.sampled_from("abc").map(lambda name: ObjectKey("default", name)), min_size=1, max_size=10
)


@settings(deadline=None)
@given(CHANGES, st.integers(1, 3), st.booleans())
def test_incremental_planning_ends_where_planning_from_scratch_does(
    changes: list[ServicePlan | ObjectKey], batch: int, loops: bool
) -> None:
    """Whatever the history, the engine's state depends on the present Services only."""
    claims = Claims(loops=loops)
    raw: dict[ObjectKey, ServicePlan | None] = {}
    settled: dict[ObjectKey, ServicePlan | None] = {}
    state = Desired({}, {})
    for start in range(0, len(changes), batch):
        update = {
            (each.key if isinstance(each, ServicePlan) else each): each if isinstance(each, ServicePlan) else None
            for each in changes[start : start + batch]
        }
        outcome = claims.fold(update)
        old = Desired.of(settled.get(key) for key in outcome)
        state = apply_steps(diff(old, Desired.of(outcome.values())), state)
        raw.update(update)
        settled.update(outcome)
    present = {key: plan for key, plan in raw.items() if plan is not None}
    scratch = Claims(loops=loops).fold(present)
    assert {key: plan for key, plan in settled.items() if plan is not None} == scratch
    assert state == Desired.of(scratch.values())
    claimed = [frontend.key for plan in scratch.values() if plan for frontend in plan.frontends]
    assert len(claimed) == len(set(claimed)), "an address has one owner"
    if loops:
        pools = [pool for plan in scratch.values() if plan for pool in plan.pools]
        backends = {FrontendKey(each.address, pool.protocol) for pool in pools for each in pool.backends}
        assert not backends & {each.key for plan in present.values() for each in plan.frontends}, "no loop is left"
    claims.fold(dict.fromkeys(raw))
    indexes = (claims._plans, claims._claimants.held, claims._backend_users.held, claims._wildcards)
    assert not any(indexes), "nothing is kept of what is gone, or memory would grow with every rolling update"


def test_steps_can_be_read() -> None:
    """Debug logs show steps; a wrong name there costs whoever looks for a fault an hour."""
    frontend = Frontend(Address("10.0.0.1", 80), "default/a")
    reject = msgspec.structs.replace(frontend, verdict=FrontendVerdict.REJECT)
    pools = {name: PoolSpec(name, ()) for name in ("default/a", "b", "c", "d")}
    there = diff(Desired({}, {}), Desired(pools, {frontend.key: frontend}))
    assert [str(step) for step in there] == ["upsert default/a, b, c and 1 more", "open 10.0.0.1:80 -> default/a"]
    moved = msgspec.structs.replace(frontend, pool="b")
    steps = diff(Desired({}, {moved.key: moved}), Desired({}, {moved.key: frontend}))
    assert [str(step) for step in steps] == ["retarget 10.0.0.1:80 -> default/a"]
    back = diff(Desired({"b": pools["b"]}, {frontend.key: frontend}), Desired({}, {}))
    assert [str(step) for step in back] == ["close 10.0.0.1:80", "remove b"]
    assert str(diff(Desired({}, {}), Desired({}, {reject.key: reject}))[0]) == "reject 10.0.0.1:80 (default/a)"
    drop = msgspec.structs.replace(reject, verdict=FrontendVerdict.DROP, protocol=Protocol.UDP)
    assert str(diff(Desired({}, {}), Desired({}, {drop.key: drop}))[0]) == "drop 10.0.0.1:80/udp (default/a)"
