"""Endpoint rules of the plan, by rule ID. A failure here sends clients to the wrong Pods, or to none."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import pytest

from spliceway.model import (
    Address,
    Backend,
    Balance,
    EndpointSlice,
    EndpointStates,
    Frontend,
    FrontendVerdict,
    PoolSpec,
    Service,
    ServicePlan,
    SliceEndpoint,
)
from spliceway.plan import EmbeddedPool, PlanOptions, group_listens, plan_embedded, plan_service
from spliceway.settings import Listen, Settings
from spliceway.store import ServiceView, pool_owner
from support.objects import endpoints, key, ready, service, terminating, unready

OPTIONS = PlanOptions()


def nobody(pool: str) -> Collection[Address]:
    return ()


def plan(svc: Service | None, *slices: EndpointSlice, options: PlanOptions = OPTIONS) -> ServicePlan:
    return plan_service(ServiceView(svc.key if svc else key("shop"), svc, slices), options, nobody)


def pool_of(made: ServicePlan, name: str = "default/shop") -> PoolSpec:
    return next(pool for pool in made.pools if pool.name == name)


def hosts(made: ServicePlan, name: str = "default/shop") -> list[str]:
    return [backend.host for backend in pool_of(made, name).backends]


R, T, X = ready("10.0.0.1"), terminating("10.0.0.2"), unready("10.0.0.3")
DEAD = terminating("10.0.0.4", serving=False)


@pytest.mark.parametrize(
    ("rule", "given", "used"),
    [
        ("T-01.2 ready endpoints are used", [R, ready("10.0.0.9")], ["10.0.0.1", "10.0.0.9"]),
        ("T-01.2 others are not while one is ready", [R, T, X, DEAD], ["10.0.0.1"]),
        ("T-01.3 serving while terminating, only without a ready one", [T, X, DEAD], ["10.0.0.2"]),
        ("T-04 serving, neither ready nor terminating: never", [X], []),
        ("T-04 terminating without serving: never", [DEAD], []),
        (
            "T-03 a terminating one that is ready is ready",
            [msgspec.structs.replace(R, terminating=True), T],
            ["10.0.0.1"],
        ),
        ("no endpoints at all", [], []),
    ],
)
def test_cluster_set(rule: str, given: list[SliceEndpoint], used: list[str]) -> None:
    made = plan(service("shop", "10.96.0.1"), endpoints("shop", *given))
    assert hosts(made) == used, rule
    assert made.frontends[0].verdict is (FrontendVerdict.SERVE if used else FrontendVerdict.REJECT), "N-01"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(("better", "worse"), [(R, T), (R, X), (T, X), (T, DEAD), (R, DEAD)])
def test_e09_of_two_entries_with_one_address_the_better_counts(
    better: SliceEndpoint, worse: SliceEndpoint, order: tuple[int, int]
) -> None:
    """A Pod that is visible in two slices must neither vanish nor count twice, whatever order they come in."""
    pair = [
        endpoints("shop.0", msgspec.structs.replace(better, address="10.0.0.7")),
        endpoints("shop.1", msgspec.structs.replace(worse, address="10.0.0.7")),
    ]
    made = plan(service("shop", "10.96.0.1"), *(pair[index] for index in order))
    assert hosts(made) == ["10.0.0.7"]
    states = dict(made.endpoints)["default/shop"]
    assert states == (EndpointStates(ready=1) if better is R else EndpointStates(terminating=1))


def test_e13_slices_are_merged_and_e10_sorted_as_text() -> None:
    made = plan(
        service("shop", "10.96.0.1"), endpoints("shop.b", "10.0.0.9", "10.0.0.2"), endpoints("shop.a", "10.0.0.10")
    )
    assert hosts(made) == ["10.0.0.10", "10.0.0.2", "10.0.0.9"]


def test_e03_ports_match_by_name_and_not_by_number() -> None:
    made = plan(
        service("shop", "10.96.0.1", ports={"http": 80, "admin": 81}),
        endpoints("shop.0", "10.0.0.1", ports={"http": 8080, "admin": 80, "unused": 81}),
        endpoints("shop.1", "10.0.0.2", ports={"http": 9090}),
        endpoints("shop.2", "10.0.0.3", ports={"http": (8080, "UDP")}),
    )
    assert [each.address for each in pool_of(made, "default/shop:http").backends] == [
        ("10.0.0.1", 8080),
        ("10.0.0.2", 9090),
    ]
    assert [each.address for each in pool_of(made, "default/shop:admin").backends] == [("10.0.0.1", 80)]
    assert [(each.address.port, each.pool) for each in made.frontends] == [
        (80, "default/shop:http"),
        (81, "default/shop:admin"),
    ]


def test_s04_each_family_has_its_own_pool() -> None:
    """W-26: one family may have endpoints while the other one refuses."""
    made = plan(
        service("shop", "fd00::1", "10.96.0.1"),
        endpoints("shop.0", "10.0.0.1"),
        endpoints("shop.1", unready("fd00::9"), family="IPv6"),
    )
    assert made.frontends == (
        Frontend(Address("fd00::1", 80), "default/shop", FrontendVerdict.REJECT),
        Frontend(Address("10.96.0.1", 80), "default/shop@ipv4", FrontendVerdict.SERVE),
    )
    assert hosts(made, "default/shop@ipv4") == ["10.0.0.1"]
    assert dict(made.endpoints)["default/shop"] == EndpointStates(unready=1)


@pytest.mark.parametrize(
    "skipped",
    [service("shop"), service("shop", "None"), service("shop", ""), service("shop", "10.96.0.1", type="ExternalName")],
)
def test_s03_services_without_a_cluster_ip_ask_for_nothing(skipped: Service) -> None:
    assert plan(skipped, endpoints("shop", "10.0.0.1")) == ServicePlan(key("shop"))


def test_s01_services_of_another_proxy_are_left_alone_and_named() -> None:
    made = plan(service("shop", "10.96.0.1", proxy_name="other"), endpoints("shop", "10.0.0.1"))
    assert not made.frontends
    assert [problem.warning for problem in made.problems] == [True]


def test_udp_ports_and_affinity_are_named_as_not_served() -> None:
    """Somebody who relies on either must be told, and TCP must work all the same."""
    svc = service("shop", "10.96.0.1", ports={"http": 80, "dns": (53, "UDP")}, session_affinity="ClientIP")
    made = plan(svc, endpoints("shop", "10.0.0.1", ports={"http": 80}))
    assert [frontend.address.port for frontend in made.frontends] == [80]
    texts = sorted(str(problem) for problem in made.problems)
    assert "dns (53): UDP is not served by capture bind" in texts[0]
    assert "spec.sessionAffinity: ClientIP" in texts[1]
    assert all(problem.warning for problem in made.problems)


def test_e03_port_that_no_slice_has_is_named() -> None:
    """A Service would refuse everybody, and nothing would say that its slices have another name for the port."""
    svc = service("shop", "10.96.0.1", "fd00::1", ports={"http": 80, "admin": 81})
    slices = endpoints("shop.0", "10.0.0.1", ports={"web": 8080, "http": (8080, "UDP"), "admin": 8081})
    (problem,) = plan(svc, slices).problems
    assert str(problem) == (
        "Service default/shop: no EndpointSlice has a port named 'http' (TCP); "
        "they have 'admin' (TCP), 'http' (UDP), 'web' (TCP)"
    )
    assert problem.warning
    headless = service("shop", "None", ports={"http": 80})
    assert plan(headless, slices, options=gateway(Listen(ANY, "default", "shop"))).problems == (problem,)


def test_slices_without_endpoints_need_no_ports() -> None:
    """Every Service without Pods would be a problem: Kubernetes makes an empty slice for it, without ports."""
    empty = msgspec.structs.replace(endpoints("shop.0"), ports=())
    assert plan(service("shop", "10.96.0.1", ports={"http": 80}), empty).problems == ()
    assert plan(service("shop", "10.96.0.1", ports={"http": 80})).problems == ()


def test_annotations_tune_a_service_and_bad_ones_are_named() -> None:
    good = plan(service("shop", "10.96.0.1", tuning=(("balance", "p2c"), ("replay", "true"))))
    assert (good.pools[0].balance, good.pools[0].retry.replay, good.problems) == (Balance.P2C, True, ())
    bad = plan(service("shop", "10.96.0.1", tuning=(("balance", "best"), ("replay", "yes"), ("blance", "p2c"))))
    assert (bad.pools[0].balance, bad.pools[0].retry.replay) == (Balance.MAGLEV, False)
    for problem, part in zip(
        bad.problems, ("/balance]: 'best'", "/replay]: 'yes'", "/blance] is not known"), strict=True
    ):
        assert part in problem.message
        assert problem.warning


def test_unhealthy_backends_stay_in_the_pool_marked() -> None:
    """The engine must keep them to fail open when all of a pool look dead."""
    view = ServiceView(key("shop"), service("shop", "10.96.0.1"), (endpoints("shop", "10.0.0.1", "10.0.0.2"),))
    made = plan_service(view, OPTIONS, lambda pool: {Address("10.0.0.1", 8080)} if pool == "default/shop" else ())
    assert made.pools[0].backends == (Backend("10.0.0.1", 8080, 1, False), Backend("10.0.0.2", 8080, 1, True))
    assert made.frontends[0].verdict is FrontendVerdict.SERVE


def gateway(*listens: Listen) -> PlanOptions:
    return PlanOptions(listens=group_listens(listens))


ANY = Address("0.0.0.0", 8080)


def test_listens_replace_all_other_frontends() -> None:
    svc = service("shop", "10.96.0.1", ports={"http": 80, "admin": 81})
    slices = endpoints("shop", "10.0.0.1", ports={"http": 8080, "admin": 8081})
    made = plan(svc, slices, options=gateway(Listen(ANY, "default", "shop", "admin")))
    assert made.frontends == (Frontend(ANY, "default/shop:admin"),)
    assert [pool.name for pool in made.pools] == ["default/shop:admin"]
    assert plan(svc, slices, options=gateway(Listen(ANY, "default", "other"))) == ServicePlan(key("shop"))


def test_listens_may_name_headless_services_and_cross_families() -> None:
    options = gateway(Listen(ANY, "default", "shop"))
    headless = service("shop", "None")
    assert hosts(plan(headless, endpoints("shop", "10.0.0.1"), options=options)) == ["10.0.0.1"]
    six = plan(headless, endpoints("shop", "fd00::1", family="IPv6"), options=options)
    assert [backend.host for backend in pool_of(six, six.frontends[0].pool).backends] == ["fd00::1"]


@pytest.mark.parametrize(
    ("svc", "port", "part"),
    [
        (None, None, "Service default/shop does not exist"),
        (service("shop", "10.96.0.1", ports={"a": 1, "b": 2}), None, "has 2 TCP ports (a, b); name exactly one"),
        (service("shop", "10.96.0.1", ports={"dns": (53, "UDP")}), None, "has 0 TCP ports (none)"),
        (service("shop", "10.96.0.1", ports={"a": 1}), "b", "has no TCP port named b; it has: a"),
        (service("shop", type="ExternalName"), None, "is of type ExternalName"),
    ],
)
def test_listens_that_cannot_be_served_say_why(svc: Service | None, port: str | None, part: str) -> None:
    made = plan(svc, options=gateway(Listen(ANY, "default", "shop", port)))
    assert not made.frontends
    assert [problem.subject for problem in made.problems] == ["Frontend 0.0.0.0:8080"]
    assert part in made.problems[0].message
    assert not made.problems[0].warning


def test_embedded_pools_keep_their_port_without_backends() -> None:
    """A program that starts its backends later must not lose its port meanwhile."""
    made = plan_embedded(EmbeddedPool("web", ANY, ()), nobody)
    assert made.frontends == (Frontend(ANY, "web", FrontendVerdict.SERVE, keep_open=True),)
    assert pool_owner("web") == made.key


@pytest.mark.parametrize("name", ["default/shop", "default/shop:http", "default/shop:http@ipv6", "default/shop@ipv4"])
def test_pool_names_lead_back_to_their_service(name: str) -> None:
    """Health verdicts name pools; a wrong owner would leave a dead Pod in use."""
    assert pool_owner(name) == key("shop")


def test_options_come_from_the_settings() -> None:
    listen = Listen(ANY, "default", "shop")
    options = PlanOptions.of(Settings(listens=(listen,), balance=Balance.RANDOM, endpoint_drain=3.0))
    assert (options.listens, options.tuning.balance, options.drain) == ({key("shop"): (listen,)}, Balance.RANDOM, 3.0)
    assert PlanOptions.of(Settings()).listens is None
