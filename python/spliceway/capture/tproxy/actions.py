"""The chains that elements name: what becomes of a frontend's packets. Pure."""

from __future__ import annotations

from spliceway.capture.tproxy.layout import FAMILIES, NEW_TCP, RUNNING_TCP, Detector, Marks, chain, set_mark
from spliceway.model import FrontendVerdict

#: ``reject`` and ``drop`` are words of nftables, so the chains have other names
_VERDICT_CHAINS = {FrontendVerdict.SERVE: "serve", FrontendVerdict.REJECT: "refuse", FrontendVerdict.DROP: "discard"}


def action_chain(verdict: FrontendVerdict, external: FrontendVerdict, *, guarded: bool) -> str:
    """The chain for a frontend: ``external`` is the verdict for class EXT, ``guarded`` asks the source set first."""
    name = _VERDICT_CHAINS[verdict]
    if external is not verdict:
        name = f"{name}_external_{_VERDICT_CHAINS[external]}"
    return f"guard_{name}" if guarded else name


def action_chains(marks: Marks, detector: Detector) -> list[str]:
    """The three verdicts, their mixtures by class, and all of them behind a guard."""
    chains = [
        chain("serve", set_mark(marks.capture)),
        chain("refuse", _refuse(marks)),
        chain("discard", f"{NEW_TCP} drop\nmeta l4proto udp drop"),
    ]
    pairs = [(verdict, external) for verdict in FrontendVerdict for external in FrontendVerdict]
    for verdict, external in pairs:
        if verdict is not external:
            inside = f"goto {_VERDICT_CHAINS[verdict]}"
            lines = [f"{condition} {inside}" for condition in (*detector.conditions(), "fib saddr type local")]
            name = action_chain(verdict, external, guarded=False)
            chains.append(chain(name, "\n".join([*lines, f"goto {_VERDICT_CHAINS[external]}"])))
    for verdict, external in pairs:
        inside = f"goto {action_chain(verdict, external, guarded=False)}"
        lines = [
            f"{word} daddr . meta l4proto . th dport . {word} saddr @sources{version} {inside}"
            for version, (word, _) in FAMILIES.items()
        ]
        name = action_chain(verdict, external, guarded=True)
        chains.append(chain(name, "\n".join([*lines, "goto discard"])))
    return chains


def refusal_chains(marks: Marks) -> list[str]:
    """Refuse what `_refuse` has marked (in output, `spliceway.capture.tproxy.rules` leads there).

    The kernel's own mark is taken away first: with ``fwmark_reflect`` the answer would have it.
    """
    hook = "type filter hook prerouting priority mangle; policy accept;"
    return [
        chain("refused", f"{hook}\n{marks.equal(marks.refused_arriving)} goto refuse_now"),
        chain("refuse_now", f"{marks.clear()}\nmeta l4proto tcp reject with tcp reset\nreject"),
    ]


def _refuse(marks: Marks) -> str:
    """Only a mark: conntrack must see a packet before it is refused.

    Then the kernel's reset or ICMP error belongs to a connection that conntrack knows, and a firewall's ``ct state
    invalid drop`` lets it pass, on its way out as well as back to a process of the node.
    """
    return f"""{RUNNING_TCP} return
meta iif != 0 {set_mark(marks.refused_arriving)} accept
{set_mark(marks.refused_leaving)} accept"""
