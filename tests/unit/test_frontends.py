"""Which addresses a Service asks for, and who may come there. A failure leaves one dead, or open to everybody."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from spliceway.model import (
    ANY_CLIENT,
    NO_CLIENT,
    Address,
    ClientClass,
    Frontend,
    FrontendKey,
    FrontendKind,
    FrontendVerdict,
    HealthNodePort,
    Protocol,
    Service,
    ServicePlan,
    ServicePortSpec,
    SliceEndpoint,
)
from spliceway.plan.service import PlanOptions
from support.clients import EXT, POD, VIP, everywhere, meets, node_options, plan_of
from support.objects import endpoints, key, service

BOTH = ("10.96.0.1", "fd00::1")
KEPT_OUTSIDE = ClientClass.POD | ClientClass.EXT


def shop(**more: Any) -> Service:
    """A dual-stack Service with every kind of frontend in both families."""
    fields: dict[str, Any] = {
        "type": "LoadBalancer",
        "external_ips": ("198.51.100.7", "2001:db8::7"),
        "ingress_ips": ("5.6.7.8", "2001:db8::8"),
        **more,
    }
    return msgspec.structs.replace(
        service("shop", *fields.pop("cluster_ips", BOTH)),
        ports=(ServicePortSpec("", Protocol.TCP, 80, 30080),),
        **fields,
    )


def keys(plan: ServicePlan) -> list[tuple[str, FrontendKind]]:
    return [(str(each.key), each.kind) for each in plan.frontends]


def find(plan: ServicePlan, address: str) -> Frontend:
    return next(each for each in plan.frontends if each.address == Address.parse(address))


def test_every_kind_of_frontend_in_every_family() -> None:
    assert keys(plan_of(shop())) == [
        ("10.96.0.1:80", FrontendKind.CLUSTER_IP),
        ("5.6.7.8:80", FrontendKind.LOAD_BALANCER),
        ("198.51.100.7:80", FrontendKind.EXTERNAL_IP),
        ("0.0.0.0:30080", FrontendKind.NODE_PORT),
        ("[fd00::1]:80", FrontendKind.CLUSTER_IP),
        ("[2001:db8::8]:80", FrontendKind.LOAD_BALANCER),
        ("[2001:db8::7]:80", FrontendKind.EXTERNAL_IP),
        ("[::]:30080", FrontendKind.NODE_PORT),
    ]


def test_s04_a_family_without_a_cluster_ip_has_nothing() -> None:
    assert {each.address.host for each in plan_of(shop(cluster_ips=("10.96.0.1",))).frontends} == {
        "10.96.0.1",
        "5.6.7.8",
        "198.51.100.7",
        "0.0.0.0",
    }


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort", "LoadBalancer", "anything"])
def test_s03_the_type_does_not_decide_what_is_asked_for(kind: str) -> None:
    """A stale load-balancer status keeps working until its controller clears it."""
    assert len(plan_of(shop(type=kind)).frontends) == 8


def test_s05_external_ips_can_be_turned_off() -> None:
    """Whoever may write Services could take over any address otherwise."""
    kinds = {kind for _, kind in keys(plan_of(shop(), options=node_options(external_ips=False)))}
    assert FrontendKind.EXTERNAL_IP not in kinds
    assert len(kinds) == 3
    # nothing from outside is left, so no pool of local endpoints is needed (S-11)
    bare = msgspec.structs.replace(service("shop", "10.96.0.1", external_local=True), external_ips=("198.51.100.7",))
    made = plan_of(bare, endpoints("shop", "10.0.0.1"), options=node_options(external_ips=False))
    assert [each.name for each in made.pools] == ["default/shop"]


def test_bind_serves_cluster_ips_only_and_keeps_no_address() -> None:
    """An ordinary socket on a NodePort would take the port from the node."""
    made = plan_of(shop(), endpoints("shop", "10.0.0.1"), options=PlanOptions())
    assert [each.kind for each in made.frontends] == [FrontendKind.CLUSTER_IP] * 2
    assert {each.keep_source for each in made.frontends} == {NO_CLIENT}


def test_an_address_that_is_both_is_the_load_balancers() -> None:
    """Otherwise its source ranges could be walked around."""
    made = plan_of(shop(external_ips=("5.6.7.8",), source_ranges=("203.0.113.0/25",)))
    assert find(made, "5.6.7.8:80").kind is FrontendKind.LOAD_BALANCER
    assert find(made, "5.6.7.8:80").sources
    assert not [each for each in made.problems if "twice" in each.message]


@pytest.mark.parametrize(
    ("rule", "kind", "external_ips", "counts"),
    [
        ("LoadBalancer", "LoadBalancer", (), True),
        ("NodePort", "NodePort", (), True),
        ("ClusterIP with external IPs", "ClusterIP", ("198.51.100.7",), True),
        ("ClusterIP without", "ClusterIP", (), False),
    ],
)
def test_s10_where_external_traffic_policy_local_counts(
    rule: str, kind: str, external_ips: tuple[str, ...], counts: bool
) -> None:
    made = plan_of(shop(type=kind, external_ips=external_ips, external_local=True), endpoints("shop", "10.0.0.1"))
    frontend = find(made, "5.6.7.8:80")
    assert (frontend.external is not None) == counts, rule
    assert frontend.keep_source == (KEPT_OUTSIDE if counts else NO_CLIENT)
    assert ("default/shop@local" in {each.name for each in made.pools}) == counts


def test_m09_whose_address_is_kept() -> None:
    """Too few: backends log the node's address. Too many: replies go past this node, and connections hang."""

    def kept(**more: Any) -> tuple[ClientClass, ClientClass]:
        made = plan_of(shop(external_local=True), options=node_options(**more))
        return find(made, "10.96.0.1:80").keep_source, find(made, "[fd00::1]:80").keep_source

    assert kept(cidrs=("10.0.0.0/8",)) == (ClientClass.POD, ANY_CLIENT)
    assert kept(cidrs=("10.0.0.0/8", "fd00:1::/48")) == (ClientClass.POD, ClientClass.POD)
    assert kept(masquerade_all=True) == (NO_CLIENT, NO_CLIENT)
    made = plan_of(shop(external_local=True), options=node_options(masquerade_all=True))
    assert find(made, "0.0.0.0:30080").keep_source == KEPT_OUTSIDE, "M-06"


