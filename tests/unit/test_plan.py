"""Endpoint rules of the plan, by rule ID. A failure here sends clients to the wrong Pods, or to none."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import pytest

from spliceway.model import (
    ANY_CLIENT,
    NO_CLIENT,
    Address,
    Affinity,
    Backend,
    Balance,
    EndpointSlice,
    EndpointStates,
    Frontend,
    FrontendKey,
    FrontendKind,
    FrontendVerdict,
    HealthCheck,
    Node,
    ObjectKey,
    PoolSpec,
    Protocol,
    Service,
    ServicePlan,
    SliceEndpoint,
)
from spliceway.plan.service import EmbeddedPool, PlanOptions, group_listens, plan_embedded, plan_service
from spliceway.plan.tuning import Tuning
from spliceway.settings import CaptureMode, CaptureSettings, DetectLocal, Listen, NodeSettings, Settings
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
        Frontend(Address("fd00::1", 80), "default/shop", FrontendVerdict.REJECT, kind=FrontendKind.CLUSTER_IP),
        Frontend(Address("10.96.0.1", 80), "default/shop@ipv4", kind=FrontendKind.CLUSTER_IP),
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
    """Two proxies that both serve a Service would fight for its addresses."""
    made = plan(service("shop", "10.96.0.1", proxy_name="other"), endpoints("shop", "10.0.0.1"))
    assert not made.frontends
    assert [problem.warning for problem in made.problems] == [True]
    mine = PlanOptions(proxy_name="mine")
    assert plan(service("shop", "10.96.0.1"), endpoints("shop", "10.0.0.1"), options=mine) == ServicePlan(key("shop"))
    assert plan(service("shop", "10.96.0.1", proxy_name="other"), options=mine).problems == made.problems
    assert plan(service("shop", "10.96.0.1", proxy_name="mine"), options=mine).frontends


def test_s13_ports_of_both_protocols_are_two_service_ports() -> None:
    """DNS has one number twice; its clients would reach Pods by the wrong protocol, or none."""
    svc = service("dns", "10.96.0.10", ports={"udp": (53, "UDP"), "tcp": 53})
    made = plan(svc, endpoints("dns", "10.0.0.1", ports={"udp": (5353, "UDP"), "tcp": 5354}))
    assert [(str(each.key), each.pool) for each in made.frontends] == [
        ("10.96.0.10:53/udp", "default/dns:udp"),
        ("10.96.0.10:53", "default/dns:tcp"),
    ]
    assert [(each.protocol, each.backends[0].port) for each in made.pools] == [
        (Protocol.UDP, 5353),
        (Protocol.TCP, 5354),
    ]


def test_sctp_ports_are_named_and_never_half_served() -> None:
    """Somebody who relies on them must be told, once, and other ports must work all the same."""
    svc = service("shop", "10.96.0.1", "fd00::1", ports={"http": 80, "sig": (2905, "SCTP"), "x": (3868, "SCTP")})
    made = plan(svc, endpoints("shop", "10.0.0.1", ports={"http": 80, "sig": (2905, "SCTP")}))
    assert {each.key.protocol for each in made.frontends} == {Protocol.TCP}
    assert [each.name for each in made.pools] == ["default/shop:http", "default/shop:http@ipv6"]
    assert [str(each) for each in made.problems] == [
        "Service default/shop: ports sig (2905), x (3868): SCTP is not served; nothing answers there"
    ]
    assert made.problems[0].warning
    assert made.unserved_ports == 2


def test_a01_affinity_belongs_to_the_service_port() -> None:
    """A client that came by another address, or meets the local set, must find its backend again."""
    svc = service(
        "shop",
        "10.96.0.1",
        "fd00::1",
        ports={"a": 80, "b": 81},
        session_affinity="ClientIP",
        affinity_timeout=60,
        internal_local=True,
    )
    at_node = PlanOptions(node_name="here", kinds=frozenset(FrontendKind))
    svc = msgspec.structs.replace(
        svc, ports=tuple(msgspec.structs.replace(each, node_port=30000) for each in svc.ports)
    )
    groups = {each.name: each.affinity for each in plan(svc, options=at_node).pools}
    assert groups == {
        f"default/shop:{port}{suffix}{local}": Affinity(f"default/shop:{port}{suffix}", 60.0)
        for port in "ab"
        for suffix in ("", "@ipv6")
        for local in ("", "@local")
    }
    assert [each.affinity for each in plan(service("shop", "10.96.0.1")).pools] == [None]


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
    parts = ("/balance]: 'best'", "/replay]: 'yes'", "/blance] is not known")
    for problem, part in zip(bad.problems, parts, strict=True):
        assert part in problem.message
        assert problem.warning


def test_unhealthy_backends_stay_in_the_pool_marked() -> None:
    """The engine must keep them to fail open when all of a pool look dead."""
    view = ServiceView(key("shop"), service("shop", "10.96.0.1"), (endpoints("shop", "10.0.0.1", "10.0.0.2"),))
    made = plan_service(view, OPTIONS, lambda pool: {Address("10.0.0.1", 8080)} if pool == "default/shop" else ())
    assert made.pools[0].backends == (Backend("10.0.0.1", 8080, 1, False), Backend("10.0.0.2", 8080, 1, True))
    assert made.frontends[0].verdict is FrontendVerdict.SERVE


def gateway(*listens: Listen, node: str | None = None) -> PlanOptions:
    return PlanOptions(listens=group_listens(listens), node_name=node)


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


def test_an_address_cannot_be_kept_across_families() -> None:
    """Every dial would fail: an IPv6 backend cannot see an IPv4 client's address."""
    options = msgspec.structs.replace(gateway(Listen(ANY, "default", "shop")), masquerade_all=False)
    same = plan(service("shop", "None"), endpoints("shop", "10.0.0.1"), options=options)
    assert same.frontends[0].keep_source == ANY_CLIENT
    other = plan(service("shop", "None"), endpoints("shop", "fd00::1", family="IPv6"), options=options)
    assert other.frontends[0].keep_source == NO_CLIENT


