"""Addresses that two Services ask for, and loops. A failure sends clients to the wrong Service, or in circles."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from spliceway.model import (
    Address,
    Backend,
    ExternalRoute,
    Frontend,
    FrontendKind,
    FrontendVerdict,
    ObjectKey,
    PoolSpec,
    Protocol,
    ServicePlan,
)
from spliceway.plan.claims import Claims

VIP = Address("10.96.0.1", 80)


def plan(
    name: str,
    *addresses: Address,
    backends: tuple[Address, ...] = (),
    created: str = "",
    protocol: Protocol = Protocol.TCP,
) -> ServicePlan:
    key = ObjectKey("default", name)
    verdict = FrontendVerdict.SERVE if backends else FrontendVerdict.REJECT
    pool = PoolSpec(str(key), tuple(Backend(*address) for address in backends), protocol=protocol)
    frontends = tuple(Frontend(each, str(key), verdict, protocol) for each in addresses)
    return ServicePlan(key, (pool,), frontends, created=created)


def settle(claims: Claims, *plans: ServicePlan) -> dict[str, ServicePlan | None]:
    return {key.name: settled for key, settled in claims.fold({each.key: each for each in plans}).items()}


POD = (Address("10.0.0.1", 8080),)


def test_s14_the_oldest_claimant_wins_whoever_comes_first() -> None:
    young = plan("a", VIP, backends=POD, created="2026-02-01T00:00:00Z")
    old = plan("b", VIP, backends=POD, created="2026-01-01T00:00:00Z")
    undated = plan("0", VIP, backends=POD)
    for order in ((young, old, undated), (undated, old, young), (old, undated, young)):
        claims = Claims()
        settled: dict[str, ServicePlan | None] = {}
        for each in order:
            settled.update(settle(claims, each))
        assert settled["b"] == old
        for loser in (settled["a"], settled["0"]):
            assert loser is not None
            assert not loser.frontends
            assert [problem.message for problem in loser.problems] == [
                "asks for 10.96.0.1:80, which Service default/b has; give one of them another address or port"
            ]


def test_s14_without_dates_the_name_decides_and_the_loser_takes_over() -> None:
    """When the winner goes, its address must not stay dead until somebody touches the loser."""
    claims = Claims()
    first, second = plan("a", VIP, backends=POD), plan("b", VIP, backends=POD)
    settle(claims, second)
    settled = settle(claims, first)
    assert settled["a"] == first
    assert settled["b"] is not None
    assert not settled["b"].frontends
    assert claims.fold({first.key: None}) == {first.key: None, second.key: second}


def test_one_service_that_asks_twice_is_told() -> None:
    (settled,) = settle(Claims(), plan("a", VIP, VIP, backends=POD)).values()
    assert settled is not None
    assert settled.frontends == plan("a", VIP, backends=POD).frontends
    assert "twice" in settled.problems[0].message


def test_a_backend_that_is_a_frontend_of_ours_is_left_out_in_either_order() -> None:
    front = plan("front", VIP, backends=(Address("10.96.0.2", 80), *POD))
    other = plan("other", Address("10.96.0.2", 80), backends=POD)
    for order in ((front, other), (other, front)):
        claims = Claims()
        settled: dict[str, ServicePlan | None] = {}
        for each in order:
            settled.update(settle(claims, each))
        found = settled["front"]
        assert found is not None
        assert [backend.address for backend in found.pools[0].backends] == [*POD]
        assert found.frontends[0].verdict is FrontendVerdict.SERVE
        assert found.problems[0].message == (
            "endpoint 10.96.0.2:80 of default/front is a frontend of Service default/other here, a loop; it is left out"
        )
        assert claims.fold({other.key: None})[front.key] == front, "the endpoint comes back when the loop is gone"


def test_a_service_that_is_its_own_backend_refuses_clients() -> None:
    """Otherwise one connection would multiply until all file descriptors are used up."""
    (settled,) = settle(Claims(), plan("a", VIP, backends=(VIP,))).values()
    assert settled is not None
    assert settled.pools[0].backends == ()
    assert settled.frontends[0].verdict is FrontendVerdict.REJECT


def test_wildcards_cover_loopback_and_the_addresses_of_other_frontends() -> None:
    claims = Claims()
    loops = (Address("127.0.0.5", 80), Address("10.96.0.7", 80), Address("::1", 80))
    app = plan("app", Address("10.96.0.7", 81), backends=(*loops, Address("10.0.0.9", 80)))
    settle(claims, app)
    settled = settle(claims, plan("any", Address("0.0.0.0", 80), backends=POD))["app"]
    assert settled is not None
    assert [each.host for each in settled.pools[0].backends] == ["::1", "10.0.0.9"]
    settled = settle(claims, plan("six", Address("::", 80), backends=POD))["app"]
    assert settled is not None
    assert [each.host for each in settled.pools[0].backends] == ["10.0.0.9"]
    claims.fold({ObjectKey("default", "any"): None})
    assert claims.fold({ObjectKey("default", "six"): None})[app.key] == app


def test_wildcards_cover_every_address_of_the_machine() -> None:
    """A backend on the node's own address would send each flow round until all file descriptors are used up."""
    asked: list[str] = []

    def is_local(host: str) -> bool:
        asked.append(host)
        return host == "10.0.0.9"

    claims = Claims(is_local)
    backends = (Address("10.0.0.9", 80), Address("10.0.0.8", 80), Address("10.0.0.7", 81))
    settled = settle(claims, plan("any", Address("0.0.0.0", 80), backends=backends))["any"]
    assert settled is not None
    assert [each.host for each in settled.pools[0].backends] == ["10.0.0.8", "10.0.0.7"]
    assert "10.0.0.7" not in asked, "another port is no loop, so the kernel need not be asked"


