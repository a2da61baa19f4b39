"""The state socket's file: private, never somebody else's, and gone at the end."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from spliceway.errors import SettingsError
from spliceway.observe.statesocket import state_socket


def test_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user could prepare the folder in /tmp, and answer in the agent's name."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 4321, -1)
    else:
        monkeypatch.setattr("os.geteuid", lambda: 4321)
    with pytest.raises(SettingsError, match="belongs to another user"), state_socket(folder / "s.sock"):
        pass


def test_socket_of_a_dead_agent_is_replaced(tmp_path: Path) -> None:
    """An agent that was killed could not be started again."""
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with state_socket(path) as sock, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        assert sock.getsockname() == str(path)


def test_file_at_the_socket_path_is_left_alone(tmp_path: Path) -> None:
    """A mistyped path would delete a file of the user."""
    path = tmp_path / "precious"
    path.write_text("x")
    with pytest.raises(SettingsError, match="not a socket"), state_socket(path):
        pass
    assert path.read_text() == "x"


def test_successors_socket_is_not_removed(tmp_path: Path) -> None:
    """An agent that leaves late would cut off `status` from its successor."""
    path = tmp_path / "s.sock"
    with state_socket(path):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.is_socket()


def test_path_that_cannot_be_a_socket_is_explained(tmp_path: Path) -> None:
    """The kernel's `AF_UNIX path too long` would end the agent with a traceback."""
    with pytest.raises(SettingsError, match="shorter than 108 bytes"), state_socket(tmp_path / ("x" * 120)):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="--state-socket"), state_socket(tmp_path / "file" / "s.sock"):
        pass
