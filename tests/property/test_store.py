"""Laws of the store. A failure means that after some order of events the proxy serves what does not exist any more."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from spliceway.model import (
    Delete,
    EndpointSlice,
    Fact,
    Gone,
    Kind,
    KubernetesObject,
    ListEnd,
    ListStart,
    Service,
    Upsert,
)
from spliceway.store import ServiceView, Store
from support.objects import endpoints, service

ORIGINS = st.sampled_from(["a.yaml", "b.yaml", "api"])
NAMES = st.sampled_from(["blog", "shop", "wiki"])
SERVICES = st.builds(service, NAMES, st.sampled_from(["10.96.0.1", "10.96.0.2"]))
SLICES = st.builds(
    lambda name, number, ip, of: endpoints(f"{name}.{number}", ip, of=of),
    NAMES,
    st.integers(0, 1),
    st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    NAMES,
)
OBJECTS: st.SearchStrategy[KubernetesObject] = SERVICES | SLICES


def kind_of(obj: KubernetesObject) -> Kind:
    return Kind.SERVICE if isinstance(obj, Service) else Kind.ENDPOINT_SLICE


def listing_of(origin: str, kind: Kind | None, objects: list[KubernetesObject]) -> tuple[Fact, ...]:
    named = (Upsert(origin, obj) for obj in objects if kind in (None, kind_of(obj)))
    return (ListStart(origin, kind), *named, ListEnd(origin, kind))


KINDS = st.none() | st.sampled_from(Kind)
LISTS = st.builds(listing_of, ORIGINS, KINDS, st.lists(OBJECTS, max_size=4))


def single(fact: Fact) -> tuple[Fact, ...]:
    return (fact,)


UPSERTS = st.builds(Upsert, ORIGINS, OBJECTS).map(single)
DELETES = st.builds(lambda origin, obj: Delete(origin, kind_of(obj), obj.key), ORIGINS, OBJECTS).map(single)
GONE = st.builds(Gone, ORIGINS).map(single)
FACTS: st.SearchStrategy[tuple[Fact, ...]] = st.one_of(UPSERTS, DELETES, GONE, LISTS)

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
                for each in [each for each in told if each[0] == origin and kind in (None, each[1])]:
                    if (each[1], each[2]) not in named:
                        del told[each]
            case _:
                pass


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
            assert (view.key in dirty) >= (view != before[name]), "a changed Service must be planned again"
    store.fold([Gone(origin) for origin in ("a.yaml", "b.yaml", "api")])
    assert store.counts() == (0, 0, 0)
    assert store.problems() == ()
    assert not store._slices_of, "nothing is kept of what is gone"


@settings(deadline=None)
@given(st.lists(FACTS, max_size=10), LISTS)
def test_a_list_means_the_same_after_any_history(history: list[tuple[Fact, ...]], listing: tuple[Fact, ...]) -> None:
    """The relist law: a complete list of an origin makes its past irrelevant, so 410 and reconnects lose nothing."""
    start = listing[0]
    assert isinstance(start, ListStart)
    whole = (ListStart(start.origin, None), *listing[1:-1], ListEnd(start.origin, None))
    used, fresh = Store(), Store()
    for batch in history:
        used.fold(batch)
    for other in {"a.yaml", "b.yaml", "api"} - {start.origin}:
        used.fold([Gone(other)])
    used.fold(whole)
    fresh.fold(whole)
    for name in ("blog", "shop", "wiki"):
        assert used.view(service(name).key) == fresh.view(service(name).key)
    assert used.counts() == fresh.counts()
