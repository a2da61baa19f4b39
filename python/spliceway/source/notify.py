"""Which files of some folders were changed, by inotify, and whether their writers are done with them."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import trio
from inotify_simple import INotify, flags

_WATCHED = (
    flags.CLOSE_WRITE
    | flags.MODIFY
    | flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.ATTRIB
    | flags.DELETE_SELF
    | flags.MOVE_SELF
)


class Changes(NamedTuple):
    """What happened since the last look."""

    #: files that something happened to
    touched: frozenset[Path]
    #: those of them whose writer closed them, or that were moved in whole
    complete: frozenset[Path]
    #: events were lost: anything may have changed
    overflow: bool


class FolderWatch:
    """inotify on a changing set of folders. Construction blocks for milliseconds and raises `OSError`."""

    def __init__(self) -> None:
        self._inotify = INotify(nonblocking=True)
        self._folders: dict[int, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inotify.close()

    def watch(self, folders: AbstractSet[Path]) -> None:
        """Watch these folders and no others. Called again, it finds the folders that were replaced by new ones."""
        present: dict[int, Path] = {}
        for folder in folders:
            try:
                present[self._inotify.add_watch(folder, _WATCHED)] = folder
            except OSError:
                continue  # it does not exist: its parent is watched
        for descriptor in self._folders.keys() - present.keys():
            try:
                self._inotify.rm_watch(descriptor)
            except OSError:
                continue  # the kernel forgot it together with the folder
        self._folders = present

    async def wait(self) -> None:
        """Wait until something happened."""
        await trio.lowlevel.wait_readable(self._inotify.fileno())

    def take(self) -> Changes:
        """Return what happened, without waiting."""
        touched: set[Path] = set()
        complete: set[Path] = set()
        overflow = False
        for event in self._inotify.read(timeout=0):
            overflow = overflow or bool(event.mask & flags.Q_OVERFLOW)
            folder = self._folders.get(event.wd)
            if folder is None:
                continue
            path = folder / event.name if event.name else folder
            touched.add(path)
            if event.mask & (flags.CLOSE_WRITE | flags.MOVED_TO):
                complete.add(path)
            elif event.mask & (flags.MODIFY | flags.CREATE):
                complete.discard(path)  # somebody is writing it again
        return Changes(frozenset(touched), frozenset(complete), overflow)