def test_a_loop_is_told_with_the_service_that_has_the_address() -> None:
    """The message must lead to the Service that is served there, not to one that only asked for it."""
    young = plan("a", VIP, backends=POD, created="2026-02-01T00:00:00Z")
    old = plan("b", VIP, backends=POD, created="2026-01-01T00:00:00Z")
    user = plan("user", Address("10.96.0.2", 80), backends=(VIP, *POD))
    for order in ((young, old, user), (old, young, user)):
        settled = settle(Claims(), *order)["user"]
        assert settled is not None
        assert "is a frontend of Service default/b here" in settled.problems[0].message


def test_embedded_pools_keep_their_port_open_when_they_loop() -> None:
    key = ObjectKey("", "web")
    pool = PoolSpec("web", (Backend(*VIP),))
    settled = Claims().fold({key: ServicePlan(key, (pool,), (Frontend(VIP, "web", keep_open=True),))})[key]
    assert settled is not None
    assert settled.pools[0].backends == ()
    assert settled.frontends[0].verdict is FrontendVerdict.SERVE
    assert settled.problems[0].subject == "Pool web"


def test_protocols_are_two_frontends_and_make_no_loop() -> None:
    """DNS has one address for both; a TCP flow never comes back through a UDP frontend."""
    tcp, udp = plan("a", VIP, backends=POD), plan("b", VIP, backends=(VIP, *POD), protocol=Protocol.UDP)
    claims = Claims()
    settled = settle(claims, tcp, udp)
    assert settled["a"] == tcp
    assert settled["b"] is not None
    assert settled["b"].frontends == udp.frontends
    assert [each.address for each in settled["b"].pools[0].backends] == [*POD], "its own frontend is a loop"
    other = plan("c", Address("10.96.0.3", 53), backends=(VIP,), protocol=Protocol.UDP)
    lone = settle(Claims(), tcp, other)["c"]
    assert lone == other
    both = settle(claims, plan("d", VIP, backends=POD, protocol=Protocol.UDP))["d"]
    assert both is not None
    assert both.problems[0].message == (
        "asks for 10.96.0.1:80/udp, which Service default/b has; give one of them another address or port"
    )


def test_a_pool_whose_weights_are_all_zero_serves_nobody_after_a_loop_is_cut() -> None:
    key = ObjectKey("default", "a")
    pool = PoolSpec("a", (Backend(*VIP), Backend("10.0.0.1", 80, 0)))
    external = ExternalRoute("a", FrontendVerdict.SERVE)
    plan_with_loop = ServicePlan(key, (pool,), (Frontend(VIP, "a", external=external),))
    settled = Claims().fold({key: plan_with_loop})[key]
    assert settled is not None
    assert settled.frontends == (
        Frontend(VIP, "a", FrontendVerdict.REJECT, external=ExternalRoute("a", FrontendVerdict.REJECT)),
    )


def test_dropped_clients_stay_dropped_when_another_frontend_is_lost() -> None:
    """The verdict is the plan's; a conflict elsewhere in the Service must not turn DROP into REJECT."""
    key = ObjectKey("default", "b")
    dropped = Frontend(Address("10.96.0.9", 80), "b@local", FrontendVerdict.DROP)
    loser = ServicePlan(key, (PoolSpec("b@local", ()),), (dropped, Frontend(VIP, "b@local", FrontendVerdict.DROP)))
    settled = Claims().fold({key: loser, ObjectKey("default", "a"): plan("a", VIP, backends=POD)})[key]
    assert settled is not None
    assert settled.frontends == (dropped,)


