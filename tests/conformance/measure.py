"""Asking all cells of one contestant, and comparing what came of them with the oracle."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from cluster.api import Api
from support.nodes import Host, Node, Rig, each
from support.probes import Observed, Probe, Protocol

from .contestants import Running
from .objects import Objects
from .oracle import CLIENT, DROPPED, NODE, REFUSED, SERVED, Outcome, capturing_node, expected
from .scenario import CLIENT_PLACES, CLUSTER_IP, LB_VIP, Cell, Config

#: attempts of a cell that is served: of two backends both are seen, but for one in 10^12 cells; fewer would do once
#: all have answered, but a backend that must not be used should have its chance
AT_LEAST, AT_MOST = 8, 40
REFUSALS = 2
TIMEOUT = 0.8
#: where an ICMPv6 error answers a SYN, Linux tells the client of it when it sends the next one, a second later
TIMEOUT_TCP6 = 1.5
#: a contestant has everything in force after this time
READY_SECONDS = 40.0
POLL_SECONDS = 0.1
ZONE_LABEL = "topology.kubernetes.io/zone"


class Result(NamedTuple):
    """One cell of one contestant."""

    cell: Cell
    expected: Outcome
    got: Outcome

    @property
    def equal(self) -> bool:
        """The contestant did what the oracle says."""
        return self.expected == self.got


def measure(rig: Rig, objects: Objects, cells: list[Cell]) -> list[Result]:
    """Ask all cells; one that is not as expected is asked once more, to rule out noise."""
    results = {cell: Result(cell, expected(cell), got) for cell, got in _ask(rig, objects, cells).items()}
    unequal = [cell for cell, result in results.items() if not result.equal]
    for cell, got in _ask(rig, objects, unequal).items():
        results[cell] = results[cell]._replace(got=got)
    return list(results.values())


def wait_complete(rig: Rig, objects: Objects, running: Running, api: Api) -> None:
    """Return when the contestant has all in force, on each node for either family: verdicts, and its zone."""
    frontends = {Config("both"): (CLUSTER_IP, LB_VIP), Config("none"): (CLUSTER_IP, LB_VIP)}
    signs = [
        Cell(client, frontend, config, protocol, family)
        for config, names in frontends.items()
        for frontend in names
        for client in ("pod1", "pod2")
        for protocol in ("TCP", "UDP")
        for family in (4, 6)
    ]
    _wait_for(rig, objects, running, signs, lambda cell, outcome: outcome.verdict == expected(cell).verdict)
    _tell_zones_again(rig, api)
    zonal = [
        Cell(client, CLUSTER_IP, Config("zones"), protocol, family)
        for client in ("pod1", "pod2")
        for protocol in ("TCP", "UDP")
        for family in (4, 6)
    ]
    _wait_for(rig, objects, running, zonal, lambda cell, outcome: outcome == expected(cell))


def _tell_zones_again(rig: Rig, api: Api) -> None:
    """Change the zone of each node, and back.

    kube-proxy 1.37 may miss its node's zone for ever: its informer of nodes may deliver the Node before the handler
    for topology is registered, and equal labels are not handed on later.
    """
    for zone in ("zone-of-nobody", None):
        for node in rig.nodes:
            api.patch("Node", node.name, {"metadata": {"labels": {ZONE_LABEL: zone or node.zone}}})


def _wait_for(
    rig: Rig, objects: Objects, running: Running, signs: list[Cell], right: Callable[[Cell, Outcome], bool]
) -> None:
    """Ask ``signs`` until all outcomes are right."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        running.check()
        wrong = {str(cell): str(got) for cell, got in _ask(rig, objects, signs).items() if not right(cell, got)}
        if not wrong:
            return
        assert time.monotonic() < deadline, (
            f"not in force after {READY_SECONDS:.0f} s: {wrong}; {running.tail('node1')}"
        )
        time.sleep(POLL_SECONDS)


def _ask(rig: Rig, objects: Objects, cells: list[Cell]) -> dict[Cell, Outcome]:
    """Ask the cells, all clients at once."""
    by_client: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_client[cell.client].append(cell)

    def ask(client: str) -> list[tuple[Cell, Outcome]]:
        mine = by_client[client]
        observed = place_of(rig, client).namespace.probe(_probe(objects, cell) for cell in mine)
        return [(cell, _outcome(rig, cell, seen)) for cell, seen in zip(mine, observed, strict=True)]

    return {cell: outcome for part in each(by_client, ask) for cell, outcome in part}


def place_of(rig: Rig, client: str) -> Host:
    """Where a client of the cells is."""
    return next(host for host in rig.hosts if host.name == CLIENT_PLACES[client])


def _probe(objects: Objects, cell: Cell) -> Probe:
    host, port = objects.address(cell)
    protocol: Protocol = "TCP" if cell.protocol == "TCP" else "UDP"
    wanted = expected(cell)
    if wanted.verdict != SERVED:
        timeout = TIMEOUT_TCP6 if (cell.protocol, cell.family) == ("TCP", 6) else TIMEOUT
        return Probe(protocol, host, port, REFUSALS, REFUSALS, timeout=timeout)
    names = tuple(backend for backend, _ in wanted.backends)
    return Probe(protocol, host, port, AT_LEAST, AT_MOST, names, TIMEOUT)


def _outcome(rig: Rig, cell: Cell, seen: Observed) -> Outcome:
    """Put what was observed in the oracle's words; what fits none of them is told in full."""
    verdicts = [
        *([SERVED] if seen.answers else []),
        *([REFUSED] if seen.refused else []),
        *([DROPPED] if seen.dropped else []),
        *seen.faults,
    ]
    backends = tuple(sorted((name, _whom(rig, cell, hosts)) for name, hosts in seen.sources.items()))
    return Outcome("+".join(verdicts), backends)


def _whom(rig: Rig, cell: Cell, sources: tuple[str, ...]) -> str:
    """Tell whom a backend saw: the client, the capturing node, or the addresses if it was neither."""
    node = next(node for node in rig.nodes if node.name == capturing_node(cell))
    if set(sources) <= set(_addresses(node)):
        return NODE
    if set(sources) <= set(_addresses(place_of(rig, cell.client))):
        return CLIENT
    return ",".join(sources)


def _addresses(host: Host) -> tuple[str, ...]:
    return (*host.hosts, *host.others) if isinstance(host, Node) else host.hosts
