"""Which manifests exist in files and folders, and whether they changed: `stat` only, nothing is read. Blocking."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_SUFFIXES = (".yaml", ".yml", ".json")
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class Signature(NamedTuple):
    """Differs when the content of a file, or the right to read it, may differ."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


class Survey(NamedTuple):
    """What exists. ``unreadable`` maps a file or folder to the reason that nothing can be said of it.

    ``absent`` are those that were looked for and do not exist.
    """

    files: dict[Path, Signature]
    unreadable: dict[Path, str]
    absent: set[Path]


def survey(paths: tuple[Path, ...]) -> Survey:
    """Return the files among ``paths`` and the manifests in the folders among them.

    What is no regular file, though called as a manifest, is one that cannot be read; folders in folders are left out.
    """
    found = Survey({}, {}, set())
    for path in paths:
        try:
            files = [file for file in path.iterdir() if is_manifest(file)] if path.is_dir() else [path]
        except OSError as error:
            _note(error, path, found)
            continue
        for file, status in _statuses(files, found):
            if not stat.S_ISDIR(status.st_mode) or file in paths:
                found.files[file] = _signature(status)
    return found


def signature_of(path: Path) -> Signature | None:
    """Return the signature of a file, None when there is none."""
    try:
        return _signature(path.stat())
    except OSError:
        return None


def watched_folders(paths: tuple[Path, ...]) -> frozenset[Path]:
    """Return the folders in which something may happen that concerns ``paths``."""
    folders: set[Path] = set()
    for path in paths:
        folders.add(path.parent)
        if path.is_dir():
            folders.add(path)
        elif path.is_symlink():
            folders.add(Path(os.path.realpath(path)).parent)  # Path.resolve raises for a loop of links
    return frozenset(folders)


def is_manifest(path: Path) -> bool:
    """Say whether a file in a folder is a manifest, by its name."""
    return path.suffix in _SUFFIXES and not path.name.startswith(".")


def _statuses(files: list[Path], found: Survey) -> Iterator[tuple[Path, os.stat_result]]:
    for file in files:
        try:
            yield file, file.stat()
        except OSError as error:
            _note(error, file, found)


def _note(error: OSError, path: Path, found: Survey) -> None:
    if error.errno in _ABSENT:
        found.absent.add(path)
    else:
        found.unreadable[path] = (error.strerror or str(error)).lower()


def _signature(status: os.stat_result) -> Signature:
    return Signature(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
