"""What several unit tests begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fakeengine import FakeEngine


@pytest.fixture
def fake() -> Iterator[FakeEngine]:
    """A started engine without threads."""
    engine = FakeEngine()
    engine.start()
    yield engine
    engine.close()
