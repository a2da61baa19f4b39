"""What a source says: facts, and problems."""

from __future__ import annotations

import msgspec

from spliceway.model.names import Kind, ObjectKey
from spliceway.model.objects import KubernetesObject


class Upsert(msgspec.Struct, frozen=True, gc=False):
    """``object`` exists, as said by ``origin`` (a file's path, or ``api``)."""

    origin: str
    object: KubernetesObject


class Keep(msgspec.Struct, frozen=True, gc=False):
    """The object exists, but what ``origin`` says of it now is unusable: what it said before, if anything, stands."""

    origin: str
    kind: Kind
    key: ObjectKey


class Delete(msgspec.Struct, frozen=True, gc=False):
    """The object does not exist any more, as said by ``origin``."""

    origin: str
    kind: Kind
    key: ObjectKey


class ListStart(msgspec.Struct, frozen=True, gc=False):
    """A complete listing of ``origin`` follows (of one kind, or of all kinds when None)."""

    origin: str
    kind: Kind | None


class ListEnd(msgspec.Struct, frozen=True, gc=False):
    """The listing is complete: objects of ``origin`` not upserted or kept since `ListStart` do not exist."""

    origin: str
    kind: Kind | None


class Gone(msgspec.Struct, frozen=True, gc=False):
    """``origin`` (a file) does not exist any more, with all that it said, its problems included."""

    origin: str


class Synced(msgspec.Struct, frozen=True, gc=False):
    """``source`` has said everything that exists once. Nothing is planned before every source is synced."""

    source: str


class Problem(msgspec.Struct, frozen=True, gc=False):
    """Something is wrong with an object, a file or a frontend; the rest keeps working.

    ``message`` is one clear sentence that names the field. ``subject`` names the object (``Service default/shop``), the
    file or the frontend. ``line`` counts from 1. ``warning`` problems do not make ``spliceway check`` fail.
    """

    subject: str
    message: str
    origin: str = ""
    line: int | None = None
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.origin}:{self.line}: " if self.line else f"{self.origin}: " if self.origin else ""
        return f"{where}{self.subject}: {self.message}" if self.subject else f"{where}{self.message}"


class Problems(msgspec.Struct, frozen=True, gc=False):
    """All present problems of ``origin``; replaces what was said of it before (empty: all is well)."""

    origin: str
    problems: tuple[Problem, ...]


Fact = Upsert | Delete | Keep | ListStart | ListEnd | Gone | Synced | Problems


class SourceStatistics(msgspec.Struct, frozen=True):
    """State of one source (a folder or file set, or one kind's watch)."""

    name: str
    synced: bool
    #: seconds since it was last heard of (an event, a bookmark, or a file check); grows while the API is silent
    staleness: float
    restarts: int = 0
    errors: int = 0
    last_error: str = ""
