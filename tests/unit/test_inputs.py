"""Arguments of the embedding API. A failure accepts nonsense silently, or refuses what the README shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from spliceway.errors import EngineError, SettingsError, SourceError
from spliceway.groups import clear_error
from spliceway.inputs import (
    BackendLike,
    address_of,
    backends_of,
    balance_of,
    count_of,
    health_of,
    name_of,
    retry_of,
    seconds_of,
    service_of,
)
from spliceway.model import Address, Backend, HealthCheck, RetryPolicy


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("10.0.0.1:80", Address("10.0.0.1", 80)),
        (("10.0.0.1", 80), Address("10.0.0.1", 80)),
        (Address("10.0.0.1", 80), Address("10.0.0.1", 80)),
        ("[FD00:0::1]:80", Address("fd00::1", 80)),
        (("fd00::0:1", 80), Address("fd00::1", 80)),
        ("[::ffff:10.0.0.1]:80", Address("10.0.0.1", 80)),
        (("::ffff:10.0.0.1", 80), Address("10.0.0.1", 80)),
    ],
)
def test_addresses_have_one_form(value: Any, address: Address) -> None:
    """Two spellings of one address would be two frontends, or two backends with half the load each, or hide a loop."""
    assert address_of(value, "address") == address


@pytest.mark.parametrize(
    "value",
    [
        *("10.0.0.1", "pod:80", "10.0.0.1:0", "[fe80::1%lo]:80", "\udc80:80"),
        *(80, None, (), ("10.0.0.1",), ("10.0.0.1", True), ("10.0.0.1", 80.0), (b"10.0.0.1", 80), ("10.0.0.1", 80, 1)),
    ],
)
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


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "::ffff:0.0.0.0"])
def test_backends_that_nobody_can_dial_are_refused(host: str) -> None:
    """The engine would keep the old backends, and the program would believe that it has the new ones."""
    with pytest.raises(SettingsError, match=r"^backends\[1\]: .* cannot be dialled"):
        backends_of(["10.0.0.1:80", (host, 80)])


@pytest.mark.parametrize(
    "values", [None, 5, "10.0.0.1:80", [5], [None], [()], [("10.0.0.1",)], [("10.0.0.1", 80, "1")]]
)
def test_backends_of_wrong_types_are_named(values: Any) -> None:
    with pytest.raises(SettingsError, match=r"^backends(\[0\])?: "):
        backends_of(values)


@pytest.mark.parametrize(
    ("read", "values"),
    [
        (retry_of, (5, "x", {5: 1}, {"tries": 2**70}, {"budget_reserve": 2**64}, {"tries": True}, {"tries": 10**5000})),
        (retry_of, (RetryPolicy(tries="x"), RetryPolicy(tries=2**70), RetryPolicy(deadline=None))),  # type: ignore[arg-type]
        (health_of, (5, [], {"timeout": "x"}, {"expect": 200}, HealthCheck(interval="x"))),  # type: ignore[arg-type]
        (name_of, (5, b"web", "\udc80", "a\nb")),
        (service_of, (5, None, "default/\udc80")),
        (balance_of, (5, None, [])),
        (lambda value: seconds_of(value, "drain"), ("1", None, True, -1, float("nan"), float("inf"), 1e300, 2**70)),
        (lambda value: count_of(value, "limit"), ("1", None, True, -1, 1.0, 2**70)),
    ],
)
def test_what_the_engine_or_the_pipeline_would_stumble_over_is_refused(
    read: Callable[[Any], object], values: tuple[Any, ...]
) -> None:
    """One call with a wrong type would end the load balancer of the whole program."""
    for value in values:
        with pytest.raises(SettingsError, match=r"^(retry|health|name|service|balance|drain|limit): "):
            read(value)


def test_times_counts_and_names_pass_as_they_are() -> None:
    assert (seconds_of(2, "drain"), seconds_of(0.5, "drain"), count_of(0, "limit")) == (2.0, 0.5, 0)
    assert (name_of(None), name_of("Läden")) == (None, "Läden")


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
