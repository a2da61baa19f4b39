"""Folds facts of all sources into the present state. Pure: no I/O, no clock.

Objects are kept for each origin (a file's path, or ``api``), so that an origin can vanish or be listed again without
touching what others said. ``fold`` tells which Services have to be planned again, and nothing else is ever walked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

from spliceway.model import (
    Address,
    Delete,
    EndpointSlice,
    Fact,
    Gone,
    Kind,
    KubernetesObject,
    ListEnd,
    ListStart,
    ObjectKey,
    Problem,
    Problems,
    Service,
    Synced,
    Upsert,
    Verdict,
)

_NOTHING: frozenset[Address] = frozenset()


class ServiceView(NamedTuple):
    """What is known of one Service: the object, if it exists, and its slices in the order of their keys."""

    key: ObjectKey
    service: Service | None
    slices: tuple[EndpointSlice, ...]


class StoreCounts(NamedTuple):
    """Sizes of the store."""

    services: int
    slices: int
    unhealthy: int


def pool_owner(pool: str) -> ObjectKey:
    """The key of the plan that pool ``namespace/service[:port][@family]`` belongs to.

    A name without a slash is a pool of an embedding program, whose plan has the namespace "".
    """
    namespace, slash, rest = pool.partition("/")
    if not slash:
        return ObjectKey("", pool)
    return ObjectKey(namespace, rest.partition(":")[0].partition("@")[0])


_Object = TypeVar("_Object", bound=KubernetesObject)


class _Table(Generic[_Object]):
    """All objects of one kind, by the origin that told of them."""

    def __init__(self) -> None:
        self.told: dict[str, dict[ObjectKey, _Object]] = {}
        #: the origin whose word counts
        self.owner: dict[ObjectKey, str] = {}
        #: objects that several origins tell of, with those origins in order
        self.contested: dict[ObjectKey, tuple[str, ...]] = {}
        #: objects that the listing under way of an origin has not named so far
        self.unseen: dict[str, set[ObjectKey]] = {}

    def get(self, key: ObjectKey) -> _Object | None:
        owner = self.owner.get(key)
        return None if owner is None else self.told[owner][key]

    def put(self, origin: str, obj: _Object) -> None:
        key = obj.key
        self.told.setdefault(origin, {})[key] = obj
        if unseen := self.unseen.get(origin):
            unseen.discard(key)
        owner = self.owner.setdefault(key, origin)
        if owner != origin:
            origins = tuple(sorted({*self.contested.get(key, (owner,)), origin}))
            self.contested[key] = origins
            self.owner[key] = origins[0]

    def drop(self, origin: str, key: ObjectKey) -> None:
        told = self.told.get(origin)
        if told is None or told.pop(key, None) is None:
            return
        if not told:
            del self.told[origin]
        if unseen := self.unseen.get(origin):
            unseen.discard(key)
        left = tuple(other for other in self.contested.pop(key, ()) if other != origin)
        if not left:
            del self.owner[key]
            return
        self.owner[key] = left[0]
        if len(left) > 1:
            self.contested[key] = left

    def keys_of(self, origin: str) -> Collection[ObjectKey]:
        return self.told.get(origin, {}).keys()


class Store:
    """The state told so far.

    Args:
        expected: the `Synced` names to wait for; until all were seen, nothing should be planned (U-30).
    """

    def __init__(self, expected: tuple[str, ...] = ()) -> None:
        self._services: _Table[Service] = _Table()
        self._slices: _Table[EndpointSlice] = _Table()
        #: the slices of each Service, also of Services that are not known (W-14)
        self._slices_of: dict[ObjectKey, tuple[ObjectKey, ...]] = {}
        self._waiting = set(expected)
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._unhealthy: dict[str, dict[Address, Verdict]] = {}

    @property
    def synced(self) -> bool:
        """Every source has said everything once."""
        return not self._waiting

    def fold(self, facts: Iterable[Fact]) -> set[ObjectKey]:
        """Take facts in and return the Services whose view changed. What was told already changes nothing (E-11)."""
        dirty: set[ObjectKey] = set()
        for fact in facts:
            match fact:
                case Upsert(origin=origin, object=obj):
                    self._upsert(origin, obj, dirty)
                case Delete(origin=origin, kind=kind, key=key):
                    self._delete(origin, kind, key, dirty)
                case ListStart(origin=origin, kind=kind):
                    self._start_list(origin, kind)
                case ListEnd(origin=origin, kind=kind):
                    self._end_list(origin, kind, dirty)
                case Gone(origin=origin):
                    self._forget_origin(origin, dirty)
                case Synced(source=source):
                    self._waiting.discard(source)
                case Problems(origin=origin, problems=problems):
                    self._set_problems(origin, problems)
        return dirty

    def view(self, key: ObjectKey) -> ServiceView:
        """What is known of Service ``key``."""
        slices = (self._slices.get(name) for name in self._slices_of.get(key, ()))
        return ServiceView(key, self._services.get(key), tuple(one for one in slices if one is not None))

    def fold_verdicts(self, verdicts: Iterable[Verdict]) -> set[ObjectKey]:
        """Take health's verdicts in and return the keys of the plans that they change."""
        dirty: set[ObjectKey] = set()
        for verdict in verdicts:
            pool, backend = verdict.target
            held = self._unhealthy.get(pool, {})
            if verdict.healthy == (backend not in held):
                continue
            if verdict.healthy:
                del held[backend]
            else:
                held[backend] = verdict
            self._set_unhealthy(pool, held)
            dirty.add(pool_owner(pool))
        return dirty

    def unhealthy(self, pool: str) -> frozenset[Address]:
        """The backends of ``pool`` that health has set aside."""
        held = self._unhealthy.get(pool)
        return frozenset(held) if held else _NOTHING

    def problems(self) -> tuple[Problem, ...]:
        """What the sources complain of, and objects that two origins tell of."""
        told = (problem for problems in self._problems.values() for problem in problems)
        return (*told, *_contests(Kind.SERVICE, self._services), *_contests(Kind.ENDPOINT_SLICE, self._slices))

    def counts(self) -> StoreCounts:
        """How much there is."""
        unhealthy = sum(len(held) for held in self._unhealthy.values())
        return StoreCounts(len(self._services.owner), len(self._slices.owner), unhealthy)

    def _table(self, kind: Kind) -> _Table[Service] | _Table[EndpointSlice]:
        return self._services if kind is Kind.SERVICE else self._slices

    def _upsert(self, origin: str, obj: KubernetesObject, dirty: set[ObjectKey]) -> None:
        if isinstance(obj, Service):
            before = self._services.get(obj.key)
            self._services.put(origin, obj)
            if self._services.get(obj.key) != before:
                dirty.add(obj.key)
            return
        old = self._slices.get(obj.key)
        self._slices.put(origin, obj)
        self._moved(old, self._slices.get(obj.key), dirty)

    def _delete(self, origin: str, kind: Kind, key: ObjectKey, dirty: set[ObjectKey]) -> None:
        if kind is Kind.SERVICE:
            before = self._services.get(key)
            self._services.drop(origin, key)
            if self._services.get(key) != before:
                dirty.add(key)
            return
        old = self._slices.get(key)
        self._slices.drop(origin, key)
        self._moved(old, self._slices.get(key), dirty)

    def _start_list(self, origin: str, kind: Kind | None) -> None:
        for one in _kinds(kind):
            table = self._table(one)
            table.unseen[origin] = set(table.keys_of(origin))

    def _end_list(self, origin: str, kind: Kind | None, dirty: set[ObjectKey]) -> None:
        """What the listing did not name does not exist any more."""
        for one in _kinds(kind):
            for key in self._table(one).unseen.pop(origin, ()):
                self._delete(origin, one, key, dirty)

    def _moved(self, old: EndpointSlice | None, new: EndpointSlice | None, dirty: set[ObjectKey]) -> None:
        """Keep `_slices_of` right; a slice whose label changed leaves its old Service (E-12)."""
        if old == new:
            return
        before = _service_of(old) if old else None
        after = _service_of(new) if new else None
        dirty.update(key for key in (before, after) if key is not None)
        if before == after:
            return
        if old and before:
            left = tuple(name for name in self._slices_of[before] if name != old.key)
            if left:
                self._slices_of[before] = left
            else:
                del self._slices_of[before]
        if new and after:
            self._slices_of[after] = tuple(sorted((*self._slices_of.get(after, ()), new.key)))

    def _forget_origin(self, origin: str, dirty: set[ObjectKey]) -> None:
        for kind in Kind:
            table = self._table(kind)
            for key in tuple(table.keys_of(origin)):
                self._delete(origin, kind, key, dirty)
            table.unseen.pop(origin, None)
        self._set_problems(origin, ())

    def _set_problems(self, origin: str, problems: tuple[Problem, ...]) -> None:
        self._problems.pop(origin, None)
        if problems:
            self._problems[origin] = problems

    def _set_unhealthy(self, pool: str, held: dict[Address, Verdict]) -> None:
        self._unhealthy.pop(pool, None)
        if held:
            self._unhealthy[pool] = held


def _kinds(kind: Kind | None) -> tuple[Kind, ...]:
    return tuple(Kind) if kind is None else (kind,)


def _service_of(piece: EndpointSlice) -> ObjectKey:
    """E-01: the Service is named by the label, in the slice's own namespace."""
    return ObjectKey(piece.key.namespace, piece.service)


def _contests(kind: Kind, table: _Table[Service] | _Table[EndpointSlice]) -> Iterator[Problem]:
    for key, origins in table.contested.items():
        others = " and in ".join(origins[1:])
        message = f"is in {origins[0]} and in {others}; the one in {origins[0]} is used, remove the others"
        yield Problem(f"{kind} {key}", message, origin=origins[1])
