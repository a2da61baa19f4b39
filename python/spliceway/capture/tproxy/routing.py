"""The ip rules and the route that bring marked packets to the machine's own sockets. Blocking.

For each family, with priorities from ``CaptureSettings.rule_priority`` on::

    107: from all fwmark 0x10/0x30 iif lo goto 109     (reverse-path checks, see below)
    108: from all fwmark 0x10/0x10 lookup 1070
    109: from all nop
    table 1070: local default dev lo

With ``src_valid_mark`` the kernel looks up the way back to a packet's sender with the packet's mark, and would find the
sender to be local. Such a look-up comes "from lo", as packets of the node itself do; those have both bits of the mark.

Rules and routes carry our own protocol number, by which `remove_all` knows them whatever settings made them.
"""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path
from typing import NamedTuple

from spliceway.capture.tproxy import netlink
from spliceway.capture.tproxy.layout import Marks

#: ``proto`` of our rules and routes; no routing daemon has it (iproute2's rt_protos)
PROTOCOL = 107

_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWADDR, _GETADDR = 20, 22
_NEWLINK, _GETLINK = 16, 18
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_RULE = struct.Struct("=BBBBBBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ADDRESS = struct.Struct("=BBBBI")
_LINK = struct.Struct("=BxHiII")
_TO_TABLE, _GOTO, _NOP = 1, 2, 3
_IIF, _GOTO_TARGET, _PRIORITY, _MARK, _RULE_TABLE, _MASK, _RULE_PROTOCOL = 3, 4, 6, 10, 15, 16, 21
_OUT, _ROUTE_TABLE = 4, 15
_LOCAL_TYPE, _HOST_SCOPE = 2, 254
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IF_NAME, _LINK_INFO, _INFO_KIND = 3, 18, 1

_IPV6_ADDRESSES = Path("/proc/net/if_inet6")

_VERSIONS: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 6}


class Rule(NamedTuple):
    """What of an ip rule is compared."""

    priority: int
    action: int
    mark: int = 0
    mask: int = 0
    iif: str = ""
    table: int = 0
    target: int = 0


class Routing(NamedTuple):
    """Makes and checks them."""

    marks: Marks
    table: int
    priority: int

    def ensure(self) -> list[str]:
        """Make what is missing, and remove other rules and routes of ours. Returns the names of what was made.

        Raises:
            OSError: the kernel refused.
        """
        made: list[str] = []
        for family in present_families():
            made += self._ensure_rules(family) + self._ensure_route(family)
        return made

    def _ensure_rules(self, family: int) -> list[str]:
        there = _our_rules(family)
        made: list[str] = []
        wanted = self._rules()
        for rule in wanted:
            if rule not in there:
                _change_rule(_NEWRULE, family, rule)
                made.append(_rule_name(family, rule))
        for rule in there:
            if rule not in wanted:
                _change_rule(_DELRULE, family, rule)
        return made

    def _ensure_route(self, family: int) -> list[str]:
        tables = _our_routes(family)
        for table in tables:
            if table != self.table:
                _change_route(_DELROUTE, family, table)
        if self.table in tables:
            return []
        _change_route(_NEWROUTE, family, self.table)
        return [_route_name(family, self.table)]

    def _rules(self) -> tuple[Rule, ...]:
        first, marks = self.priority, self.marks
        return (
            Rule(first + 2, _NOP),
            Rule(first, _GOTO, marks.capture, marks.both, iif="lo", target=first + 2),
            Rule(first + 1, _TO_TABLE, marks.capture, marks.capture, table=self.table),
        )


def remove_all() -> list[str]:
    """Remove every rule and route that was ever ours, and name them.

    Raises:
        OSError: the kernel refused.
    """
    removed: list[str] = []
    for family in present_families():
        for rule in _our_rules(family):
            _change_rule(_DELRULE, family, rule)
            removed.append(_rule_name(family, rule))
        for table in _our_routes(family):
            _change_route(_DELROUTE, family, table)
            removed.append(_route_name(family, table))
    return removed


def interface_addresses() -> list[tuple[str, str]]:
    """Every address of this machine, with the name of its interface."""
    found: list[tuple[str, str]] = []
    names = dict(socket.if_nameindex())
    for family in present_families():
        for message in _dump(_GETADDR, _ADDRESS.pack(family, 0, 0, 0, 0), _NEWADDR):
            index = _ADDRESS.unpack_from(message)[4]
            values = netlink.attributes(message, _ADDRESS.size)
            if raw := values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS):
                found.append((names.get(index, ""), socket.inet_ntop(family, raw)))
    return found


