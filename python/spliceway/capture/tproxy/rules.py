"""The text of the nftables table: a few fixed chains, and maps that say what becomes of each frontend. Pure.

``docs/capture.md`` walks a packet through it. Three ideas carry it:

- **One map for both hooks.** A frontend is one element whose value is an action chain. Action chains only set the
  capture mark, refuse or drop, so packets from outside (prerouting) and of the node's own processes (output) can use
  the same map; leading a marked packet to a socket is then the business of prerouting alone.
- **Before conntrack.** Both hooks run at priority raw: UDP is not tracked at all, and no NAT rule of another program
  sees a packet first.
- **A standing connection is its socket.** Packets of TCP connections are led to the socket that they belong to before
  any map is asked, so they survive their frontend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from spliceway.model import ClientClass, FrontendVerdict, Protocol

TABLE = "spliceway"
FAMILY = "inet"

#: takes the table away, whether it is there or not
REMOVAL = f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n"

#: suffixes of maps and sets by IP version, with the nftables words for it
FAMILIES: Mapping[int, tuple[str, str]] = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}

_LOOPBACK = {4: "127.0.0.1", 6: "[::1]"}
_CLASS_CHAINS = {ClientClass.POD: "pod", ClientClass.NODE: "node", ClientClass.EXT: "external"}
#: ``reject`` and ``drop`` are words of nftables, so the chains have other names
_VERDICT_CHAINS = {FrontendVerdict.SERVE: "serve", FrontendVerdict.REJECT: "refuse", FrontendVerdict.DROP: "discard"}
_NEW_TCP = "tcp flags & (fin | syn | rst | ack) == syn"
_RUNNING_TCP = "tcp flags & (fin | syn | rst | ack) != syn"


class Marks(NamedTuple):
    """The two bits of the packet mark that are ours. Other bits are never touched.

    ``capture`` alone is a packet from outside that is to be led to one of our sockets, ``upstream`` alone one that the
    engine sends (never to be captured), and both a packet of the node's own processes that is to be captured. That one
    differs so that reverse-path checks, which look up routes as if the node sent the packet, can be kept out of our
    routing table (`spliceway.capture.tproxy.routing`).
    """

    capture: int
    upstream: int

    @classmethod
    def of_bit(cls, bit: int) -> Marks:
        """The marks of ``CaptureSettings.mark_bit``."""
        return cls(1 << bit, 1 << (bit + 1))

    @property
    def both(self) -> int:
        """Both bits."""
        return self.capture | self.upstream


class PortKey(NamedTuple):
    """Which listener: class of client, protocol, IP version."""

    client_class: ClientClass
    protocol: Protocol
    version: int


class Detector(NamedTuple):
    """How packets of Pods are known: by the sets of CIDRs, or (when not empty) by an interface name or prefix."""

    interface: str = ""
    prefix: bool = False

    def conditions(self) -> tuple[str, ...]:
        """What holds for a Pod's packet; any one of them is enough."""
        if self.interface:
            return (f'iifname "{self.interface}{"*" if self.prefix else ""}"',)
        return ("ip saddr @pods4", "ip6 saddr @pods6")


def action_chain(verdict: FrontendVerdict, external: FrontendVerdict, *, guarded: bool) -> str:
    """The chain for a frontend: ``external`` is the verdict for class EXT, ``guarded`` asks the source set first."""
    name = _VERDICT_CHAINS[verdict]
    if external is not verdict:
        name = f"{name}_external_{_VERDICT_CHAINS[external]}"
    return f"guard_{name}" if guarded else name


class Accepted(NamedTuple):
    """At which of the node's own addresses of one family NodePorts are served (D-06 to D-08)."""

    #: None: all of them, whatever they are when the packet comes
    addresses: tuple[str, ...] | None
    #: on loopback addresses, for the node's own processes only (D-09)
    loopback: bool = False


def table_text(marks: Marks, ports: Mapping[PortKey, int], detector: Detector, accepted: Mapping[int, Accepted]) -> str:
    """The whole table, without elements. ``ports`` has the listeners' ports; a missing one serves nobody."""
    chains = [
        _chain("bridged", _BRIDGED),
        _chain("prerouting", "type filter hook prerouting priority raw; policy accept;\ngoto arriving"),
        _chain("arriving", _arriving(marks)),
        _chain("output", _output(marks)),
        _chain("tracked", _tracked(marks)),
        _chain("own", _OWN),
        _chain("arrived", f"meta l4proto tcp {_clear(marks)}\ngoto own"),
        _chain("homeward", f"{_set(marks.both)}\nmeta l4proto udp notrack"),
        _chain("sessions", _sessions(marks)),
        _chain("divert", _divert(marks)),
        _chain("node_address", node_address_body(accepted)),
        _chain("nodeports", _NODEPORTS),
        *(_chain(name, _listener(client, ports)) for client, name in _CLASS_CHAINS.items()),
        _chain("capture", _capture(detector)),
        *_action_chains(marks, detector),
    ]
    return f"table {FAMILY} {TABLE} {{\n{_SETS}{''.join(chains)}}}\n"