@pytest.mark.parametrize(
    ("svc", "port", "part"),
    [
        (None, None, "Service default/shop does not exist"),
        (service("shop", "10.96.0.1", ports={"a": 1, "b": 2}), None, "has 2 TCP ports (a, b); name exactly one"),
        (service("shop", "10.96.0.1", ports={"a": (1, "UDP"), "b": (2, "UDP")}), None, "has 2 UDP ports (a, b); name"),
        (service("shop", "10.96.0.1", ports={"sig": (2905, "SCTP")}), None, "has no TCP or UDP port"),
        (service("shop", "10.96.0.1", ports={"a": 1}), "b", "has no TCP or UDP port named b; it has: a"),
        (service("shop", type="ExternalName"), None, "is of type ExternalName"),
    ],
)
def test_listens_that_cannot_be_served_say_why(svc: Service | None, port: str | None, part: str) -> None:
    made = plan(svc, options=gateway(Listen(ANY, "default", "shop", port)))
    assert not made.frontends
    assert [problem.subject for problem in made.problems] == ["Frontend 0.0.0.0:8080"]
    assert part in made.problems[0].message
    assert not made.problems[0].warning


@pytest.mark.parametrize("name", ["dns", None])
def test_listens_may_name_udp_ports(name: str | None) -> None:
    """A gateway in front of DNS would answer nobody."""
    svc = service("shop", "10.96.0.1", ports={"dns": (53, "UDP")})
    slices = endpoints("shop", "10.0.0.1", ports={"dns": (53, "UDP")})
    made = plan(svc, slices, options=gateway(Listen(ANY, "default", "shop", name)))
    assert [each.key for each in made.frontends] == [FrontendKey(ANY, Protocol.UDP)]
    assert made.pools[0].protocol is Protocol.UDP
    both = service("shop", "10.96.0.1", ports={"dns": (53, "UDP"), "tcp": 53})
    made = plan(both, slices, options=gateway(Listen(ANY, "default", "shop", name)))
    assert [each.key.protocol for each in made.frontends] == [Protocol.UDP if name else Protocol.TCP]


