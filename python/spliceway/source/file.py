"""The file source: manifests in files and folders, watched. A broken edit keeps the last good state and says where.

inotify on the folders tells that something changed and when its writer is done; a survey (`stat` of every file) tells
what. A survey every `POLL` seconds is the safety net for file systems without inotify. Reading happens in threads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import msgspec
import trio

from spliceway.model import (
    Fact,
    Gone,
    KubernetesObject,
    ListEnd,
    ListStart,
    Node,
    Problem,
    Problems,
    SourceStatistics,
    Synced,
    Upsert,
)
from spliceway.source.lastgood import with_last_good
from spliceway.source.manifest import Manifest, try_manifest
from spliceway.source.notify import Changes, FolderWatch
from spliceway.source.survey import Signature, Survey, is_manifest, signature_of, survey, watched_folders

#: seconds between surveys when nothing was heard
POLL = 10.0
#: the same when there is no inotify
POLL_WITHOUT_INOTIFY = 1.0
#: seconds that a file must stay as it is when nobody said that it is complete: an editor may be between two writes,
#: or between moving the old file away and writing the new one
SETTLE = 0.25
#: facts in a batch
BATCH = 500
#: looks at files that are being written at the start, before going on without them
_FIRST_LOOKS = 10

_NEVER = Signature(0, 0, 0, 0, 0)
_log = logging.getLogger(__name__)


class _Known(msgspec.Struct):
    """A file as it was read last."""

    signature: Signature
    objects: tuple[KubernetesObject, ...] = ()
    #: what is wrong with it as a whole
    problem: Problem | None = None


class _Unsettled(NamedTuple):
    """A change that is not believed yet: the file (None: its absence) and since when it is so."""

    signature: Signature | None
    since: float


class FileSource:
    """Facts of manifests. ``paths`` are files, and folders whose ``*.yaml``, ``*.yml`` and ``*.json`` are read.

    Folders are not read recursively, hidden files are skipped; files may appear and vanish. Each file is one origin.
    The Node called ``node`` is told as well, if a manifest holds it; other Nodes are none of our business.
    """

    name: str = "files"
    synced_names: tuple[str, ...] = ("files",)

    def __init__(self, paths: Sequence[Path], node: str | None = None) -> None:
        self._paths = tuple(dict.fromkeys(paths))
        self._node = node
        self._files: dict[Path, _Known] = {}
        self._unsettled: dict[Path, _Unsettled] = {}
        self._unreadable: dict[Path, str] = {}
        self._absent: set[Path] = set()
        self._synced = False
        self._heard = monotonic()
        self._errors = 0
        self._last_error = ""

    def statistics(self) -> tuple[SourceStatistics, ...]:
        """Return one entry; ``staleness`` is the time since the files were surveyed last."""
        staleness = monotonic() - self._heard
        return (SourceStatistics(self.name, self._synced, staleness, errors=self._errors, last_error=self._last_error),)

    async def run(self, facts: trio.MemorySendChannel[tuple[Fact, ...]]) -> None:
        """Send what the files say, then every change, until cancelled."""
        with ExitStack() as stack:
            watch: FolderWatch | None = None
            try:
                watch = stack.enter_context(await trio.to_thread.run_sync(FolderWatch))
            except OSError as error:
                _log.warning("inotify is not available (%s): files are looked at every second", error)
            for _ in range(_FIRST_LOOKS):
                await self._look(facts, watch, None)
                if not self._unsettled:
                    break
                await trio.sleep(SETTLE)
            self._synced = True
            await facts.send((Synced(self.name),))
            while True:
                changes = await self._wait(watch)
                if changes is None or changes.overflow or self._concerns_us(changes):
                    await self._look(facts, watch, changes)

    async def _wait(self, watch: FolderWatch | None) -> Changes | None:
        """Wait for changes, or (None) until it is time for a survey."""
        seconds = POLL if watch else POLL_WITHOUT_INOTIFY
        if self._unsettled:
            due = min(unsettled.since for unsettled in self._unsettled.values()) + SETTLE
            seconds = min(seconds, max(0.0, due - monotonic()))
        with trio.move_on_after(seconds):
            if watch is None:
                await trio.sleep_forever()
            else:
                await watch.wait()
                return watch.take()
        return None

    def _concerns_us(self, changes: Changes) -> bool:
        return any(
            path in self._paths or path in self._files or path.name.startswith("..") or is_manifest(path)
            for path in changes.touched
        )

    async def _look(
        self, facts: trio.MemorySendChannel[tuple[Fact, ...]], watch: FolderWatch | None, changes: Changes | None
    ) -> None:
        """Survey the files and tell what changed. The first look believes everything."""
        found = await trio.to_thread.run_sync(_inspect, self._paths, watch, abandon_on_cancel=True)
        self._heard = monotonic()
        await self._tell_unreadable(facts, found.unreadable)
        for path in sorted(found.files.keys() | self._files.keys()):
            if path not in found.files and (path in found.unreadable or path.parent in found.unreadable):
                continue  # nothing is known of it: keep the last state
            signature = found.files.get(path)
            if self._is_new(path, signature, changes):
                await self._tell(facts, path, signature)
        await self._tell_absent(facts, found)

    def _is_new(self, path: Path, signature: Signature | None, changes: Changes | None) -> bool:
        """Say whether a file is different from what was read, and is so for good."""
        known = self._files.get(path)
        if (known.signature if known else None) == signature:
            self._unsettled.pop(path, None)
            return False
        if not self._synced or (signature and signature.size and changes and _is_complete(path, changes)):
            self._unsettled.pop(path, None)
            return True
        before = self._unsettled.get(path)
        if before is None or before.signature != signature:
            self._unsettled[path] = _Unsettled(signature, self._heard)
            return False
        if self._heard - before.since < SETTLE:
            return False
        del self._unsettled[path]
        return True

    async def _tell(
        self, facts: trio.MemorySendChannel[tuple[Fact, ...]], path: Path, signature: Signature | None
    ) -> None:
        """Read a file that changed, or is gone (``signature`` None), and send what it says."""
        origin = str(path)
        if signature is None:
            del self._files[path]
            await facts.send((Gone(origin),))
            return
        manifest = await trio.to_thread.run_sync(_read, path, signature, abandon_on_cancel=True)
        if manifest is None:
            self._unsettled[path] = _Unsettled(None, monotonic() - SETTLE)  # look again at once
            return
        known = self._files.setdefault(path, _Known(signature))
        known.signature = signature
        if isinstance(manifest, Problem):
            await self._tell_broken(facts, known, manifest)
            return
        known.problem = None
        objects, problems = with_last_good(manifest, known.objects)
        objects = tuple(made for made in objects if not isinstance(made, Node) or made.key.name == self._node)
        known.objects = objects
        self._errors += sum(not problem.warning for problem in problems)
        self._last_error = next((str(problem) for problem in problems if not problem.warning), self._last_error)
        for batch in _batches(origin, objects, problems):
            await facts.send(tuple(batch))

    async def _tell_broken(
        self, facts: trio.MemorySendChannel[tuple[Fact, ...]], known: _Known, problem: Problem
    ) -> None:
        """Say what is wrong with a file as a whole, once."""
        if problem.line is None:
            known.signature = _NEVER  # it was not read (no descriptor was left, say): try again at the next survey
        kept = "; keeping its last good state" if known.objects else "; nothing of it is used"
        problem = msgspec.structs.replace(problem, message=problem.message + kept)
        if problem != known.problem:
            known.problem = problem
            self._errors += 1
            self._last_error = str(problem)
            await facts.send((Problems(problem.origin, (problem,)),))

    async def _tell_absent(self, facts: trio.MemorySendChannel[tuple[Fact, ...]], found: Survey) -> None:
        """Name the paths of ours of which nothing is left, and take back what was said of those that exist again."""
        served = self._files.keys() | {file.parent for file in self._files}
        absent = {path for path in self._paths if path in found.absent and path not in served}
        message = "does not exist any more; nothing of it is served until it is back"
        for path in absent - self._absent:
            await facts.send((Problems(str(path), (Problem("", message, str(path)),)),))
        for path in self._absent - absent - self._files.keys() - found.unreadable.keys():
            await facts.send((Problems(str(path), ()),))
        self._absent = absent

    async def _tell_unreadable(
        self, facts: trio.MemorySendChannel[tuple[Fact, ...]], unreadable: dict[Path, str]
    ) -> None:
        for path in self._unreadable.keys() | unreadable.keys():
            reason = unreadable.get(path)
            if reason != self._unreadable.get(path):
                message = f"cannot be read: {reason}; keeping its last good state"
                problems = (Problem("", message, str(path)),) if reason else ()
                await facts.send((Problems(str(path), problems),))
                if not reason and path in self._files:  # its own problems were replaced: read it again
                    self._files[path].signature, self._files[path].problem = _NEVER, None
        self._unreadable = unreadable


def _is_complete(path: Path, changes: Changes) -> bool:
    """Say whether a writer finished this file, or a volume was swapped (kubelet renames ``..data`` into place)."""
    return path in changes.complete or any(
        other.name.startswith("..") and other.parent == path.parent for other in changes.complete
    )


def _inspect(paths: tuple[Path, ...], watch: FolderWatch | None) -> Survey:
    """Watch what has to be watched, then survey: a change between the two is heard of."""
    if watch is not None:
        watch.watch(watched_folders(paths))
    return survey(paths)


def _read(path: Path, signature: Signature) -> Manifest | Problem | None:
    """Read a file; None when it was written meanwhile, so that what was read may be half of it."""
    manifest = try_manifest(path)
    return manifest if signature_of(path) == signature else None


def _batches(origin: str, objects: tuple[KubernetesObject, ...], problems: tuple[Problem, ...]) -> Iterable[list[Fact]]:
    """A complete listing of a file, in batches."""
    batch: list[Fact] = [ListStart(origin, None)]
    for made in objects:
        batch.append(Upsert(origin, made))
        if len(batch) >= BATCH:
            yield batch
            batch = []
    batch += [ListEnd(origin, None), Problems(origin, problems)]
    yield batch
