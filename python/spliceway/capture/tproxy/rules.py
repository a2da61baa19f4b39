"""The text of the nftables table: a few fixed chains, and maps that say what becomes of each frontend. Pure.

``docs/capture.md`` walks a packet through it. Three ideas carry it:

- **One map for both hooks.** A frontend is one element whose value is an action chain. Action chains only set the
  mark or drop, so packets from outside (prerouting) and of the node's own processes (output) can use the same map;
  leading a marked packet to a socket is then the business of prerouting alone.
- **Before conntrack.** Both hooks run at priority raw: UDP is not tracked at all, TCP of clients may be left out of it
  as well, and no NAT rule of another program sees a packet first. Only refusals are carried out behind conntrack, and
  before NAT.
- **A standing connection is its socket.** Packets of TCP connections are led to the socket that they belong to before
  any map is asked, so they survive their frontend. Sockets are known by their mark, in one look.
"""

from __future__ import annotations

from collections.abc import Mapping

from spliceway.capture.tproxy.actions import action_chains, refusal_chains
from spliceway.capture.tproxy.arrivals import arrival_text, led_counter
from spliceway.capture.tproxy.layout import (
    FAMILIES,
    FAMILY,
    RUNNING_TCP,
    TABLE,
    Detector,
    Marks,
    PortKey,
    chain,
    set_mark,
)
from spliceway.capture.tproxy.nodeports import Accepted, node_address_body
from spliceway.model import ClientClass, Protocol

_LOOPBACK = {4: "127.0.0.1", 6: "[::1]"}
_CLASS_CHAINS = {ClientClass.POD: "pod", ClientClass.NODE: "node", ClientClass.EXT: "external"}


def table_text(
    marks: Marks,
    ports: Mapping[PortKey, int],
    detector: Detector,
    accepted: Mapping[int, Accepted],
    *,
    untracked_clients: bool = False,
    bridged: bool = False,
) -> str:
    """The whole table, without elements. ``ports`` has the listeners' ports; a missing one serves nobody.

    ``untracked_clients`` is `CaptureSettings.untracked_clients`; ``bridged``: packets meet these rules inside bridges.
    """
    leg = "untracked" if untracked_clients else "divert"
    chains = [
        *([chain("bridged", _BRIDGED)] if bridged else []),
        chain("prerouting", "type filter hook prerouting priority raw; policy accept;\ngoto arriving"),
        chain("arriving", _arriving(marks, leg)),
        chain("output", _output(marks)),
        chain("tracked", _tracked(marks)),
        chain("own", _OWN),
        chain("answer", _answer(marks)),
        chain("arrived", f"meta l4proto tcp {marks.clear()}\ngoto own"),
        chain("homeward", f"{set_mark(marks.both)}\nmeta l4proto udp notrack"),
        chain("sessions", _sessions(marks)),
        chain("half_open", _half_open(marks, leg)),
        chain("divert", _divert(marks)),
        chain("untracked", _untracked(marks)),
        chain("node_address", node_address_body(accepted)),
        chain("nodeports", _NODEPORTS),
        *(chain(name, _listener(client, ports)) for client, name in _CLASS_CHAINS.items()),
        chain("capture", _capture(detector, untracked_clients)),
        *action_chains(marks, detector),
        *refusal_chains(marks),
    ]
    return f"table {FAMILY} {TABLE} {{\n{_SETS}{arrival_text(marks, detector)}{''.join(chains)}}}\n"


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
#: later (inside the bridge, if at all before this). Elsewhere it would be one hook more for every packet.
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


def _arriving(marks: Marks, leg: str) -> str:
    """Packets of Pods, from outside, and (by lo) those that `_output` has marked.

    ``leg`` is the chain for packets of clients' connections that have no full socket (yet, or any more). Those of
    standing ones come first of all: they are the most.
    """
    return f"""{marks.equal(marks.upstream)} goto arrived
iif "lo" {marks.clear()}
{RUNNING_TCP} jump sessions
meta l4proto {{ icmp, icmpv6 }} goto sessions
meta l4proto != {{ tcp, udp }} return
{_FRONTENDS}
{marks.equal(marks.capture)} {RUNNING_TCP} socket transparent 1 goto {leg}
{marks.equal(marks.capture)} goto capture
{RUNNING_TCP} socket transparent 1 jump half_open
{RUNNING_TCP} return
iif != "lo" ip daddr 127.0.0.0/8 return
iif != "lo" ip6 daddr ::1 return
fib daddr type local jump node_address
{marks.equal(marks.capture)} goto capture
meta l4proto udp goto sessions"""


