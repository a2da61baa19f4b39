"""Resource versions: which of two events about an object is the newer one. Pure."""

from __future__ import annotations

from collections import deque

from spliceway.model import ObjectKey

#: deleted objects that are remembered, so that an older event does not bring them back
_REMEMBERED = 4096


def newer(old: str | None, new: str) -> str:
    """Return the later of two resource versions of one collection; ``new`` when they cannot be compared.

    Since Kubernetes 1.35 they may be compared as numbers; before, they were numbers too, but nobody promised.
    """
    if old and _number(old) > _number(new) >= 0:
        return old
    return new or old or ""


class Versions:
    """The newest resource version seen of each object of one kind.

    After a reconnect, or from a proxy that repeats itself, an event may come twice or late; last writer wins only when
    the last writer is known.
    """

    def __init__(self) -> None:
        self._newest: dict[ObjectKey, int] = {}
        self._deleted: deque[ObjectKey] = deque()

    def forget(self) -> None:
        """Forget everything: a complete list follows, and the API server may have been restored from a backup."""
        self._newest.clear()
        self._deleted.clear()

    def accept(self, key: ObjectKey, version: str, *, deleted: bool = False) -> bool:
        """Note an event; return False when a newer one of the same object was seen before, or this very one."""
        number = _number(version)
        seen = self._newest.get(key, -1)
        if 0 <= number <= seen:
            return False
        if number < 0:
            self._newest.pop(key, None)
            return True
        self._newest[key] = number
        if deleted:
            self._deleted.append(key)
            if len(self._deleted) > _REMEMBERED:
                self._newest.pop(self._deleted.popleft(), None)
        return True


def _number(version: str) -> int:
    return int(version) if version.isascii() and version.isdigit() and len(version) <= 20 else -1
