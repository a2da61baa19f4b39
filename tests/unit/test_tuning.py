"""Annotations under ``spliceway.io/``. A failure tunes a Service as nobody asked for, or says nothing of a mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spliceway.health.monitor import KINDS, HealthMonitor
from spliceway.model import Balance, HealthCheck, Problem, RetryPolicy
from spliceway.plan.service import PlanOptions
from spliceway.plan.tuning import (
    HEALTH_KINDS,
    IPVS_NAMES,
    REFUSED_IPVS_NAMES,
    SERVICE_ANNOTATIONS,
    Tuning,
    read_tuning,
    read_weight,
)
from support.clients import plan_of
from support.objects import endpoints, service

DEFAULT = Tuning(Balance.P2C, RetryPolicy(tries=3, deadline=0.8), 60.0, HealthCheck(interval=7.0))


def read(*pairs: tuple[str, str]) -> tuple[Tuning, list[Problem]]:
    return read_tuning(service("shop", "10.96.0.1", tuning=pairs), DEFAULT)


GOOD: list[tuple[str, str, dict[str, Any]]] = [
    ("balance", "least-conn", {"balance": Balance.LEAST_CONN}),
    ("balance", "wlc", {"balance": Balance.LEAST_CONN}),
    ("replay", "true", {"retry": {"replay": True}}),
    ("tries", "16", {"retry": {"tries": 16}}),
    ("connect-timeout", "50ms", {"retry": {"connect_timeout": 0.05}}),
    ("retry-deadline", "2", {"retry": {"deadline": 2.0}}),
    ("drain", "1m", {"drain": 60.0}),
    ("drain", "0", {"drain": 0.0}),
    ("health-check", "http", {"health": {"kind": "http"}}),
    ("health-interval", "0.25", {"health": {"interval": 0.25}}),
    ("health-timeout", "1s", {"health": {"timeout": 1.0}}),
    ("health-path", "/ready?full=1", {"health": {"path": "/ready?full=1"}}),
    ("health-port", "9000", {"health": {"port": 9000}}),
    ("health-rise", "1", {"health": {"rise": 1}}),
    ("health-fall", "1000", {"health": {"fall": 1000}}),
]


@pytest.mark.parametrize(("name", "value", "changes"), GOOD)
def test_annotations_set_one_thing_each(name: str, value: str, changes: dict[str, Any]) -> None:
    wanted = DEFAULT
    for field, change in changes.items():
        if isinstance(change, dict):
            change = msgspec.structs.replace(getattr(DEFAULT, field), **change)
        wanted = msgspec.structs.replace(wanted, **{field: change})
    assert read((name, value)) == (wanted, [])
    assert name in SERVICE_ANNOTATIONS


def test_every_annotation_is_tested_above() -> None:
    assert {name for name, _, _ in GOOD} == SERVICE_ANNOTATIONS.keys()


@pytest.mark.parametrize("balance", [*Balance, *IPVS_NAMES])
def test_every_balance_and_ipvs_name_is_known(balance: str) -> None:
    """kube-proxy's users bring IPVS's names along."""
    assert read(("balance", balance)) == (
        msgspec.structs.replace(DEFAULT, balance=IPVS_NAMES.get(balance) or Balance(balance)),
        [],
    )


def test_every_scheduler_of_ipvs_is_known_or_refused() -> None:
    everything = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"]
    assert set(everything) <= {*Balance, *IPVS_NAMES, *REFUSED_IPVS_NAMES}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("balance", "best", "'best' is not one of maglev, random, "),
        ("balance", "dh", "'dh' is refused: it chooses by the destination, "),
        ("balance", "ovf", "'ovf' is refused: it sends everything to one endpoint until "),
        ("replay", "yes", "'yes' is neither true nor false; false is used"),
        ("tries", "0", "'0' is not a whole number of 1 to 16; 3 is used"),
        ("tries", "-1", "'-1' is not a whole number of 1 to 16; 3 is used"),
        ("tries", "٣", "'٣' is not a whole number of 1 to 16; 3 is used"),
        ("tries", "9" * 5000, f"'{'9' * 64}'... is not a whole number of 1 to 16; 3 is used"),
        ("connect-timeout", "soon", "'soon' is not a time such as 2, 0.25, 250ms, 1m or 1h30m; 0.25 s is used"),
        ("connect-timeout", "0", "'0' is not from 0.001 to 3600 seconds; 0.25 s is used"),
        ("retry-deadline", "2h", "'2h' is not from 0.001 to 3600 seconds; 0.8 s is used"),
        ("drain", "31000000", "'31000000' is not from 0 to 2.592e+06 seconds; 60 s is used"),
        ("health-check", "grpc", "'grpc' is not one of off, passive, tcp, http; passive is used"),
        ("health-path", "ready", "'ready' does not begin with / or has characters that a URL may not have; / is used"),
        ("health-path", "/a b", "'/a b' does not begin with / or has characters that a URL may not have; / is used"),
        ("health-port", "0", "'0' is not a whole number of 1 to 65535; no value is used"),
        ("health-interval", "1e9", "'1e9' is not a time such as 2, 0.25, 250ms, 1m or 1h30m; 7 s is used"),
    ],
)
def test_bad_values_are_named_and_the_default_is_used(name: str, value: str, said: str) -> None:
    tuning, (problem,) = read((name, value))
    assert tuning == DEFAULT
    assert str(problem).startswith(f"Service default/shop: metadata.annotations[spliceway.io/{name}]: {said}")
    assert problem.warning


def test_one_bad_value_leaves_the_others_in_force() -> None:
    tuning, problems = read(("tries", "many"), ("health-port", "81"), ("colour", "red"), ("tries-more", "1"))
    assert tuning.health == msgspec.structs.replace(DEFAULT.health, port=81)
    assert (tuning.retry, len(problems)) == (DEFAULT.retry, 3)
    assert "spliceway.io/colour] is not known on a Service and has no effect; known are balance, " in str(problems[1])


def test_the_limits_are_those_of_the_health_monitor() -> None:
    """A value that passes here and not there would stop the whole agent, for one Service's annotation."""
    monitor = HealthMonitor(HealthCheck(), 1)
    assert set(HEALTH_KINDS) == set(KINDS)
    extremes = {
        "health-interval": ("0.01", "24h"),
        "health-timeout": ("0.01", "24h"),
        "health-rise": ("1", "1000"),
        "health-fall": ("1", "1000"),
        "health-port": ("1", "65535"),
        "health-path": ("/", "/~!"),
    }
    for name, values in extremes.items():
        for value in values:
            tuning, problems = read((name, value))
            assert problems == []
            monitor.update_pool("default/shop", (), tuning.health)


