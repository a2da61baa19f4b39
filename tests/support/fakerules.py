"""Packet rules without a kernel, for tests of what stands before them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from spliceway.model import ClientClass, Frontend, FrontendKey, Node, Problem


class FakeListener(NamedTuple):
    fd: int
    client_class: ClientClass


class FakeRules:
    """Implements `spliceway.apply.captured.Rules`.

    Args:
        calls: where changes are noted, for assertions on order.
        classes: the class of a client by its address; EXT for others.
        node_addresses: where NodePorts are served.
        problems: what is wrong with the rules.
    """

    def __init__(
        self,
        calls: list[tuple[Any, ...]],
        *,
        classes: Mapping[str, ClientClass] | None = None,
        node_addresses: Collection[str] = (),
        problems: tuple[Problem, ...] = (),
    ) -> None:
        self._calls = calls
        self._classes = classes or {}
        self._node_addresses = node_addresses
        self._problems = problems

    async def open(self) -> Sequence[FakeListener]:
        return ()

    async def change(self, changed: Iterable[Frontend], removed: Iterable[FrontendKey]) -> None:
        listed = tuple((str(each.key), each.verdict.value) for each in changed)
        self._calls.append(("rules", listed, tuple(map(str, removed))))

    async def update_node(self, node: Node | None) -> None:
        pass

    async def watch(self) -> None:
        pass

    def classify(self, host: str) -> ClientClass:
        return self._classes.get(host, ClientClass.EXT)

    def serves_node_port(self, host: str) -> bool:
        return host in self._node_addresses

    def problems(self) -> tuple[Problem, ...]:
        return self._problems
