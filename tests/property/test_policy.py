"""The whole plan of a Service against a second, slow and literal reading of the rules (sections 2.5 to 2.9).

A difference sends some class of clients to the wrong endpoints, or hides an address that should be kept.
"""

from __future__ import annotations

from itertools import permutations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from spliceway.model import ClientClass, Protocol, Service, SliceEndpoint
from spliceway.plan.endpoints import merge_endpoints
from support.clients import (
    CLUSTER_IP,
    DROP,
    EXT,
    EXTERNAL_IP,
    NODE,
    NODE_PORT,
    POD,
    REJECT,
    VIP,
    Meeting,
    everywhere,
    meets,
    node_options,
    plan_endpoints,
    plan_of,
)
from support.objects import endpoints, service

HINTS = st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True).map(tuple)
ENDPOINTS = st.lists(
    st.builds(
        SliceEndpoint,
        st.sampled_from([f"10.0.0.{number}" for number in range(1, 7)]),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["here", "there", None]),
        HINTS | st.just(("a",)),
        HINTS.map(lambda each: tuple({"a": "here", "b": "there"}[hint] for hint in each)),
    ),
    max_size=6,
    unique_by=lambda each: each.address,
)


class Oracle:
    """Says what a client gets, rule by rule, for one Service."""

    def __init__(self, given: list[SliceEndpoint], svc: Service, node: str, zone: str) -> None:
        self._given, self._svc, self._node, self._zone = given, svc, node, zone

    def asked(self, *, internal: bool, client: ClientClass, detector: bool, masquerade_all: bool) -> Meeting:
        """Table 2.8, read from top to bottom for one packet."""
        if not self._any():
            return Meeting(REJECT)  # hasAny=false, whatever the destination
        if internal:
            masqueraded = masquerade_all or (detector and client is not POD)
            return self._from(self._local() if self._svc.internal_local else self._cluster(), masqueraded)
        if not self._svc.external_local:
            return self._from(self._cluster(), True)
        if client is POD and detector:
            return self._from(self._cluster(), False)
        if client is NODE:
            return self._from(self._cluster(), True)
        return self._from(self._local(), False)

    def _from(self, chosen: set[str], masqueraded: bool) -> Meeting:
        return Meeting(",".join(sorted(chosen)), masqueraded) if chosen else Meeting(DROP)

    def _any(self) -> bool:
        return any(each.ready or (each.serving and each.terminating) for each in self._given)

    def _cluster(self) -> set[str]:
        ready = [each for each in self._given if each.ready]
        if not ready:
            return {each.address for each in self._given if each.serving and each.terminating}
        by_node = all(each.node_hints for each in ready) and any(self._node in each.node_hints for each in ready)
        by_zone = all(each.zone_hints for each in ready) and any(self._zone in each.zone_hints for each in ready)
        if by_node:
            return {each.address for each in ready if self._node in each.node_hints}
        if by_zone:
            return {each.address for each in ready if self._zone in each.zone_hints}
        return {each.address for each in ready}

    def _local(self) -> set[str]:
        mine = [each for each in self._given if self._node and each.node == self._node]
        ready = {each.address for each in mine if each.ready}
        return ready or {each.address for each in mine if each.serving and each.terminating}


@given(
    ENDPOINTS,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["here", ""]),
    st.sampled_from(["a", "b", "c", ""]),
)
def test_every_client_gets_what_the_rules_say(
    given_endpoints: list[SliceEndpoint],
    internal_local: bool,
    external_local: bool,
    detector: bool,
    masquerade_all: bool,
    node: str,
    zone: str,
) -> None:
    svc = everywhere(service("shop", internal_local=internal_local, external_local=external_local))
    cidrs = ("10.0.0.0/8",) if detector else ()
    options = node_options(node, cidrs=cidrs, zone=zone, masquerade_all=masquerade_all)
    plan = plan_endpoints(svc, given_endpoints, options)
    oracle = Oracle(given_endpoints, svc, node, zone)
    for client in (POD, NODE, EXT):
        seen_as = EXT if client is POD and not detector else client
        for address in (CLUSTER_IP, NODE_PORT, EXTERNAL_IP, VIP):
            wanted = oracle.asked(
                internal=address == CLUSTER_IP, client=client, detector=detector, masquerade_all=masquerade_all
            )
            assert meets(plan, address, seen_as) == wanted, f"{client.name} -> {address}"


@given(ENDPOINTS, st.booleans(), st.booleans())
def test_udp_sessions_may_stay_wherever_an_endpoint_serves(
    given_endpoints: list[SliceEndpoint], internal_local: bool, external_local: bool
) -> None:
    """C-05: a session that is cut although its endpoint serves loses its client; one that is kept loses datagrams."""
    svc = everywhere(
        service("shop", ports={"dns": (80, "UDP")}, internal_local=internal_local, external_local=external_local)
    )
    slices = endpoints("shop", *given_endpoints, ports={"dns": (80, "UDP")})
    options = node_options()
    alike = everywhere(service("shop", internal_local=internal_local, external_local=external_local))
    tcp = plan_endpoints(alike, given_endpoints, options)
    plan = plan_of(svc, slices, options=options)
    serving = {each.address for each in given_endpoints if each.serving}
    for pool, like in zip(plan.pools, tcp.pools, strict=True):
        assert pool.protocol is Protocol.UDP
        takers = {each.host for each in pool.backends if each.weight}
        assert takers == {each.host for each in like.backends}
        assert {each.host for each in pool.backends} == serving | takers
        assert len({each.address for each in pool.backends}) == len(pool.backends)


@given(st.lists(st.tuples(ENDPOINTS, st.integers(1, 1200)), max_size=4))
def test_e09_the_order_of_slices_does_not_matter(pieces: list[tuple[list[SliceEndpoint], int]]) -> None:
    """Otherwise the pools of two nodes, or of one node before and after a restart, would differ."""
    slices = [
        msgspec.structs.replace(endpoints(f"shop.{number}", *each), resource_version=str(version * 10 + number))
        for number, (each, version) in enumerate(pieces)
    ]
    merged = merge_endpoints(slices, {})
    assert all(merge_endpoints(order, {}) == merged for order in permutations(slices))
    for members, _ in merged.values():
        for (host, _), winner in members.items():
            rivals = [(each, piece) for piece in slices for each in piece.endpoints if each.address == host]
            best = max(rivals, key=lambda rival: (_rank(rival[0]), int(rival[1].resource_version)))
            assert winner == best[0]


def _rank(endpoint: SliceEndpoint) -> int:
    if endpoint.ready:
        return 2
    return 1 if endpoint.serving and endpoint.terminating else 0