def test_a_service_without_a_check_of_its_own_follows_the_agents() -> None:
    """Otherwise a changed flag would not reach it, or every Service would have a state of its own."""
    options = PlanOptions(DEFAULT)
    tuned = service("shop", "10.96.0.1", tuning=(("health-check", "tcp"),))
    assert plan_of(tuned, options=options).check == msgspec.structs.replace(DEFAULT.health, kind="tcp")
    assert plan_of(service("shop", "10.96.0.1", tuning=(("tries", "2"),)), options=options).check is None
    assert plan_of(service("shop", "10.96.0.1"), options=options).check is None


def test_the_tuning_reaches_the_pools() -> None:
    svc = service("shop", "10.96.0.1", tuning=(("balance", "nq"), ("tries", "2"), ("drain", "5")))
    (pool,) = plan_of(svc, options=PlanOptions(DEFAULT)).pools
    assert (pool.balance, pool.retry.tries, pool.drain) == (Balance.NQ, 2, 5.0)


def test_alike_services_share_a_policy() -> None:
    """10,000 Services with one annotation would cost 10,000 policies."""
    first, second = (read_tuning(service(name, tuning=(("tries", "5"),)), DEFAULT)[0] for name in "ab")
    assert first is second


@pytest.mark.parametrize(
    ("pairs", "weight", "said"),
    [
        ((("weight", "0"),), 0, []),
        ((("weight", "65535"),), 65535, []),
        ((), 1, []),
        (
            (("weight", "65536"),),
            1,
            ["metadata.annotations[spliceway.io/weight]: '65536' is not a whole number of 0 to 65535; 1 is used"],
        ),
        (
            (("weight", "2"), ("tries", "1")),
            2,
            [
                "metadata.annotations[spliceway.io/tries] is not known on an EndpointSlice and has no effect; "
                "known is weight"
            ],
        ),
    ],
)
def test_weights_of_slices(pairs: tuple[tuple[str, str], ...], weight: int, said: list[str]) -> None:
    piece = msgspec.structs.replace(endpoints("shop.0", "10.0.0.1"), tuning=pairs)
    found, problems = read_weight(piece)
    assert (found, [each.message for each in problems]) == (weight, said)
    assert all(each.warning and each.subject == "EndpointSlice default/shop.0" for each in problems)
    made = plan_of(service("shop", "10.96.0.1"), piece)
    assert (made.pools[0].backends[0].weight, list(made.problems)) == (weight, problems)


def test_the_documentation_names_everything() -> None:
    """What is not in the table cannot be found by whoever needs it."""
    page = (Path(__file__).parents[2] / "docs" / "annotations.md").read_text()
    rows = set(re.findall(r"^\| `spliceway\.io/([a-z-]+)` \|", page, re.MULTILINE))
    assert rows == {*SERVICE_ANNOTATIONS, "weight"}
    named = set(re.findall(r"`([a-z0-9-]+)`", page))
    assert {*Balance, *IPVS_NAMES, *REFUSED_IPVS_NAMES, *HEALTH_KINDS} <= named
