"""API servers that misbehave on request."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fakeapi import FakeApi


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        yield server


@pytest.fixture(params=[False, True], ids=["http", "https"])
def any_api(request: pytest.FixtureRequest) -> Iterator[FakeApi]:
    with FakeApi(tls=request.param) as server:
        yield server