def node_address_body(accepted: Mapping[int, Accepted]) -> str:
    """Rules of chain ``node_address``: on to the NodePorts, for the addresses at which they are served."""
    lines: list[str] = []
    for version, loopback in ((4, "127.0.0.0/8"), (6, "::1")):
        word, (addresses, with_loopback) = FAMILIES[version][0], accepted[version]
        lines.append(f"{word} daddr {loopback} {'goto nodeports' if with_loopback else 'return'}")
        if addresses is None:
            lines.append(f"meta nfproto ipv{version} goto nodeports")
        elif addresses:
            lines.append(f"{word} daddr {{ {', '.join(addresses)} }} goto nodeports")
    return "\n".join(lines)


def node_address_text(accepted: Mapping[int, Accepted]) -> str:
    """Commands that write chain ``node_address`` anew."""
    lines = node_address_body(accepted).splitlines()
    chain = f"{FAMILY} {TABLE} node_address"
    return f"flush chain {chain}\n" + "".join(f"add rule {chain} {line}\n" for line in lines)


def _is(marks: Marks, mark: int) -> str:
    return f"meta mark & {marks.both:#010x} == {mark:#010x}"


def _set(mark: int) -> str:
    return f"meta mark set meta mark | {mark:#010x}"


def _clear(marks: Marks) -> str:
    return f"meta mark set meta mark & {~marks.both & 0xFFFFFFFF:#010x}"


def _chain(name: str, body: str) -> str:
    return f"\tchain {name} {{\n" + "".join(f"\t\t{line}\n" for line in body.splitlines()) + "\t}\n"


_SETS = "".join(
    f"""\tmap frontends{version} {{ type {kind} . inet_proto . inet_service : verdict; }}
\tmap nodeports{version} {{ type inet_proto . inet_service : verdict; }}
\tset udp_frontends{version} {{ type {kind} . inet_service; }}
\tset sources{version} {{ type {kind} . inet_proto . inet_service . {kind}; flags interval; }}
\tset pods{version} {{ type {kind}; flags interval; auto-merge; }}
"""
    for version, (_, kind) in FAMILIES.items()
)

_FRONTENDS = """ip daddr . meta l4proto . th dport vmap @frontends4
ip6 daddr . meta l4proto . th dport vmap @frontends6"""

_NODEPORTS = """meta nfproto ipv4 meta l4proto . th dport vmap @nodeports4
meta nfproto ipv6 meta l4proto . th dport vmap @nodeports6"""

#: With br_netfilter, a packet that a bridge takes up to the node has been through prerouting inside the bridge, and
#: does not come through again, but the socket that was found for it there is forgotten on the way. Only what is
#: first of all, and registered later than the hook that skips the rest, sees it once more. Fragments are put together
#: later (inside the bridge, if at all before this).
_BRIDGED = """type filter hook prerouting priority -2147483648; policy accept;
meta iifkind != "bridge" return
ip frag-off & 0x3fff != 0 return
exthdr frag exists return
goto arriving"""

#: What the engine sends. (Where TCP arrives on this node, chain ``arrived`` takes the mark away first, lest sockets of
#: backends inherit it by tcp_fwmark_accept.)
#: No conntrack entry for UDP of our own sockets, except where `_tracked` needs one. An answer in the name of a frontend
#: to a process of the node looks like that (neither address is a client's own), so the first two rules know it.
_OWN = """meta l4proto != udp return
ip saddr . th sport @udp_frontends4 notrack return
ip6 saddr . th sport @udp_frontends6 notrack return
fib daddr type local fib saddr type != local return
notrack"""


def _arriving(marks: Marks) -> str:
    """Packets of Pods, from outside, and (by lo) those that `_output` has marked."""
    return f"""{_is(marks, marks.upstream)} goto arrived
iif "lo" {_clear(marks)}
meta l4proto {{ icmp, icmpv6 }} goto sessions
meta l4proto != {{ tcp, udp }} return
{_RUNNING_TCP} jump sessions
{_FRONTENDS}
{_is(marks, marks.capture)} goto capture
{_RUNNING_TCP} return
iif != "lo" ip daddr 127.0.0.0/8 return
iif != "lo" ip6 daddr ::1 return
fib daddr type local jump node_address
{_is(marks, marks.capture)} goto capture
meta l4proto udp goto sessions"""


