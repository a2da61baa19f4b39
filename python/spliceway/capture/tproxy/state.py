"""What the kernel is to have: frontends, Pod CIDRs and node addresses, as elements and nftables commands. No I/O.

The worker thread that carries a change out is the only one that touches it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from spliceway.capture.tproxy.detector import detector_of, pod_cidrs, pod_elements
from spliceway.capture.tproxy.elements import Element, change_text, elements_of
from spliceway.capture.tproxy.layout import REMOVAL, Marks, PortKey
from spliceway.capture.tproxy.nodeports import Accepted, accepted_addresses, node_address_text
from spliceway.capture.tproxy.rules import table_text
from spliceway.model import Frontend, FrontendKey, Node
from spliceway.settings import CaptureSettings


class ElementChange(NamedTuple):
    """Elements to delete and to add, in one transaction."""

    deleted: Sequence[Element]
    added: Sequence[Element]


class WantedTable:
    """The table as it is wanted. Each method that changes it returns what brings the kernel along."""

    def __init__(self, settings: CaptureSettings) -> None:
        self._settings = settings
        self._marks = Marks.of_bit(settings.mark_bit)
        self.detector = detector_of(settings)
        self.ports: Mapping[PortKey, int] = {}
        self.cidrs = pod_cidrs(settings, None)
        #: packets meet the rules inside bridges as well
        self.bridged = False
        #: elements of frontends
        self.elements = 0
        self._frontends: dict[FrontendKey, Frontend] = {}
        self._node: Node | None = None
        #: at which addresses NodePorts are served
        self.accepted: Mapping[int, Accepted] = accepted_addresses(settings, None, ())

    def change(self, changed: Iterable[Frontend], removed: Iterable[FrontendKey]) -> ElementChange:
        """Follow these frontends; a removed one that is not known is passed over."""
        deleted: dict[Element, None] = {}
        added: dict[Element, None] = {}
        for key in removed:
            if known := self._frontends.pop(key, None):
                deleted.update(dict.fromkeys(elements_of(known)))
        for frontend in changed:
            key = frontend.key
            known = self._frontends.get(key)
            self._frontends[key] = frontend
            before, after = elements_of(known) if known else (), elements_of(frontend)
            if before != after:
                deleted.update(dict.fromkeys(before))
                added.update(dict.fromkeys(after))
        same = deleted.keys() & added.keys()
        gone = [element for element in deleted if element not in same]
        new = [element for element in added if element not in same]
        self.elements += len(new) - len(gone)
        return ElementChange(gone, new)

    def follow_node(self, node: Node | None, present: Iterable[str]) -> str:
        """Follow the Node, and the addresses ``present`` on this machine's interfaces. Returns commands."""
        self._node = node
        cidrs, text = pod_cidrs(self._settings, node), ""
        if cidrs != self.cidrs:
            before, after = set(pod_elements(self.cidrs)), set(pod_elements(cidrs))
            text = change_text(sorted(before - after), sorted(after - before))
            self.cidrs = cidrs
        return text + self.follow_addresses(present)

    def follow_addresses(self, present: Iterable[str]) -> str:
        """Follow the addresses of this machine's interfaces (D-08). Returns commands."""
        accepted = accepted_addresses(self._settings, self._node.addresses if self._node else None, present)
        if accepted == self.accepted:
            return ""
        self.accepted = accepted
        return node_address_text(accepted)

    def whole(self) -> str:
        """Commands that replace the table, whatever it is now, in one transaction."""
        elements = [element for frontend in self._frontends.values() for element in elements_of(frontend)]
        self.elements = len(elements)
        return REMOVAL + self._table() + change_text((), (*pod_elements(self.cidrs), *elements))

    def matches(self, listing: bytes | None) -> bool:
        """Whether ``listing`` (of ``nft -j``) has the rules and elements that are wanted.

        Elements of maps are compared one by one, those of sets by number, and rules by number for each chain.
        """
        if listing is None:
            return False
        rules, maps, sets = _read_listing(listing)
        wanted_maps: dict[str, set[tuple[str, str]]] = {}
        wanted_sets: Counter[str] = Counter()
        frontend_elements = (each for frontend in self._frontends.values() for each in elements_of(frontend))
        for element in (*pod_elements(self.cidrs), *frontend_elements):
            if element.action:
                wanted_maps.setdefault(element.container, set()).add((element.key, element.action))
            else:
                wanted_sets[element.container] += 1
        return rules == _count_rules(self._table()) and maps == wanted_maps and sets == wanted_sets

    def _table(self) -> str:
        return table_text(
            self._marks,
            self.ports,
            self.detector,
            self.accepted,
            untracked_clients=self._settings.untracked_clients,
            bridged=self.bridged,
        )


def _count_rules(text: str) -> Counter[str]:
    """Rules of each chain of a table's text."""
    counts: Counter[str] = Counter()
    chain = ""
    for line in text.splitlines():
        if line.startswith("\tchain "):
            chain = line.split()[1]
        elif line.startswith("\t\t") and not line.startswith("\t\ttype "):
            counts[chain] += 1
    return counts


class _Rule(msgspec.Struct, gc=False):
    chain: str


class _Container(msgspec.Struct, gc=False):
    name: str
    elem: list[object] = []


class _Item(msgspec.Struct, gc=False):
    rule: _Rule | None = None
    map: _Container | None = None
    set: _Container | None = None


class _Listing(msgspec.Struct, gc=False):
    nftables: list[_Item]


def _read_listing(listing: bytes) -> tuple[Counter[str], dict[str, set[tuple[str, str]]], Counter[str]]:
    """Rules of each chain, elements of each map that has some, numbers of elements of each set that has some."""
    rules: Counter[str] = Counter()
    maps: dict[str, set[tuple[str, str]]] = {}
    sets: Counter[str] = Counter()
    try:
        items = msgspec.json.decode(listing, type=_Listing).nftables
    except msgspec.DecodeError:
        return rules, maps, sets
    for item in items:
        if item.rule:
            rules[item.rule.chain] += 1
        elif item.map and item.map.elem:
            maps[item.map.name] = {_read_pair(pair) for pair in item.map.elem}
        elif item.set and item.set.elem:
            sets[item.set.name] = len(item.set.elem)
    return rules, maps, sets


def _read_pair(pair: object) -> tuple[str, str]:
    """``[{"concat": [...]}, {"jump": {"target": ...}}]``; anything else is equal to nothing that is wanted."""
    match pair:
        case [{"concat": [*parts]}, {"jump": {"target": target}}]:
            return " . ".join(map(str, parts)), f"jump {target}"
        case _:
            return str(pair), ""
