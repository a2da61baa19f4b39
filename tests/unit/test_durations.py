"""Times as people write them. A flag that is copied from kube-proxy's manifest must mean the same here."""

from __future__ import annotations

import pytest

from spliceway.durations import parse_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2.0),
        ("0.25", 0.25),
        (".5s", 0.5),
        ("250ms", 0.25),
        ("1m", 60.0),
        ("24h0m0s", 86400.0),
        ("1h30m", 5400.0),
        ("1m0.5s", 60.5),
        (" 3s ", 3.0),
    ],
)
def test_times_that_people_write(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "1d", "-1", "1h30", "1 m", "nan", "1e3", "0x1"])
def test_others_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time such as 2, 0\.25, 250ms, 1m or 1h30m"):
        parse_seconds(text)
