"""Addresses of this machine. A failure lets flows go round in circles, or leaves good backends out."""

from __future__ import annotations

import pytest

from spliceway.capture import local
from spliceway.capture.local import LocalAddresses


def test_the_kernel_knows_its_addresses() -> None:
    is_local = LocalAddresses()
    assert is_local("127.0.0.1")
    assert not is_local("192.0.2.1"), "reserved for documentation"
    assert not is_local("fe80::1"), "cannot be dialled without a zone"


def test_the_kernel_is_asked_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand backends must not cost a hundred thousand sockets at each change, nor memory for ever."""
    asked: list[str] = []
    now = 0.0

    def ask(host: str) -> bool:
        asked.append(host)
        return True

    monkeypatch.setattr(local, "_ask_kernel", ask)
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(local, "CAPACITY", 2)
    is_local = LocalAddresses()
    assert all([is_local("10.0.0.1"), is_local("10.0.0.1")])
    assert asked == ["10.0.0.1"]
    now = local.LIFETIME
    assert is_local("10.0.0.1")
    assert asked == ["10.0.0.1"] * 2
    assert all([is_local("10.0.0.2"), is_local("10.0.0.3"), is_local("10.0.0.1")])
    assert asked[2:] == ["10.0.0.2", "10.0.0.3", "10.0.0.1"], "forgotten when there are too many"