# --- source ranges --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "ranges", "four", "six", "warnings"),
    [
        ("none", (), (), (), 0),
        ("split by family", ("203.0.113.0/25", "2001:db8:1::/64"), ("203.0.113.0/25",), ("2001:db8:1::/64",), 0),
        ("S-07 everybody", ("203.0.113.0/25", "0.0.0.0/0", "2001:db8:1::/64"), (), ("2001:db8:1::/64",), 0),
        ("S-07 none of the family: unfiltered, and told", ("203.0.113.0/25",), ("203.0.113.0/25",), (), 1),
    ],
)
def test_s07_source_ranges(
    rule: str, ranges: tuple[str, ...], four: tuple[str, ...], six: tuple[str, ...], warnings: int
) -> None:
    made = plan_of(shop(source_ranges=ranges), endpoints("shop", "10.0.0.1"), options=node_options())
    assert find(made, "5.6.7.8:80").sources == four, rule
    assert find(made, "[2001:db8::8]:80").sources == six, rule
    others = [each for each in made.frontends if each.kind is not FrontendKind.LOAD_BALANCER]
    assert not any(each.sources for each in others), "T-17, D-11"
    assert len(made.problems) == warnings
    for problem in made.problems:
        assert str(problem) == (
            "Service default/shop: spec.loadBalancerSourceRanges has no IPv6 range, so everybody may reach "
            "2001:db8::8, as with kube-proxy; add a range of that family"
        )
        assert problem.warning


@pytest.mark.parametrize(
    ("rule", "nodes", "ranges", "sources"),
    [
        ("in no range", ("192.168.9.9",), ("192.168.0.0/24",), ("192.168.0.0/24",)),
        ("in one", ("192.168.0.2",), ("192.168.0.0/24",), ("192.168.0.0/24", "5.6.7.8/32")),
        ("the VIP is listed already", ("5.6.7.8",), ("5.6.7.8/32",), ("5.6.7.8/32",)),
        ("only of the other family", ("fd00::2",), ("192.168.0.0/24",), ("192.168.0.0/24",)),
        ("unknown node: loopback", (), ("127.0.0.0/8",), ("127.0.0.0/8", "5.6.7.8/32")),
    ],
)
def test_t19_the_vip_itself_may_come_where_the_node_may(
    rule: str, nodes: tuple[str, ...], ranges: tuple[str, ...], sources: tuple[str, ...]
) -> None:
    """The node's own processes could not reach a VIP that is bound to it."""
    made = plan_of(shop(source_ranges=ranges), options=node_options(node_addresses=nodes))
    assert find(made, "5.6.7.8:80").sources == sources, rule


