"""The unix socket that `status` and `explain` ask: for the agent's own user only, never on TCP."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from spliceway.errors import SettingsError

#: bytes that the kernel's sun_path holds, with the ending zero
_MAX_PATH = 108
_BACKLOG = 64


@contextmanager
def state_socket(path: Path) -> Generator[socket.socket]:
    """A listening socket at ``path`` with mode 0600, removed at the end.

    A missing parent folder is made with mode 0700. The file that a dead agent left behind is replaced.

    Raises:
        SettingsError: another agent answers there, or the file cannot be made; the text says what to do.
    """
    if len(os.fsencode(path)) >= _MAX_PATH:
        raise SettingsError(f"State socket {path}: the path must be shorter than {_MAX_PATH} bytes.")
    try:
        _make_parent(path.parent)
        sock = _bind(path)
        made = path.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SettingsError(f"State socket {path}: {reason}; choose another path with --state-socket.") from error
    try:
        yield sock
    finally:
        sock.close()
        with suppress(OSError):  # gone, or taken over: not ours to remove
            now = path.stat()
            if (now.st_dev, now.st_ino) == (made.st_dev, made.st_ino):
                path.unlink()


def _make_parent(folder: Path) -> None:
    """Make ``folder``; refuse one in a shared place that somebody else made for us to fall into."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if folder.stat().st_uid not in (0, os.geteuid()):
            raise PermissionError(errno.EPERM, f"folder {folder} belongs to another user") from None


def _bind(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # On Linux the file gets the socket's own mode, so there is no moment at which others may connect.
        os.fchmod(sock.fileno(), 0o600)
        try:
            sock.bind(os.fspath(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            sock.bind(os.fspath(path))
        path.chmod(0o600)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        raise FileExistsError(errno.EEXIST, "a file that is not a socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(1.0)
        try:
            caller.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            pass  # it listens, but is too busy to accept: alive
    raise SettingsError(
        f"State socket {path}: another agent answers there; stop it, or choose another path with --state-socket."
    )
