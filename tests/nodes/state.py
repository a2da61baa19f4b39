"""What an agent has made of the cluster's objects, and what it has made of its node: to be compared."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import msgspec

from spliceway.cli.agent import fetch_explanation
from spliceway.model import Address, FrontendKey
from spliceway.observe.stats import ServicePortRow
from support.nodes import Node

from .agents import Agent

TABLE = ("inet", "spliceway")


class Programmed(NamedTuple):
    """Everything that decides what becomes of a new flow; equal for equal objects, however they came to be."""

    #: elements of the table's maps and sets, by name
    elements: dict[str, list[str]]
    #: service ports with their frontends and endpoints, without numbers of traffic
    service_ports: dict[str, ServicePortRow]
    #: the engine's own word for each frontend that serves: pool, balance, and backends with weight and health
    engine: dict[str, tuple[str, str, tuple[tuple[str, int, bool], ...]]]


def programmed(agent: Agent) -> Programmed:
    """Read it from the kernel, from the agent, and from its engine."""
    rows = {row.pool: _without_traffic(row) for row in agent.state().services}
    served = [frontend.address for row in rows.values() for frontend in row.frontends if frontend.state == "serving"]
    return Programmed(_elements(agent.node), rows, {frontend: _explained(agent, frontend) for frontend in served})


def _without_traffic(row: ServicePortRow) -> ServicePortRow:
    kept = {name: getattr(row, name) for name in ("pool", "ready", "terminating", "unready", "unhealthy")}
    return ServicePortRow(**kept, frontends=tuple(sorted(row.frontends, key=lambda each: each.address)))


def _explained(agent: Agent, frontend: str) -> tuple[str, str, tuple[tuple[str, int, bool], ...]]:
    client = Address("::1" if frontend.startswith("[") else "127.0.0.1", 40_000)
    found = fetch_explanation(agent.socket, FrontendKey.parse(frontend), client)
    candidates = sorted((each.address, each.weight, each.healthy) for each in found.candidates)
    return found.pool, found.balance, tuple(candidates)


def _elements(node: Node) -> dict[str, list[str]]:
    listed = json.loads(node.namespace.run("nft", "-j", "list", "table", *TABLE))["nftables"]
    found: dict[str, list[str]] = {}
    for entry in listed:
        kept: dict[str, Any] | None = entry.get("map") or entry.get("set")
        if kept is not None:
            found[kept["name"]] = sorted(json.dumps(each, sort_keys=True) for each in kept.get("elem", ()))
    return found


def traces(node: Node) -> dict[str, str]:
    """All packet rules, ip rules and routes of a node, whosever they are, without counters and times."""
    commands = {
        "nft": "nft list ruleset",
        "iptables": "iptables-save",
        "ip6tables": "ip6tables-save",
        "rules of IPv4": "ip -4 rule show",
        "rules of IPv6": "ip -6 rule show",
        "routes of IPv4": "ip -4 route show table all",
        "routes of IPv6": "ip -6 route show table all",
    }
    return {name: _timeless(node.namespace.run(*command.split())) for name, command in commands.items()}


def _timeless(text: str) -> str:
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return "\n".join(re.sub(r"\[\d+:\d+\]|counter packets \d+ bytes \d+", "", line) for line in lines)


def differences(before: Programmed, after: Programmed) -> list[str]:
    """What is in one of them only, for a message that can be read."""
    found: list[str] = []
    for name in Programmed._fields:
        one, other = (msgspec.to_builtins(getattr(each, name)) for each in (before, after))
        for key in sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key)):
            found += [f"{name} {key}, before: {_cut(one.get(key), other.get(key))}"]
            found += [f"{name} {key}, after: {_cut(other.get(key), one.get(key))}"]
    return found


def _cut(one: Any, other: Any) -> Any:
    """Of two lists, what only the first one has."""
    if isinstance(one, list) and isinstance(other, list):
        return [each for each in one if each not in other]
    return one