def test_t20_blocked_sources_are_dropped_even_without_endpoints() -> None:
    svc = everywhere(service("shop", source_ranges=("203.0.113.0/25",)))
    made = plan_of(svc)
    assert meets(made, VIP, EXT, "203.0.113.2").hosts == "REJECT"
    assert meets(made, VIP, EXT, "203.0.113.200").hosts == "DROP"


# --- verdicts ---------------------------------------------------------------------------------------------------------


def at(host: str, node: str | None, **more: Any) -> SliceEndpoint:
    return SliceEndpoint(host, node=node, **more)


@pytest.mark.parametrize(
    ("rule", "given", "verdict", "counted"),
    [
        ("local ones serve", [at("10.0.0.1", "here")], FrontendVerdict.SERVE, 0),
        ("T-15 others only: dropped", [at("10.0.0.1", "there")], FrontendVerdict.DROP, 1),
        (
            "T-16 a terminating one elsewhere counts",
            [at("10.0.0.1", "there", ready=False, terminating=True)],
            "drop",
            1,
        ),
        ("T-04 one that is of no use does not", [at("10.0.0.1", "here", ready=False)], FrontendVerdict.REJECT, 0),
        ("T-15 none anywhere: refused", [], FrontendVerdict.REJECT, 0),
    ],
)
def test_t15_internal_policy_local(rule: str, given: list[SliceEndpoint], verdict: str, counted: int) -> None:
    svc = service("shop", *BOTH, internal_local=True)
    made = plan_of(svc, endpoints("shop", *given))
    assert find(made, "10.96.0.1:80").verdict == verdict, rule
    assert find(made, "[fd00::1]:80").verdict == "reject", "the families are two service ports (W-26)"
    assert (made.no_local_internal, made.no_local_external) == (counted, 0), "N-08"


def test_t12_policies_combine_freely() -> None:
    """ITP=Local with a NodePort of ETP=Cluster still serves outside clients from every node."""
    made = plan_of(shop(internal_local=True), endpoints("shop", at("10.0.0.1", "there")))
    assert find(made, "10.96.0.1:80").verdict is FrontendVerdict.DROP
    assert (find(made, "0.0.0.0:30080").verdict, find(made, "0.0.0.0:30080").external) == (FrontendVerdict.SERVE, None)
    both = plan_of(shop(internal_local=True, external_local=True), endpoints("shop", at("10.0.0.1", "there")))
    assert (both.no_local_internal, both.no_local_external) == (1, 1)
    assert meets(both, Address("5.6.7.8", 80), POD).hosts == "10.0.0.1", "T-14"
    pending = service("shop", "10.96.0.1", type="LoadBalancer", internal_local=True, external_local=True)
    made = plan_of(pending, endpoints("shop", at("10.0.0.1", "there")))
    assert (made.no_local_internal, made.no_local_external) == (1, 0), "S-11: nobody can come from outside so far"


# --- weights and UDP ------------------------------------------------------------------------------------------------


def weighted(name: str, weight: str, *addresses: str | SliceEndpoint, **more: Any) -> Any:
    return msgspec.structs.replace(endpoints(name, *addresses, **more), tuning=(("weight", weight),))


def test_slices_may_have_a_weight() -> None:
    """A canary at 5 % would get half of the clients."""
    made = plan_of(service("shop", "10.96.0.1"), weighted("shop.a", "5", "10.0.0.1"), endpoints("shop.b", "10.0.0.2"))
    assert [(each.host, each.weight) for each in made.pools[0].backends] == [("10.0.0.1", 5), ("10.0.0.2", 1)]
    assert made.problems == ()
    moved = plan_of(
        service("shop", "10.96.0.1"),
        msgspec.structs.replace(weighted("shop.a", "5", "10.0.0.1"), resource_version="9"),
        msgspec.structs.replace(endpoints("shop.b", "10.0.0.1"), resource_version="10"),
    )
    assert [each.weight for each in moved.pools[0].backends] == [1], "E-09: the newest slice counts, with its weight"


@pytest.mark.parametrize(
    ("rule", "given", "inside", "outside"),
    [
        ("nothing takes clients anywhere", [("0", "here"), ("0", "there")], "REJECT", "REJECT"),
        ("another node's do", [("0", "here"), ("7", "there")], "10.0.0.2", "DROP"),
    ],
)
def test_endpoints_without_weight_take_nobody(
    rule: str, given: list[tuple[str, str]], inside: str, outside: str
) -> None:
    """Clients would be accepted and then reset; refused at once, they try elsewhere."""
    svc = everywhere(service("shop", external_local=True))
    slices = [
        weighted(f"shop.{number}", weight, at(f"10.0.0.{number}", node))
        for number, (weight, node) in enumerate(given, 1)
    ]
    made = plan_of(svc, *slices)
    assert (meets(made, VIP, POD).hosts, meets(made, VIP, EXT).hosts) == (inside, outside), rule


