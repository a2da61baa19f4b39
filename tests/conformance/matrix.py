"""The cells: not the whole product, but every rule with every client, and protocols and families spread over them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from .scenario import (
    CLIENTS,
    CLUSTER_IP,
    EXTERNAL_IP,
    LB_PROXY,
    LB_VIP,
    LOCALHOST,
    NODE_PORT,
    NODE_PORT_2,
    NODE_PORT_OTHER,
    STATES,
    Cell,
    Config,
)

#: protocol and family
KINDS = tuple(itertools.product(("TCP", "UDP"), (4, 6)))
#: states and clients with every protocol and family
CORE = ("both", "remote", "none")
CORE_CLIENTS = ("pod1", "node1", "external")
EXTERNALS = (NODE_PORT, EXTERNAL_IP, LB_VIP)


def cells() -> list[Cell]:
    """All cells, each once, in the order of their Services."""
    made = dict.fromkeys(itertools.chain(_policies(), _mixed(), _reach(), _ranges(), _places()))
    return sorted(made, key=lambda cell: (cell.config, cell.frontend, cell.client, cell.protocol, cell.family))


def configs(cells: Iterable[Cell]) -> list[Config]:
    """The Services that the cells need."""
    return sorted({cell.config for cell in cells})


def _policies() -> Iterator[Cell]:
    """Every state of endpoints, seen by every client through each policy."""
    turn = itertools.count()
    for local, state in itertools.product((False, True), STATES):
        config = Config(state, internal_local=local, external_local=local)
        for client in CLIENTS:
            if state in CORE:
                for frontend in (CLUSTER_IP, *EXTERNALS):
                    kinds = KINDS if client in CORE_CLIENTS else (KINDS[next(turn) % 4],)
                    yield from (Cell(client, frontend, config, *kind) for kind in kinds)
            else:
                number = next(turn)
                yield Cell(client, CLUSTER_IP, config, *KINDS[number % 4])
                yield Cell(client, EXTERNALS[number % 3], config, *KINDS[(number + number // 4) % 4])


def _mixed() -> Iterator[Cell]:
    """One policy says nothing about the other one's addresses (T-12)."""
    turn = itertools.count()
    for (internal, external), state in itertools.product(((False, True), (True, False)), CORE):
        config = Config(state, internal_local=internal, external_local=external)
        for client, frontend in itertools.product(CLIENTS, (CLUSTER_IP, *EXTERNALS)):
            yield Cell(client, frontend, config, *KINDS[next(turn) % 4])


def _reach() -> Iterator[Cell]:
    """A Service that only has a ClusterIP, and one that has external IPs without being of another type (S-10)."""
    turn = itertools.count()
    for state, local in itertools.product(("both", "remote", "none", "ending-remote"), (False, True)):
        for client in CLIENTS:
            config = Config(state, internal_local=local, reach="internal")
            yield Cell(client, CLUSTER_IP, config, *KINDS[next(turn) % 4])
            config = Config(state, external_local=local, reach="external-ip")
            yield Cell(client, EXTERNAL_IP, config, *KINDS[next(turn) % 4])


def _ranges() -> Iterator[Cell]:
    """Source ranges: allowed and blocked clients, with and without endpoints, and addresses that they do not guard."""
    turn = itertools.count()
    for ranges, state, local in itertools.product(("some", "others", "other-family"), ("both", "none"), (False, True)):
        config = Config(state, external_local=local, ranges=ranges)
        for client in CLIENTS:
            number = next(turn)
            yield Cell(client, LB_VIP, config, *KINDS[number % 4])
            yield Cell(client, LB_VIP, config, *KINDS[(number + 3) % 4])
            if ranges == "others":
                for shift, frontend in enumerate((NODE_PORT, CLUSTER_IP, EXTERNAL_IP)):
                    yield Cell(client, frontend, config, *KINDS[(number + shift) % 4])


def _places() -> Iterator[Cell]:
    """NodePorts at every address of a node, and load balancers that nodes must leave alone."""
    for local, state in itertools.product((False, True), ("both", "local", "none", "host")):
        config = Config(state, internal_local=local, external_local=local)
        for index, client in enumerate(CLIENTS):
            for shift, frontend in enumerate((NODE_PORT_OTHER, NODE_PORT_2)):
                yield Cell(client, frontend, config, *KINDS[(index + shift) % 4])
                yield Cell(client, frontend, config, *KINDS[(index + shift + 3) % 4])
            if client in ("node1", "node2") and state != "host":
                yield from (Cell(client, LOCALHOST, config, *kind) for kind in KINDS)
    for client, kind in itertools.product(CLIENTS, KINDS):
        yield Cell(client, LB_PROXY, Config("both"), *kind)
        yield Cell(client, LB_PROXY, Config("none", internal_local=True, external_local=True), *kind)
