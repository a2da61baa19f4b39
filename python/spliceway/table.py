"""The objects of one kind, as several origins tell of them. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, TypeVar

from spliceway.model import KubernetesObject, ObjectKey

_Object = TypeVar("_Object", bound=KubernetesObject)


class Table(Generic[_Object]):
    """All objects of one kind, by the origin that told of them. Of several origins, the first in order counts."""

    def __init__(self) -> None:
        #: by origin
        self.told: dict[str, dict[ObjectKey, _Object]] = {}
        #: the origin whose word counts
        self.owner: dict[ObjectKey, str] = {}
        #: objects that several origins tell of, with those origins in order
        self.contested: dict[ObjectKey, tuple[str, ...]] = {}
        #: objects that the listing under way of an origin has not named so far
        self.unseen: dict[str, set[ObjectKey]] = {}

    def get(self, key: ObjectKey) -> _Object | None:
        """Return the object as the origin tells it whose word counts."""
        owner = self.owner.get(key)
        return None if owner is None else self.told[owner][key]

    def put(self, origin: str, obj: _Object) -> None:
        """Take in what ``origin`` tells."""
        key = obj.key
        self.told.setdefault(origin, {})[key] = obj
        self.see(origin, key)
        owner = self.owner.setdefault(key, origin)
        if owner != origin:
            origins = tuple(sorted({*self.contested.get(key, (owner,)), origin}))
            self.contested[key] = origins
            self.owner[key] = origins[0]

    def see(self, origin: str, key: ObjectKey) -> None:
        """The listing under way, if there is one, has named the object."""
        if unseen := self.unseen.get(origin):
            unseen.discard(key)

    def drop(self, origin: str, key: ObjectKey) -> None:
        """Forget what ``origin`` told of the object, if anything."""
        told = self.told.get(origin)
        if told is None or told.pop(key, None) is None:
            return
        if not told:
            del self.told[origin]
        self.see(origin, key)
        left = tuple(other for other in self.contested.pop(key, ()) if other != origin)
        if not left:
            del self.owner[key]
            return
        self.owner[key] = left[0]
        if len(left) > 1:
            self.contested[key] = left

    def keys_of(self, origin: str) -> Collection[ObjectKey]:
        """Return the keys of all objects that ``origin`` tells of."""
        return self.told.get(origin, {}).keys()