def bridges() -> tuple[str, ...]:
    """The names of this machine's Linux bridges."""
    kind = netlink.attribute(_INFO_KIND, b"bridge")
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + netlink.nested(_LINK_INFO, kind)
    names = (netlink.attributes(found, _LINK.size)[_IF_NAME] for found in _dump(_GETLINK, body, _NEWLINK))
    return tuple(sorted(name.rstrip(b"\0").decode() for name in names))


def route_interface(host: str) -> str:
    """The interface by which packets to ``host`` leave; empty when nothing leads there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    raw = socket.inet_pton(family, host)
    body = _ROUTE.pack(family, len(raw) * 8, 0, 0, 0, 0, 0, 0, 0) + netlink.attribute(1, raw)
    try:
        answers = netlink.request(netlink.NETLINK_ROUTE, _GETROUTE, body)
        index = netlink.to_number(netlink.attributes(answers[0].body, _ROUTE.size).get(_OUT)) if answers else 0
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""


def present_families() -> tuple[int, ...]:
    """AF_INET, and AF_INET6 where the machine has it and it is not disabled."""
    try:
        six = bool(_IPV6_ADDRESSES.read_text())
    except OSError:
        six = False
    return (socket.AF_INET, socket.AF_INET6) if six else (socket.AF_INET,)


def _rule_name(family: int, rule: Rule) -> str:
    return f"IPv{_VERSIONS[family]} rule {rule.priority}"


def _route_name(family: int, table: int) -> str:
    return f"IPv{_VERSIONS[family]} route in table {table}"


def _our_rules(family: int) -> list[Rule]:
    found: list[Rule] = []
    for body in _dump(_GETRULE, _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), _NEWRULE):
        values = netlink.attributes(body, _RULE.size)
        if netlink.to_number(values.get(_RULE_PROTOCOL)) == PROTOCOL:
            found.append(_read_rule(body, values))
    return found


def _read_rule(body: bytes, values: netlink.Attributes) -> Rule:
    action = _RULE.unpack_from(body)[7]
    return Rule(
        netlink.to_number(values.get(_PRIORITY)),
        action,
        netlink.to_number(values.get(_MARK)),
        netlink.to_number(values.get(_MASK)),
        values.get(_IIF, b"").rstrip(b"\0").decode(),
        netlink.to_number(values.get(_RULE_TABLE)) if action == _TO_TABLE else 0,
        netlink.to_number(values.get(_GOTO_TARGET)),
    )


def _change_rule(kind: int, family: int, rule: Rule) -> None:
    body = _RULE.pack(family, 0, 0, 0, 0, 0, 0, rule.action, 0)
    body += netlink.number(_PRIORITY, rule.priority) + netlink.attribute(_RULE_PROTOCOL, bytes([PROTOCOL]))
    if rule.mask:
        body += netlink.number(_MARK, rule.mark) + netlink.number(_MASK, rule.mask)
    if rule.iif:
        body += netlink.attribute(_IIF, rule.iif.encode() + b"\0")
    if rule.table:
        body += netlink.number(_RULE_TABLE, rule.table)
    if rule.target:
        body += netlink.number(_GOTO_TARGET, rule.target)
    _change(kind, body, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL if kind == _NEWRULE else 0)


def _our_routes(family: int) -> list[int]:
    """The tables in which there is a local default route of ours."""
    body = _ROUTE.pack(family, 0, 0, 0, 0, PROTOCOL, 0, _LOCAL_TYPE, 0)
    tables: list[int] = []
    for found in _dump(_GETROUTE, body, _NEWROUTE):
        _, length, _, _, table, protocol, _, _, _ = _ROUTE.unpack_from(found)
        if protocol == PROTOCOL and not length:
            tables.append(netlink.to_number(netlink.attributes(found, _ROUTE.size).get(_ROUTE_TABLE)) or table)
    return tables


def _change_route(kind: int, family: int, table: int) -> None:
    body = _ROUTE.pack(family, 0, 0, 0, 0, PROTOCOL, _HOST_SCOPE, _LOCAL_TYPE, 0)
    body += netlink.number(_OUT, socket.if_nametoindex("lo")) + netlink.number(_ROUTE_TABLE, table)
    _change(kind, body, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL if kind == _NEWROUTE else 0)


def _change(kind: int, body: bytes, flags: int) -> None:
    """Another hand may have been faster: what is there already, or gone already, is as it should be."""
    try:
        netlink.request(netlink.NETLINK_ROUTE, kind, body, flags)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOENT, errno.ESRCH):
            raise


def _dump(kind: int, body: bytes, answer: int) -> list[bytes]:
    answers = netlink.request(netlink.NETLINK_ROUTE, kind, body, netlink.NLM_F_DUMP)
    return [message.body for message in answers if message.type == answer]
