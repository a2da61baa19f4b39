"""Test vectors A.1 of the specification: endpoint sets. A failure sends clients to the wrong Pods of a Service."""

from __future__ import annotations

import re

import pytest

from spliceway.model import SliceEndpoint
from spliceway.plan.endpoints import PortEndpoints
from spliceway.plan.policy import Place, Policies, endpoint_sets

CLUSTER = Policies()
ITP = Policies(internal_local=True)
ETP_NODE_PORT = Policies(external_local=True, external=True)


def endpoint(text: str) -> tuple[str, SliceEndpoint]:
    """``1R(L,a,n1)``: name, state (Ready, serving while it Terminates, neither), then Local, zones and nodes."""
    match = re.fullmatch(r"(\d)([RTX])(?:\((.*)\))?", text)
    assert match, text
    marks = (match[3] or "").split(",") if match[3] else []
    return match[1], SliceEndpoint(
        match[1],
        ready=match[2] == "R",
        serving=match[2] != "X",
        terminating=match[2] == "T",
        node="here" if "L" in marks else "there",
        zone_hints=tuple(each for each in marks if each in "abcd"),
        node_hints=tuple(each for each in marks if each.startswith("n")),
    )


def sets(policies: Policies, node: str, zone: str, given: str) -> tuple[str | None, str | None, bool]:
    members = {(name, 80): each for name, each in map(endpoint, given.split())}
    found = endpoint_sets(PortEndpoints(members, {}), Place(node, zone), policies)
    cluster, local = (None if each is None else "".join(name for name, _ in each) for each in found[:2])
    return cluster, local, found.has_any


FOUR = "1R(a,n1) 2R(b,n2) 3R(c,n3) 4R(a,n4)"


@pytest.mark.parametrize(
    ("row", "policies", "node", "zone", "given", "cluster", "local", "has_any"),
    [
        ("A.1.1", CLUSTER, "here", "a", "1R(a) 2R(b) 3R(c) 4R(a)", "14", None, True),
        ("A.1.2 no zone", CLUSTER, "here", "", "1R(a)", "1", None, True),
        ("A.1.2 no node", CLUSTER, "", "", "1R(a)", "1", None, True),
        ("A.1.3", CLUSTER, "here", "b", "1R(a)", "1", None, True),
        ("A.1.4", CLUSTER, "here", "a", "1R(a) 2R(b) 3R(c) 4X(a)", "1", None, True),
        ("A.1.5", CLUSTER, "here", "a", "1X(a) 2R(b) 3R(c) 4X(a)", "23", None, True),
        ("A.1.6", CLUSTER, "here", "a", "1R(a) 2R(b) 3R 4R(a)", "1234", None, True),
        ("A.1.7", CLUSTER, "here", "c", "1R(a,b,c) 2R(b,c) 3R(b,d) 4R(c)", "124", None, True),
        ("A.1.8", CLUSTER, "n1", "a", FOUR, "1", None, True),
        ("A.1.9", CLUSTER, "n0", "a", FOUR, "14", None, True),
        ("A.1.10", CLUSTER, "n1", "a", "1R(a,n1) 2R 3R(c,n3) 4R(a,n4)", "1234", None, True),
        ("A.1.11", CLUSTER, "here", "", "1X 2X", "", None, False),
        ("A.1.12", CLUSTER, "here", "", "1T(L) 2T", "12", None, True),
        ("A.1.13", ETP_NODE_PORT, "here", "a", "1R(L,a) 2R(L,b) 3R(c) 4R(a)", "14", "12", True),
        ("A.1.14", Policies(external_local=True), "here", "", "1R 2R(L)", "12", None, True),
        ("A.1.15", ETP_NODE_PORT, "here", "", "1R 2X(L) 3T(L) 4T", "1", "3", True),
        ("A.1.16", ITP, "here", "", "1R 2R", None, "", True),
        ("A.1.17", ITP, "here", "", "", None, "", False),
        ("A.1.18", Policies(internal_local=True, external=True), "here", "", "1R(L) 2R", "12", "1", True),
        ("A.1.19", Policies(True, True, True), "here", "", "1T 2T", "12", "", True),
    ],
)
def test_a1_endpoint_sets(
    row: str,
    policies: Policies,
    node: str,
    zone: str,
    given: str,
    cluster: str | None,
    local: str | None,
    has_any: bool,
) -> None:
    assert sets(policies, node, zone, given) == (cluster, local, has_any), row


@pytest.mark.parametrize(
    ("rule", "node", "given", "local"),
    [
        ("E-07 an empty name is nobody's", "", "1R 2R(L)", ""),
        ("E-07 an endpoint without a node is never local", "here", "1R", ""),
        ("T-11 hints do not apply to the local set", "here", "1R(L,b) 2R(a)", "1"),
        ("T-02 local ready ones go before local terminating ones", "here", "1T(L) 2R(L) 3R", "2"),
        ("T-05 the fallbacks are independent", "here", "1T(L) 2R", "1"),
    ],
)
def test_local_sets(rule: str, node: str, given: str, local: str) -> None:
    assert sets(Policies(internal_local=True, external=True), node, "a", given)[1] == local, rule


def test_t01_the_fallback_ignores_hints() -> None:
    """The last Pods of a zone that is being emptied would be unreachable from other zones."""
    assert sets(CLUSTER, "here", "a", "1T(a) 2T(b)")[0] == "12"