def _output(marks: Marks) -> str:
    """Packets of the node's own processes: what is marked here is routed to lo, and meets `_arriving` there.

    TCP to a NodePort of an own address goes through lo without help. UDP would be tracked by then. With
    ``fwmark_reflect``, what the kernel itself answers to a captured packet has its mark, and must not be captured.
    """
    return f"""type route hook output priority raw; policy accept;
{marks.equal(marks.upstream)} goto own
{marks.equal(marks.capture)} meta l4proto tcp goto answer
{marks.clear()}
meta l4proto != {{ tcp, udp }} return
{_FRONTENDS}
{marks.equal(marks.capture)} jump homeward
meta l4proto != udp return
{marks.equal(0)} fib daddr type local jump node_address
{marks.equal(marks.capture)} jump homeward"""


def _answer(marks: Marks) -> str:
    """Packets of sockets whose clients are not tracked. What stays on the node is tracked (`_tracked` needs it)."""
    return f"""oif != "lo" notrack return
{marks.clear()}
{set_mark(marks.upstream)}"""


def _tracked(marks: Marks) -> str:
    """Two kinds of packets that the node itself sends can only be known by conntrack; both are marked for lo.

    A reply of a backend on the node to an upstream socket that has its client's address is an ordinary packet to that
    client. And what a process of the node sends on a standing connection must come home when the frontend is gone.
    (The third rule is the second half of a refusal, see `spliceway.capture.tproxy.actions`. What has this mark and is
    not tracked comes from chain ``answer``. The engine's packets that leave the node are the most, so they come first.)
    """
    remember = f"ct mark set ct mark | {marks.capture:#010x}"
    return f"""type route hook output priority mangle; policy accept;
{marks.equal(marks.upstream)} oif != "lo" return
ct state untracked return
{marks.equal(marks.refused_leaving)} goto refuse_now
{marks.equal(marks.upstream)} ct direction original fib saddr type != local {remember}
{marks.equal(marks.upstream)} return
{marks.equal(marks.both)} meta l4proto tcp {remember} return
ct mark & {marks.capture:#010x} != {marks.capture:#010x} return
ct direction reply {set_mark(marks.both)}
{RUNNING_TCP} {set_mark(marks.both)}"""


def _sessions(marks: Marks) -> str:
    """Packets, and ICMP errors about packets, of standing connections and of upstream sockets.

    One look at the socket tells whose it is: a client's connection that is not tracked, or any other of ours. (That
    includes upstream sockets with the node's own address, whose packets would come without being led. For UDP the mark
    is all by which a firewall may know them.)
    """
    return (
        f"socket mark & {marks.both:#010x} vmap "
        f"{{ {marks.capture:#010x} : goto untracked, {marks.upstream:#010x} : goto divert }}"
    )


def _half_open(marks: Marks, leg: str) -> str:
    """TCP connections that are just being set up or were just closed have no full socket, so no mark tells of them.

    Their frontend is a NodePort, or gone; or it is the upstream side with a client's address. (The first rule lets
    sockets of other programs be, which may be transparent as well.)
    """
    return f"""socket mark & {marks.both:#010x} == 0 return
fib daddr type local jump node_address
{marks.equal(marks.capture)} goto {leg}
goto divert"""


def _divert(marks: Marks) -> str:
    return f"""{set_mark(marks.capture)}
meta l4proto udp notrack
accept"""


def _untracked(marks: Marks) -> str:
    """As `_divert`. (What came by lo is tracked since it was sent, and stays so.)"""
    return f"""{set_mark(marks.capture)}
notrack
accept"""


def _capture(detector: Detector, untracked_clients: bool) -> str:
    """Which class of client (T-13: Pods first), hence which listener."""
    lines = ["notrack" if untracked_clients else "meta l4proto udp notrack"]
    lines += [f"{condition} goto {_CLASS_CHAINS[ClientClass.POD]}" for condition in detector.conditions()]
    lines.append(f"fib saddr type local goto {_CLASS_CHAINS[ClientClass.NODE]}")
    lines.append(f"goto {_CLASS_CHAINS[ClientClass.EXT]}")
    return "\n".join(lines)


def _listener(client: ClientClass, ports: Mapping[PortKey, int]) -> str:
    """Lead to the listener, or drop when it is not there (the agent is restarting: clients try again)."""
    lines: list[str] = []
    counter = led_counter(client)
    for version, (word, _) in FAMILIES.items():
        for protocol in (Protocol.TCP, Protocol.UDP):
            if port := ports.get(PortKey(client, protocol, version)):
                words = f"meta nfproto ipv{version} meta l4proto {protocol.lower()}"
                count = f"counter name {counter} " if protocol is Protocol.TCP and counter else ""
                lines.append(f"{words} tproxy {word} to {_LOOPBACK[version]}:{port} {count}accept")
    return "\n".join([*lines, "drop"])
