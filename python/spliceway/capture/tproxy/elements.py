"""A frontend as elements of the table's maps and sets. Pure."""

from __future__ import annotations

import functools
import ipaddress
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from spliceway.capture.tproxy.actions import action_chain
from spliceway.capture.tproxy.layout import FAMILY, TABLE
from spliceway.model import Frontend, FrontendVerdict, Protocol

_WILDCARDS = ("0.0.0.0", "::")
_WORDS = {Protocol.TCP: "tcp", Protocol.UDP: "udp"}


class Element(NamedTuple):
    """One element of map or set ``container``. ``action`` is empty for a set's."""

    container: str
    key: str
    action: str = ""


def elements_of(frontend: Frontend) -> tuple[Element, ...]:
    """All elements of one frontend; no two frontends have one in common."""
    word = _WORDS.get(frontend.protocol)
    if word is None:
        return ()
    host, port = frontend.address
    version = 6 if ":" in host else 4
    verdict, external = frontend.verdict, frontend.external.verdict if frontend.external else frontend.verdict
    if host in _WILDCARDS:
        # NodePorts know no source ranges (D-11).
        return (Element(f"nodeports{version}", f"{word} . {port}", _jump(verdict, external, False)),)
    key = f"{host} . {word} . {port}"
    element = Element(f"frontends{version}", key, _jump(verdict, external, bool(frontend.sources)))
    if word == "tcp" and not frontend.sources:
        return (element,)
    elements = [element]
    if word == "udp":
        elements.append(Element(f"udp_frontends{version}", f"{host} . {port}"))
    elements += [Element(f"sources{version}", f"{key} . {cidr}") for cidr in collapse(frontend.sources, version)]
    return tuple(elements)


@functools.cache
def _jump(verdict: FrontendVerdict, external: FrontendVerdict, guarded: bool) -> str:
    return f"jump {action_chain(verdict, external, guarded=guarded)}"


def collapse(cidrs: Iterable[str], version: int) -> tuple[str, ...]:
    """The CIDRs of one IP version without those inside others: a set of intervals refuses to hold both."""
    networks = (ipaddress.ip_network(cidr, strict=False) for cidr in cidrs)
    if version == 4:
        four = (network for network in networks if isinstance(network, ipaddress.IPv4Network))
        return tuple(str(each) for each in ipaddress.collapse_addresses(four))
    six = (network for network in networks if isinstance(network, ipaddress.IPv6Network))
    return tuple(str(each) for each in ipaddress.collapse_addresses(six))


def change_text(deleted: Iterable[Element], added: Iterable[Element]) -> str:
    """Commands that delete some elements and add others; in one transaction there is no moment between the two."""
    return _commands("delete", deleted, with_action=False) + _commands("add", added, with_action=True)


def _commands(command: str, elements: Iterable[Element], *, with_action: bool) -> str:
    by_container: defaultdict[str, list[str]] = defaultdict(list)
    for container, key, action in elements:
        by_container[container].append(f"{key} : {action}" if with_action and action else key)
    return "".join(
        f"{command} element {FAMILY} {TABLE} {container} {{ {', '.join(keys)} }}\n"
        for container, keys in by_container.items()
    )
