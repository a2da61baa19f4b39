"""What the store makes of single facts. Its laws are in tests/property/test_store.py."""

from __future__ import annotations

import msgspec

from spliceway.model import (
    Address,
    Delete,
    Gone,
    Keep,
    Kind,
    ListEnd,
    ListStart,
    ObjectKey,
    Problem,
    Problems,
    Synced,
    Target,
    Upsert,
    Verdict,
)
from spliceway.store import Store
from support.objects import endpoints, key, node, service, upserts

SHOP, SHOP_PODS = service("shop", "10.96.0.1"), endpoints("shop.0", "10.0.0.1")


def test_only_what_changed_is_dirty() -> None:
    """E-11: re-delivery (a relist, a resync) of ten thousand Services must not plan ten thousand Services."""
    store = Store()
    assert store.fold(upserts([SHOP, SHOP_PODS])) == {key("shop")}
    assert store.fold(upserts([SHOP, SHOP_PODS])) == set()
    assert store.fold([Delete("api", Kind.ENDPOINT_SLICE, key("never-seen"))]) == set()
    assert store.fold(upserts([endpoints("shop.1", "10.0.0.2")])) == {key("shop")}
    assert store.fold([Delete("api", Kind.ENDPOINT_SLICE, key("shop.0"))]) == {key("shop")}
    assert [each.key.name for each in store.view(key("shop")).slices] == ["shop.1"]


def test_w14_slices_wait_for_their_service() -> None:
    store = Store()
    store.fold(upserts([SHOP_PODS]))
    assert store.view(key("shop")) == (key("shop"), None, (SHOP_PODS,))
    store.fold(upserts([SHOP]))
    assert store.view(key("shop")).service is SHOP
    store.fold([Delete("api", Kind.SERVICE, key("shop"))])
    assert store.view(key("shop")) == (key("shop"), None, (SHOP_PODS,))


def test_e12_a_slice_whose_label_changes_leaves_its_old_service() -> None:
    """Otherwise clients of the old Service reach Pods of the new one for ever."""
    store = Store()
    store.fold(upserts([SHOP_PODS]))
    assert store.fold(upserts([msgspec.structs.replace(SHOP_PODS, service="blog")])) == {key("shop"), key("blog")}
    assert store.view(key("shop")).slices == ()
    assert len(store.view(key("blog")).slices) == 1


def test_an_object_in_two_files_counts_once_and_is_named() -> None:
    """Whichever file is read last must not decide: the same files always give the same state."""
    other = service("shop", "10.96.0.2")
    for order in (("a.yaml", "b.yaml"), ("b.yaml", "a.yaml")):
        store = Store()
        for origin in order:
            store.fold([Upsert(origin, SHOP if origin == "a.yaml" else other)])
        assert store.view(key("shop")).service == SHOP
        (problem,) = store.problems()
        assert problem.subject == "Service default/shop"
        assert "a.yaml" in problem.message
        assert "b.yaml" in problem.message
        assert store.fold([Gone("a.yaml")]) == {key("shop")}
        assert store.view(key("shop")).service == other
        assert store.problems() == ()


def test_a_relist_deletes_what_it_does_not_name() -> None:
    store = Store()
    store.fold(upserts([SHOP, SHOP_PODS, service("old", "10.96.0.9")]))
    dirty = store.fold([ListStart("api", Kind.SERVICE), Upsert("api", SHOP), ListEnd("api", Kind.SERVICE)])
    assert dirty == {key("old")}
    assert store.view(key("old")).service is None
    assert store.view(key("shop")).slices == (SHOP_PODS,), "slices were not listed, so they stay"