def test_local_policies_need_a_node() -> None:
    """On a laptop, or in a gateway, no endpoint is local: clients of such a Service would all be sent away."""
    svc = service("shop", "10.96.0.1", internal_local=True)
    slices = endpoints("shop", msgspec.structs.replace(R, node="here"), ready("10.0.0.9"))
    assert hosts(plan(svc, slices)) == ["10.0.0.1", "10.0.0.9"]
    assert hosts(plan(svc, slices, options=gateway(Listen(ANY, "default", "shop")))) == ["10.0.0.1", "10.0.0.9"]
    for options in (PlanOptions(node_name="here"), gateway(Listen(ANY, "default", "shop"), node="here")):
        made = plan(svc, slices, options=options)
        assert [each.name for each in made.pools] == ["default/shop@local"]
        assert hosts(made, "default/shop@local") == ["10.0.0.1"]


def test_embedded_pools_keep_their_port_without_backends() -> None:
    """A program that starts its backends later must not lose its port meanwhile."""
    made = plan_embedded(EmbeddedPool("web", ANY, ()), nobody)
    assert made.frontends == (Frontend(ANY, "web", FrontendVerdict.SERVE, keep_open=True),)
    assert pool_owner("web") == made.key


@pytest.mark.parametrize(
    "name",
    ["default/shop", "default/shop:http", "default/shop:http@ipv6", "default/shop@ipv4", "default/shop:a@ipv6@local"],
)
def test_pool_names_lead_back_to_their_service(name: str) -> None:
    """Health verdicts name pools; a wrong owner would leave a dead Pod in use."""
    assert pool_owner(name) == key("shop")


def test_options_come_from_the_settings() -> None:
    listen = Listen(ANY, "default", "shop")
    health = HealthCheck(kind="tcp")
    options = PlanOptions.of(Settings(listens=(listen,), balance=Balance.RANDOM, endpoint_drain=3.0, health=health))
    assert options.listens == {key("shop"): (listen,)}
    assert options.tuning == Tuning(Balance.RANDOM, drain=3.0, health=health)
    assert PlanOptions.of(Settings()) == PlanOptions(), "what `check` plans with is what `run` does without flags"


def tproxy(name: str | None = " Node-1 ", **more: Any) -> PlanOptions:
    return PlanOptions.of(
        Settings(capture=CaptureSettings(CaptureMode.TPROXY, **more), node=NodeSettings(name, proxy_name="mine"))
    )


def test_options_of_a_node_agent() -> None:
    options = tproxy(cluster_cidrs=("10.0.0.0/8", "10.1.0.0/16"), masquerade_all=True, external_ips=False)
    assert options.node_name == "node-1", "E-07"
    assert tproxy(None).node_name == "", "nothing is local, as with kube-proxy"
    assert (options.kinds, options.proxy_name) == (frozenset(FrontendKind), "mine")
    assert (options.masquerade_all, options.external_ips) == (True, False)
    assert not tproxy().masquerade_all


@pytest.mark.parametrize(
    ("rule", "capture", "unknown", "known"),
    [
        ("ClusterCIDR without a CIDR", {}, set(), set()),
        ("ClusterCIDR of one family", {"cluster_cidrs": ("fd00::/48",)}, {"IPv6"}, {"IPv6"}),
        ("NodeCIDR", {"detect_local": DetectLocal.NODE_CIDR, "cluster_cidrs": ("fd00::/48",)}, set(), {"IPv4"}),
        ("BridgeInterface", {"detect_local": DetectLocal.BRIDGE_INTERFACE}, {"IPv4", "IPv6"}, {"IPv4", "IPv6"}),
    ],
)
def test_m01_families_with_a_detector(rule: str, capture: dict[str, Any], unknown: set[str], known: set[str]) -> None:
    """Without a detector, addresses of clients of a ClusterIP are kept; a wrong guess hides them all."""
    options = tproxy(**capture)
    node = Node(ObjectKey("", "node-1"), "zone-a", ("192.168.0.2",), ("10.1.2.0/24",))
    at_node = options.at_node(node)
    assert options.detector == frozenset(unknown), rule
    assert at_node.detector == frozenset(known), rule
    assert (at_node.zone, at_node.node_addresses) == ("zone-a", ("192.168.0.2",))
    assert at_node.at_node(None) == options, "what a Node said does not outlive it"
