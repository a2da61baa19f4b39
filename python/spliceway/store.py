"""Folds facts of all sources into the present state. Pure: no I/O, no clock.

Objects are kept for each origin (a file's path, or ``api``), so that an origin can vanish or be listed again without
touching what others said. ``fold`` tells which Services have to be planned again, and nothing else is ever walked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from spliceway.model import (
    Address,
    Delete,
    EndpointSlice,
    Fact,
    Gone,
    Keep,
    Kind,
    KubernetesObject,
    ListEnd,
    ListStart,
    Node,
    ObjectKey,
    Problem,
    Problems,
    Service,
    Synced,
    Upsert,
    Verdict,
)
from spliceway.table import Table

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


_AnyTable = Table[Service] | Table[EndpointSlice] | Table[Node]


class Store:
    """The state told so far.

    Args:
        expected: the `Synced` names to wait for; until all were seen, nothing should be planned (U-30).
    """

    def __init__(self, expected: tuple[str, ...] = ()) -> None:
        self._services: Table[Service] = Table()
        self._slices: Table[EndpointSlice] = Table()
        self._nodes: Table[Node] = Table()
        #: the slices of each Service, also of Services that are not known (W-14)
        self._slices_of: dict[ObjectKey, tuple[ObjectKey, ...]] = {}
        self._waiting = set(expected)
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._unhealthy: dict[str, dict[Address, Verdict]] = {}

    @property
    def node(self) -> Node | None:
        """The Node that the agent runs on, which is the only one that sources tell; None: it is not known.

        A change of it makes no Service dirty: whoever plans compares.
        """
        key = next(iter(self._nodes.owner), None)
        return None if key is None else self._nodes.get(key)

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
                case Keep(origin=origin, kind=kind, key=key):
                    self._table(kind).see(origin, key)
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
        return (*told, *(contest for kind in Kind for contest in _contests(kind, self._table(kind))))

    def counts(self) -> StoreCounts:
        """How much there is."""
        unhealthy = sum(len(held) for held in self._unhealthy.values())
        return StoreCounts(len(self._services.owner), len(self._slices.owner), unhealthy)

    def _table(self, kind: Kind) -> _AnyTable:
        if kind is Kind.SERVICE:
            return self._services
        return self._slices if kind is Kind.ENDPOINT_SLICE else self._nodes

    def _upsert(self, origin: str, obj: KubernetesObject, dirty: set[ObjectKey]) -> None:
        if isinstance(obj, EndpointSlice):
            old = self._slices.get(obj.key)
            self._slices.put(origin, obj)
            self._moved(old, self._slices.get(obj.key), dirty)
        elif isinstance(obj, Service):
            before = self._services.get(obj.key)
            self._services.put(origin, obj)
            if _differ(before, self._services.get(obj.key)):
                dirty.add(obj.key)
        else:
            self._nodes.put(origin, obj)

    def _delete(self, origin: str, kind: Kind, key: ObjectKey, dirty: set[ObjectKey]) -> None:
        if kind is Kind.ENDPOINT_SLICE:
            old = self._slices.get(key)
            self._slices.drop(origin, key)
            self._moved(old, self._slices.get(key), dirty)
        elif kind is Kind.SERVICE:
            before = self._services.get(key)
            self._services.drop(origin, key)
            if _differ(before, self._services.get(key)):
                dirty.add(key)
        else:
            self._nodes.drop(origin, key)

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


def _differ(old: Service | None, new: Service | None) -> bool:
    """Say whether two versions of a Service differ in anything that is used: most of its status and metadata is not."""
    if old is None or new is None:
        return old is not new
    return old != new and old != msgspec.structs.replace(new, resource_version=old.resource_version)


def _kinds(kind: Kind | None) -> tuple[Kind, ...]:
    return tuple(Kind) if kind is None else (kind,)


def _service_of(piece: EndpointSlice) -> ObjectKey:
    """E-01: the Service is named by the label, in the slice's own namespace."""
    return ObjectKey(piece.key.namespace, piece.service)


def _contests(kind: Kind, table: _AnyTable) -> Iterator[Problem]:
    for key, origins in table.contested.items():
        others = " and in ".join(origins[1:])
        message = f"is in {origins[0]} and in {others}; the one in {origins[0]} is used, remove the others"
        yield Problem(f"{kind} {key}", message, origin=origins[1])