def test_a_relist_deletes_nothing_that_is_there_but_cannot_be_read() -> None:
    """One odd field of a Service would take it away at the next relist, and its clients would be refused."""
    store = Store()
    store.fold(upserts([SHOP, SHOP_PODS]))
    for kind, name in ((Kind.SERVICE, "shop"), (Kind.ENDPOINT_SLICE, "shop.0")):
        assert store.fold([ListStart("api", kind), Keep("api", kind, key(name)), ListEnd("api", kind)]) == set()
    assert store.view(key("shop")) == (key("shop"), SHOP, (SHOP_PODS,))
    assert store.fold([Keep("api", Kind.SERVICE, key("never-seen"))]) == set()
    assert store.counts() == (1, 1, 0)
    assert store.fold([ListStart("api", Kind.SERVICE), ListEnd("api", Kind.SERVICE)]) == {key("shop")}


def test_a_change_of_nothing_that_is_used_plans_nothing() -> None:
    """A controller that writes the status of ten thousand Services would have all of them planned."""
    store = Store()
    store.fold(upserts([msgspec.structs.replace(SHOP, resource_version="1")]))
    assert store.fold(upserts([msgspec.structs.replace(SHOP, resource_version="2")])) == set()
    found = store.view(key("shop")).service
    assert found is not None
    assert found.resource_version == "2"
    assert store.fold(upserts([msgspec.structs.replace(SHOP, ingress_ips=("198.51.100.1",))])) == {key("shop")}


def test_the_node_is_told_and_makes_no_service_dirty() -> None:
    """The agent would not know its zone and addresses, or plan everything at each of kubelet's reports."""
    store = Store(("nodes",))
    assert store.node is None
    first, second = node("worker-1", "192.0.2.7"), node("worker-1", "192.0.2.7", zone="eu-1a")
    assert store.fold([*upserts([SHOP, first]), Synced("nodes")]) == {key("shop")}
    assert store.synced
    assert store.node is first
    assert store.fold(upserts([second])) == set()
    assert store.node is second
    assert store.counts() == (1, 0, 0)
    assert (
        store.fold([ListStart("api", Kind.NODE), Keep("api", Kind.NODE, second.key), ListEnd("api", Kind.NODE)])
        == set()
    )
    assert store.node is second
    assert store.fold([Delete("api", Kind.NODE, second.key)]) == set()
    assert store.node is None
    store.fold(upserts([first]))
    assert store.fold([ListStart("api", None), *upserts([SHOP]), ListEnd("api", None)]) == set()
    assert store.node is None


def test_a_node_in_two_files_is_named() -> None:
    store = Store()
    store.fold([Upsert("b.yaml", node("worker-1", "192.0.2.8")), Upsert("a.yaml", node("worker-1", "192.0.2.7"))])
    assert store.node == node("worker-1", "192.0.2.7")
    (problem,) = store.problems()
    assert problem.subject == "Node worker-1"


def test_a_vanished_file_takes_its_problems_along() -> None:
    store = Store()
    store.fold([Problems("a.yaml", (Problem("Service default/shop", "spec.ports: is empty", "a.yaml", 3),))])
    assert len(store.problems()) == 1
    store.fold([Gone("a.yaml")])
    assert store.problems() == ()


def test_synced_waits_for_every_name() -> None:
    """Planning before the slices are known would refuse every client at start (U-30)."""
    store = Store(("services", "endpointslices"))
    store.fold([Synced("services"), Synced("services")])
    assert not store.synced
    store.fold([Synced("endpointslices")])
    assert store.synced
    assert Store().synced


def test_verdicts_mark_the_plan_that_they_change() -> None:
    store = Store()
    backend = Address("10.0.0.1", 8080)
    sick = Verdict(Target("default/shop:http@ipv6", backend), False, "connection refused")
    assert store.fold_verdicts([sick]) == {key("shop")}
    assert store.fold_verdicts([sick]) == set()
    assert store.unhealthy("default/shop:http@ipv6") == {backend}
    assert store.unhealthy("default/shop:http") == frozenset()
    assert store.counts().unhealthy == 1
    assert store.fold_verdicts([msgspec.structs.replace(sick, healthy=True)]) == {key("shop")}
    assert store.counts() == (0, 0, 0)
    assert store.fold_verdicts([Verdict(Target("web", backend), False)]) == {ObjectKey("", "web")}