def _output(marks: Marks) -> str:
    """Packets of the node's own processes: what is marked here is routed to lo, and meets `_arriving` there.

    TCP to a NodePort of an own address goes through lo without help. UDP would be tracked by then.
    """
    return f"""type route hook output priority raw; policy accept;
{_is(marks, marks.upstream)} goto own
meta l4proto != {{ tcp, udp }} return
{_FRONTENDS}
{_is(marks, marks.capture)} jump homeward
meta l4proto != udp return
{_is(marks, 0)} fib daddr type local jump node_address
{_is(marks, marks.capture)} jump homeward"""


def _tracked(marks: Marks) -> str:
    """Two kinds of packets that the node itself sends can only be known by conntrack; both are marked for lo.

    A reply of a backend on the node to an upstream socket that has its client's address is an ordinary packet to that
    client. And what a process of the node sends on a standing connection must come home when the frontend is gone.
    """
    known, remember = (
        f"ct mark & {marks.capture:#010x} == {marks.capture:#010x}",
        f"ct mark set ct mark | {marks.capture:#010x}",
    )
    return f"""type route hook output priority mangle; policy accept;
{_is(marks, marks.upstream)} ct direction original fib daddr type local fib saddr type != local {remember}
{_is(marks, marks.upstream)} return
{_is(marks, marks.both)} meta l4proto tcp {remember} return
{known} ct direction reply {_set(marks.both)}
{known} {_RUNNING_TCP} {_set(marks.both)}"""


def _sessions(marks: Marks) -> str:
    """Packets, and ICMP errors about packets, of standing connections and of upstream sockets with a client's address.

    A listening wildcard socket of another program may be transparent as well; what it gets is not ours to say. (A
    connection that is just being set up or was just closed is no full socket: the first rule says nothing of it.)
    Replies to UDP sockets with the node's own address need no lead, but are not tracked, so the mark is all by which a
    firewall may know them.
    """
    return f"""socket wildcard 1 return
socket transparent 1 goto divert
meta l4proto udp socket mark & {marks.upstream:#010x} == {marks.upstream:#010x} goto divert"""


def _divert(marks: Marks) -> str:
    return f"""{_set(marks.capture)}
meta l4proto udp notrack
accept"""


def _capture(detector: Detector) -> str:
    """Which class of client (T-13: Pods first), hence which listener."""
    lines = ["meta l4proto udp notrack"]
    lines += [f"{condition} goto {_CLASS_CHAINS[ClientClass.POD]}" for condition in detector.conditions()]
    lines.append(f"fib saddr type local goto {_CLASS_CHAINS[ClientClass.NODE]}")
    lines.append(f"goto {_CLASS_CHAINS[ClientClass.EXT]}")
    return "\n".join(lines)


def _listener(client: ClientClass, ports: Mapping[PortKey, int]) -> str:
    """Lead to the listener, or drop when it is not there (the agent is restarting: clients try again)."""
    lines: list[str] = []
    for version, (word, _) in FAMILIES.items():
        for protocol in (Protocol.TCP, Protocol.UDP):
            if port := ports.get(PortKey(client, protocol, version)):
                words = f"meta nfproto ipv{version} meta l4proto {protocol.lower()}"
                lines.append(f"{words} tproxy {word} to {_LOOPBACK[version]}:{port} accept")
    return "\n".join([*lines, "drop"])


def _action_chains(marks: Marks, detector: Detector) -> list[str]:
    """The chains that elements name: the three verdicts, their mixtures by class, and all of them behind a guard."""
    chains = [
        _chain("serve", _set(marks.capture)),
        _chain("refuse", f"{_NEW_TCP} reject with tcp reset\nmeta l4proto udp reject"),
        _chain("discard", f"{_NEW_TCP} drop\nmeta l4proto udp drop"),
    ]
    pairs = [(verdict, external) for verdict in FrontendVerdict for external in FrontendVerdict]
    for verdict, external in pairs:
        if verdict is not external:
            inside = f"goto {_VERDICT_CHAINS[verdict]}"
            lines = [f"{condition} {inside}" for condition in (*detector.conditions(), "fib saddr type local")]
            name = action_chain(verdict, external, guarded=False)
            chains.append(_chain(name, "\n".join([*lines, f"goto {_VERDICT_CHAINS[external]}"])))
    for verdict, external in pairs:
        inside = f"goto {action_chain(verdict, external, guarded=False)}"
        lines = [
            f"{word} daddr . meta l4proto . th dport . {word} saddr @sources{version} {inside}"
            for version, (word, _) in FAMILIES.items()
        ]
        name = action_chain(verdict, external, guarded=True)
        chains.append(_chain(name, "\n".join([*lines, "goto discard"])))
    return chains
