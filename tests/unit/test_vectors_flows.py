"""Test vectors A.2 to A.4 of the specification, through the whole plan of a Service.

A failure sends a class of clients to the wrong endpoints, hides their address from the backend, or (worse) shows the
backend an address whose replies do not come back through this node.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from spliceway.model import Address, ClientClass, Service, SliceEndpoint
from support.clients import (
    CLUSTER_IP,
    EXT,
    EXTERNAL_IP,
    NODE,
    NODE_PORT,
    POD,
    VIP,
    Meeting,
    everywhere,
    meets,
    node_options,
    plan_endpoints,
    plan_of,
)
from support.objects import service

LOCAL = SliceEndpoint("10.0.1.1", node="here")
REMOTE = SliceEndpoint("10.0.2.1", node="there")
NAMES = {"L": LOCAL.address, "R": REMOTE.address, "LR": f"{LOCAL.address},{REMOTE.address}"}

SERVICES: dict[str, dict[str, Any]] = {
    "svc1": {},
    "svc2": {"external_local": True},
    "svc3": {"internal_local": True},
}
INTERNAL = {"ClusterIP": CLUSTER_IP}
EXTERNAL = {"NodePort": NODE_PORT, "external IP": EXTERNAL_IP, "LB VIP": VIP}
#: from, to, and what clients of svc1 (both Cluster), svc2 (ETP Local) and svc3 (ITP Local) get; m: masqueraded
MATRIX = [
    (POD, INTERNAL, "LR", "LR", "L"),
    (POD, EXTERNAL, "LR m", "LR", "LR m"),
    (NODE, INTERNAL, "LR m", "LR m", "L m"),
    (NODE, EXTERNAL, "LR m", "LR m", "LR m"),
    (EXT, INTERNAL, "LR m", "LR m", "L m"),
    (EXT, EXTERNAL, "LR m", "L", "LR m"),
]
CELLS = [
    (client, to, address, name, cells[number])
    for client, addresses, *cells in MATRIX
    for to, address in addresses.items()
    for number, name in enumerate(SERVICES)
]


def meeting(cell: str) -> Meeting:
    hosts, _, mark = cell.partition(" ")
    return Meeting(NAMES[hosts], mark == "m")


def look(name: str, address: Address, client: ClientClass, **more: Any) -> Meeting:
    svc = everywhere(service("shop", **SERVICES[name]))
    return meets(plan_endpoints(svc, [LOCAL, REMOTE], node_options(**more)), address, client)


@pytest.mark.parametrize(("client", "to", "address", "name", "cell"), CELLS)
def test_a2_flow_matrix(client: ClientClass, to: str, address: Address, name: str, cell: str) -> None:
    assert look(name, address, client) == meeting(cell), f"A.2 {client.name} -> {to} of {name}"


@pytest.mark.parametrize(("client", "to", "address", "name", "cell"), CELLS)
def test_a2_without_a_detector(client: ClientClass, to: str, address: Address, name: str, cell: str) -> None:
    """Nobody is of class POD then: Pods count as EXT, or NODE where they use the node's address (T-13)."""
    if to == "ClusterIP":
        cell = cell.partition(" ")[0]
    if client is POD and to != "ClusterIP" and name == "svc2":
        cell = "L"
    seen_as = EXT if client is POD else client
    assert look(name, address, seen_as, cidrs=()) == meeting(cell), f"A.2 no detector, {client.name} -> {to} of {name}"


@pytest.mark.parametrize(("client", "to", "address", "name", "cell"), CELLS)
def test_a2_masquerade_all(client: ClientClass, to: str, address: Address, name: str, cell: str) -> None:
    """It concerns ClusterIPs only (M-06)."""
    if to == "ClusterIP":
        cell = cell.partition(" ")[0] + " m"
    assert look(name, address, client, masquerade_all=True) == meeting(cell), f"A.2 {client.name} -> {to} of {name}"
    if to == "ClusterIP":
        assert look(name, address, client, masquerade_all=True, cidrs=()) == meeting(cell)


SECOND_VIP = Address("5.6.7.9", 80)
RANGES = ("192.168.0.0/24", "203.0.113.0/25")


@pytest.mark.parametrize(
    ("who", "client", "source", "address", "expected"),
    [
        ("accepted client", EXT, "203.0.113.2", VIP, "m"),
        ("accepted client, other VIP", EXT, "203.0.113.2", SECOND_VIP, "m"),
        ("blocked client", EXT, "203.0.113.130", VIP, "DROP"),
        ("blocked client, other VIP", EXT, "203.0.113.130", SECOND_VIP, "DROP"),
        ("blocked client to the NodePort, D-11", EXT, "203.0.113.130", NODE_PORT, "m"),
        ("blocked client to the external IP, T-17", EXT, "203.0.113.130", EXTERNAL_IP, "m"),
        ("Pod, whose range is not listed", POD, "10.0.0.2", VIP, "DROP"),
        ("Pod to the ClusterIP", POD, "10.0.0.2", CLUSTER_IP, ""),
        ("node", NODE, "192.168.0.2", VIP, "m"),
        ("the VIP itself, T-19", NODE, VIP.host, VIP, "m"),
        ("the other VIP itself, T-19", NODE, SECOND_VIP.host, SECOND_VIP, "m"),
    ],
)
def test_a3_source_ranges(who: str, client: ClientClass, source: str, address: Address, expected: str) -> None:
    svc = msgspec.structs.replace(
        everywhere(service("shop", source_ranges=RANGES)), ingress_ips=(VIP.host, SECOND_VIP.host)
    )
    plan = plan_endpoints(svc, [LOCAL], node_options(node_addresses=("192.168.0.2", "fd00::2")))
    wanted = Meeting("DROP") if expected == "DROP" else Meeting(LOCAL.address, expected == "m")
    assert meets(plan, address, client, source) == wanted, f"A.3 {who}"


def state(number: int, kind: str, node: str = "here") -> SliceEndpoint:
    """R ready, T terminating and serving, X terminating and not serving."""
    return SliceEndpoint(f"10.0.0.{number}", ready=kind == "R", serving=kind != "X", terminating=kind != "R", node=node)


@pytest.mark.parametrize(
    ("row", "given", "pod", "external"),
    [
        ("A.4.1", [(1, "R"), (2, "R"), (3, "T"), (4, "X"), (5, "R", "there")], (1, 2, 5), (1, 2)),
        ("A.4.2", [(2, "T"), (3, "T"), (4, "X"), (5, "R", "there")], (5,), (2, 3)),
        ("A.4.3", [(5, "T", "there")], (5,), "DROP"),
        ("A.4.4", [(5, "X"), (6, "X", "there")], "REJECT", "REJECT"),
        ("A.4.5 slice deleted", None, "REJECT", "REJECT"),
    ],
)
def test_a4_terminating_endpoints(
    row: str, given: list[tuple[int, str]] | None, pod: tuple[int, ...] | str, external: tuple[int, ...] | str
) -> None:
    svc: Service = everywhere(service("shop", external_local=True))
    plan = plan_of(svc) if given is None else plan_endpoints(svc, [state(*each) for each in given], node_options())

    def hosts(numbers: tuple[int, ...] | str) -> str:
        return numbers if isinstance(numbers, str) else ",".join(f"10.0.0.{number}" for number in numbers)

    assert meets(plan, CLUSTER_IP, POD).hosts == hosts(pod), row
    assert meets(plan, VIP, EXT).hosts == hosts(external), row
    drops = external == "DROP"
    assert (plan.no_local_internal, plan.no_local_external) == (0, int(drops)), "N-08 counts DROP only"