def test_terminating_endpoints_do_not_stand_in_for_ready_ones_without_weight() -> None:
    """Nobody is served then, so clients must be refused and not left to time out."""
    leaving = at("10.0.0.2", "there", ready=False, terminating=True)
    svc = everywhere(service("shop", external_local=True))
    made = plan_of(svc, weighted("shop.a", "0", at("10.0.0.1", "there")), endpoints("shop.b", leaving))
    assert (meets(made, VIP, POD).hosts, meets(made, VIP, EXT).hosts) == ("REJECT", "REJECT")


def test_c08_udp_pools_hold_what_still_serves() -> None:
    """A DNS client with a fixed port would lose its answers, or stay with a Pod that is gone."""
    given = [
        at("10.0.0.1", "here"),
        at("10.0.0.2", "there"),
        at("10.0.0.3", "there", ready=False, terminating=True),
        at("10.0.0.4", "here", ready=False),
        at("10.0.0.5", "here", ready=False, serving=False),
    ]
    svc = service("dns", "10.96.0.10", ports={"dns": (53, "UDP")}, internal_local=True)
    (pool,) = plan_of(svc, endpoints("dns", *given, ports={"dns": (53, "UDP")})).pools
    assert [(each.host, each.weight) for each in pool.backends] == [
        ("10.0.0.1", 1),
        ("10.0.0.2", 0),
        ("10.0.0.3", 0),
        ("10.0.0.4", 0),
    ]
    gone = plan_of(svc, endpoints("dns", *given[3:], ports={"dns": (53, "UDP")}))
    assert not gone.pools[0].usable
    assert gone.frontends[0].verdict is FrontendVerdict.REJECT


# --- what goes along ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "fields", "expected"),
    [
        ("S-09", {}, HealthNodePort(32000, 2, 0)),
        ("S-04 one family", {"cluster_ips": ("10.96.0.1",)}, HealthNodePort(32000, 2, None)),
        ("S-09 not with ETP=Cluster", {"external_local": False}, None),
        ("S-09 only LoadBalancer", {"type": "NodePort"}, None),
        ("S-09 zero", {"health_check_node_port": 0}, None),
    ],
)
def test_h03_health_check_node_ports(rule: str, fields: dict[str, Any], expected: HealthNodePort | None) -> None:
    """A load balancer would send clients to nodes without endpoints, or none to those that have some."""
    svc = msgspec.structs.replace(
        shop(**{"external_local": True, "health_check_node_port": 32000, **fields}),
        ports=(ServicePortSpec("a", Protocol.TCP, 80), ServicePortSpec("b", Protocol.TCP, 81)),
    )
    here, there = at("10.0.0.1", "here"), at("10.0.0.2", "there")
    draining = at("10.0.0.3", "here", ready=False, terminating=True)
    two_ports = endpoints("shop.a", here, there, draining, ports={"a": 80, "b": 81})
    one_port = endpoints("shop.b", at("10.0.0.4", "here"), ports={"b": 81})
    assert plan_of(svc, two_ports, one_port).health_node_port == expected, rule


def test_w13_the_latest_trigger_is_told() -> None:
    """The time that a change took to arrive would be measured from an older change."""
    slices = [msgspec.structs.replace(endpoints(f"shop.{each}"), triggered=each) for each in (3.0, 7.5, 0.0)]
    assert plan_of(service("shop", "10.96.0.1"), *slices).triggered == 7.5
    assert plan_of(service("shop", "10.96.0.1")).triggered == 0.0


def test_udp_and_tcp_node_ports_are_told_apart() -> None:
    svc = msgspec.structs.replace(
        service("dns", "10.96.0.10"),
        ports=(ServicePortSpec("u", Protocol.UDP, 53, 30053), ServicePortSpec("t", Protocol.TCP, 53, 30053)),
    )
    wildcard = Address("0.0.0.0", 30053)
    found = [each.key for each in plan_of(svc).frontends if each.kind is FrontendKind.NODE_PORT]
    assert found == [FrontendKey(wildcard, Protocol.UDP), FrontendKey(wildcard, Protocol.TCP)]
    assert plan_of(svc).key == key("dns")
