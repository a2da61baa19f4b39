"""Laws of the store. A failure means that after some order of events the proxy serves what does not exist any more."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceway.model import (
    Delete,
    EndpointSlice,
    Fact,
    Gone,
    Keep,
    Kind,
    KubernetesObject,
    ListEnd,
    ListStart,
    Service,
    Upsert,
    kind_of,
)
from spliceway.store import ServiceView, Store
from support.objects import endpoints, node, service

ORIGINS = st.sampled_from(["a.yaml", "b.yaml", "api"])
NAMES = st.sampled_from(["blog", "shop", "wiki"])
VERSIONS = st.sampled_from(["1", "2"])
SERVICES = st.builds(service, NAMES, st.sampled_from(["10.96.0.1", "10.96.0.2"]), resource_version=VERSIONS)
NODES = st.builds(node, st.just("worker-1"), st.sampled_from(["192.0.2.7", "192.0.2.8"]), resource_version=VERSIONS)
SLICES = st.builds(
    lambda name, number, ip, of: endpoints(f"{name}.{number}", ip, of=of),
    NAMES,
    st.integers(0, 1),
    st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    NAMES,
)
OBJECTS: st.SearchStrategy[KubernetesObject] = SERVICES | SLICES | NODES


def listing_of(
    origin: str, kind: Kind | None, objects: list[KubernetesObject], kept: list[KubernetesObject]
) -> tuple[Fact, ...]:
    named = (Upsert(origin, obj) for obj in objects if kind in (None, kind_of(obj)))
    unreadable = (Keep(origin, kind_of(obj), obj.key) for obj in kept if kind in (None, kind_of(obj)))
    return (ListStart(origin, kind), *named, *unreadable, ListEnd(origin, kind))


KINDS = st.none() | st.sampled_from(Kind)
LISTS = st.builds(listing_of, ORIGINS, KINDS, st.lists(OBJECTS, max_size=4), st.lists(OBJECTS, max_size=2))
READABLE_LISTS = st.builds(listing_of, ORIGINS, KINDS, st.lists(OBJECTS, max_size=4), st.just([]))


def single(fact: Fact) -> tuple[Fact, ...]:
    return (fact,)


UPSERTS = st.builds(Upsert, ORIGINS, OBJECTS).map(single)
KEEPS = st.builds(lambda origin, obj: Keep(origin, kind_of(obj), obj.key), ORIGINS, OBJECTS).map(single)
DELETES = st.builds(lambda origin, obj: Delete(origin, kind_of(obj), obj.key), ORIGINS, OBJECTS).map(single)
GONE = st.builds(Gone, ORIGINS).map(single)
FACTS: st.SearchStrategy[tuple[Fact, ...]] = st.one_of(UPSERTS, DELETES, KEEPS, GONE, LISTS)

Told = dict[tuple[str, Kind, object], KubernetesObject]


def tell(told: Told, batch: tuple[Fact, ...]) -> None:
    """The meaning of facts, the slow and obvious way."""
    for fact in batch:
        match fact:
            case Upsert(origin=origin, object=obj):
                told[origin, kind_of(obj), obj.key] = obj
            case Delete(origin=origin, kind=kind, key=key):
                told.pop((origin, kind, key), None)
            case Gone(origin=origin):
                for each in [each for each in told if each[0] == origin]:
                    del told[each]
            case ListStart(origin=origin, kind=kind):
                named = {(kind_of(each.object), each.object.key) for each in batch if isinstance(each, Upsert)}
                named |= {(each.kind, each.key) for each in batch if isinstance(each, Keep)}
                for each in [each for each in told if each[0] == origin and kind in (None, each[1])]:
                    if (each[1], each[2]) not in named:
                        del told[each]
            case _:
                pass


def node_of(told: Told) -> KubernetesObject | None:
    """What the first origin in order says of the Node."""
    return next(
        (obj for (_, kind, _), obj in sorted(told.items(), key=lambda item: item[0][0]) if kind is Kind.NODE), None
    )


def used(view: ServiceView) -> ServiceView:
    """A view without what nothing is planned by."""
    return view._replace(service=view.service and msgspec.structs.replace(view.service, resource_version=""))


def views(told: Told) -> dict[str, ServiceView]:
    """For each name, what the first origin in order says."""
    won: dict[tuple[Kind, object], KubernetesObject] = {}
    for (_, kind, key), obj in sorted(told.items(), key=lambda item: item[0][0], reverse=True):
        won[kind, key] = obj
    result = {}
    for name in ("blog", "shop", "wiki"):
        key = service(name).key
        svc = won.get((Kind.SERVICE, key))
        pieces = [obj for obj in won.values() if isinstance(obj, EndpointSlice) and obj.service == name]
        assert svc is None or isinstance(svc, Service)
        result[name] = ServiceView(key, svc, tuple(sorted(pieces, key=lambda piece: piece.key)))
    return result


@settings(deadline=None)
@given(st.lists(FACTS, max_size=25))
def test_any_order_of_facts_gives_what_was_told_last_and_names_what_changed(batches: list[tuple[Fact, ...]]) -> None:
    store, told = Store(), Told()
    for batch in batches:
        before = views(told)
        dirty = store.fold(batch)
        tell(told, batch)
        after = views(told)
        for name, view in after.items():
            assert store.view(view.key) == view
            assert (view.key in dirty) >= (used(view) != used(before[name])), "a changed Service must be planned again"
        assert store.node == node_of(told)
        assert all(key.namespace for key in dirty), "a Node is no Service"
    store.fold([Gone(origin) for origin in ("a.yaml", "b.yaml", "api")])
    assert store.counts() == (0, 0, 0)
    assert store.problems() == ()
    assert store.node is None
    assert not store._slices_of, "nothing is kept of what is gone"


@settings(deadline=None)
@given(st.lists(FACTS, max_size=10), READABLE_LISTS)
def test_a_list_means_the_same_after_any_history(history: list[tuple[Fact, ...]], listing: tuple[Fact, ...]) -> None:
    """The relist law: a complete list of an origin makes its past irrelevant, so 410 and reconnects lose nothing."""
    start = listing[0]
    assert isinstance(start, ListStart)
    whole = (ListStart(start.origin, None), *listing[1:-1], ListEnd(start.origin, None))
    old, fresh = Store(), Store()
    for batch in history:
        old.fold(batch)
    for other in {"a.yaml", "b.yaml", "api"} - {start.origin}:
        old.fold([Gone(other)])
    old.fold(whole)
    fresh.fold(whole)
    for name in ("blog", "shop", "wiki"):
        assert old.view(service(name).key) == fresh.view(service(name).key)
    assert old.counts() == fresh.counts()
    assert old.node == fresh.node