def test_where_own_sockets_are_known_a_frontend_may_be_a_backend() -> None:
    """A Service whose endpoint is another Service's ClusterIP works with kube-proxy, and with transparent capture."""
    front = plan("front", VIP, backends=(Address("10.96.0.2", 80), VIP, *POD))
    other = plan("other", Address("10.96.0.2", 80), Address("0.0.0.0", 80), backends=POD)
    claims = Claims(lambda host: True, loops=False)
    assert settle(claims, front, other) == {"front": front, "other": other}
    rival = plan("rival", Address("10.96.0.2", 80), backends=POD)
    settled = settle(claims, rival)["rival"]
    assert settled is not None
    assert not settled.frontends, "conflicts are settled all the same"


def test_node_ports_do_not_make_every_service_affected() -> None:
    """With 10,000 NodePorts, each new Service would have all of them planned and compared again."""
    claims = Claims(loops=False)
    plans = [
        plan(f"s{number}", Address(f"10.96.{number // 250}.{number % 250}", 80), Address("0.0.0.0", 20_000 + number))
        for number in range(10_000)
    ]
    claims.fold({each.key: each for each in plans})
    looks = Looks()
    claims._plans = CountingPlans(claims._plans, looks)
    for changed in (
        plan("s7", Address("10.96.0.7", 80), Address("0.0.0.0", 20_007), backends=POD),
        plan("s8", Address("10.96.0.8", 80), Address("0.0.0.0", 40_000), backends=POD),
        plan("new", Address("10.97.0.1", 80), Address("0.0.0.0", 40_001), backends=POD),
    ):
        assert list(claims.fold({changed.key: changed})) == [changed.key]
    assert 0 < looks.count <= 20
    contested = plan("late", Address("0.0.0.0", 20_001))
    assert set(claims.fold({contested.key: contested})) == {contested.key, ObjectKey("default", "s1")}


class Looks:
    """How often something was looked at."""

    count = 0


class CountingPlans(dict[ObjectKey, ServicePlan]):
    """Counts every plan that is looked at, one by one or in a walk."""

    def __init__(self, plans: dict[ObjectKey, ServicePlan], looks: Looks) -> None:
        super().__init__(plans)
        self._looks = looks

    def __getitem__(self, key: ObjectKey) -> ServicePlan:
        self._looks.count += 1
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[ObjectKey]:
        for key in super().__iter__():
            self._looks.count += 1
            yield key

    def keys(self) -> Any:
        self._looks.count += len(self)
        return super().keys()

    def values(self) -> Any:
        self._looks.count += len(self)
        return super().values()


def test_one_change_costs_the_same_among_ten_thousand() -> None:
    """An endpoint change must reach the engine in milliseconds in a big cluster."""

    def many(count: int) -> Claims:
        claims = Claims()
        for number in range(count):
            high, low = divmod(number, 250)
            pods = tuple(Address(f"10.{high}.{low}.{each}", 8080) for each in range(5))
            made = plan(f"s{number}", Address(f"11.0.{high}.{low}", 80), backends=pods)
            claims.fold({made.key: made})
        return claims

    def cost(claims: Claims) -> float:
        changed = plan("s7", Address("11.0.0.7", 80), backends=POD)
        best = float("inf")
        for _ in range(50):
            start = time.perf_counter()
            claims.fold({changed.key: changed})
            best = min(best, time.perf_counter() - start)
        return best

    assert cost(many(10_000)) < 20 * cost(many(10)) + 0.0005


def test_an_external_ip_takes_no_cluster_ip_of_another_service() -> None:
    """Whoever may write a Service could take another one's clients, only by being older."""
    thief = plan("a", VIP, backends=POD, created="2020-01-01T00:00:00Z")
    owner = plan("b", VIP, backends=POD, created="2026-01-01T00:00:00Z")

    def of_kind(made: ServicePlan, kind: FrontendKind) -> ServicePlan:
        frontends = tuple(msgspec.structs.replace(each, kind=kind) for each in made.frontends)
        return msgspec.structs.replace(made, frontends=frontends)

    thief, owner = of_kind(thief, FrontendKind.EXTERNAL_IP), of_kind(owner, FrontendKind.CLUSTER_IP)
    settled = settle(Claims(loops=False), thief, owner)
    assert settled["b"] == owner
    assert settled["a"] is not None
    assert not settled["a"].frontends
