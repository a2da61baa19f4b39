"""Arguments of the embedding API. A failure accepts nonsense silently, or refuses what the README shows."""

from __future__ import annotations

from typing import Any

import pytest

from spliceway.errors import EngineError, SettingsError, SourceError
from spliceway.groups import clear_error
from spliceway.inputs import BackendLike, address_of, backends_of, health_of, retry_of, service_of
from spliceway.model import Address, Backend, HealthCheck, RetryPolicy


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("10.0.0.1:80", Address("10.0.0.1", 80)),
        (("10.0.0.1", 80), Address("10.0.0.1", 80)),
        (Address("10.0.0.1", 80), Address("10.0.0.1", 80)),
        ("[FD00:0::1]:80", Address("fd00::1", 80)),
        (("fd00::0:1", 80), Address("fd00::1", 80)),
    ],
)
def test_addresses_have_one_form(value: Any, address: Address) -> None:
    """Two spellings of one address would be two frontends, or two backends with half the load each."""
    assert address_of(value, "address") == address


@pytest.mark.parametrize("value", ["10.0.0.1", "pod:80", ("10.0.0.1",), ("10.0.0.1", True), 80, None, "10.0.0.1:0"])
def test_bad_addresses_are_named(value: Any) -> None:
    with pytest.raises(SettingsError, match=r"^address: "):
        address_of(value, "address")


def test_backends_come_in_every_form_that_the_readme_shows() -> None:
    given: list[BackendLike] = ["10.0.0.1:80", ("10.0.0.2", 80), ("10.0.0.3", 80, 3), Backend("10.0.0.4", 80, 0)]
    assert [(backend.host, backend.weight) for backend in backends_of(given)] == [
        ("10.0.0.1", 1),
        ("10.0.0.2", 1),
        ("10.0.0.3", 3),
        ("10.0.0.4", 0),
    ]


def test_policies_may_be_mappings() -> None:
    assert health_of({"kind": "http", "expect": [200, 299]}) == HealthCheck(kind="http", expect=(200, 299))
    assert retry_of({"tries": 2}) == RetryPolicy(tries=2)
    assert (health_of(None), retry_of(None)) == (None, RetryPolicy())
    with pytest.raises(SettingsError, match="health: 'intervall' is not one of kind, interval"):
        health_of({"intervall": 1.0})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("default/shop", ("default", "shop", None)),
        ("default/shop:http", ("default", "shop", "http")),
        ("shop", None),
        ("/shop", None),
        ("default/", None),
        ("a/b/c", None),
    ],
)
def test_services_are_named_with_their_namespace(text: str, parts: tuple[str, str, str | None] | None) -> None:
    if parts:
        assert service_of(text) == parts
    else:
        with pytest.raises(SettingsError, match="is not NAMESPACE/SERVICE"):
            service_of(text)


def test_a_group_of_clear_errors_is_told_as_one_and_others_are_not_hidden() -> None:
    """A bug that is swallowed next to a clear error would never be found."""
    first = SourceError("gone")
    assert clear_error(ExceptionGroup("", [ExceptionGroup("", [first]), EngineError("too")])) is first
    assert clear_error(ExceptionGroup("", [first, ZeroDivisionError()])) is None
