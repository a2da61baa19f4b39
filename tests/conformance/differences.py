"""Every cell in which a contestant may differ from the specification's table, and why. Anything else fails the tests.

An entry that fits no cell fails as well: then the difference is gone, and so must the entry be. Patterns are globs; a
cell is written as ``CLIENT FRONTEND SERVICE PROTOCOL vFAMILY`` (`scenario.Cell`), an outcome as ``served
BACKEND<SOURCE …`` (`oracle.Outcome`). The names of Services begin with the policies: internal, external; c or l.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from .measure import Result


class Difference(NamedTuple):
    """Cells of some contestants that come out as ``got`` (any of them) instead of ``expected``."""

    contestants: str
    cells: tuple[str, ...]
    expected: str
    got: tuple[str, ...]
    reason: str

    def fits(self, contestant: str, result: Result) -> bool:
        """Say whether a result that is not as expected is this difference."""
        return (
            fnmatchcase(contestant, self.contestants)
            and any(fnmatchcase(str(result.cell), cell) for cell in self.cells)
            and fnmatchcase(str(result.expected), self.expected)
            and any(fnmatchcase(str(result.got), got) for got in self.got)
        )


#: at a node, dialled by a Pod of the other one, with ETP=Local
_PODS_OF_OTHERS = (
    "endpoint1 node-port-2 ?l-*",
    "pod1 node-port-2 ?l-*",
    "pod2 node-port ?l-*",
    "pod2 node-port-other ?l-*",
)

DIFFERENCES = (
    Difference(
        "kube-proxy-iptables",
        ("node? external-ip *", "node? lb-vip *"),
        "refused",
        ("dropped",),
        "N-04: verdicts on external destinations are not in OUTPUT: the packet leaves for a load balancer that may be "
        "somewhere else. spliceway refuses at once, as nftables mode does.",
    ),
    Difference(
        "kube-proxy-iptables",
        ("* lb-vip ??-none-* *",),
        "dropped",
        ("refused",),
        "T-20: the filter of source ranges is only there with endpoints, so blocked clients learn that there are none.",
    ),
    Difference(
        "kube-proxy-nftables",
        ("* node-port-other *",),
        "served *",
        ("refused",),
        "D-07: without nodePortAddresses, nftables mode accepts NodePorts at a node's primary addresses only; the "
        "oracle has the default of iptables mode, which is spliceway's: all addresses.",
    ),
    Difference(
        "kube-proxy-iptables",
        ("node? localhost * v6",),
        "served *",
        ("refused", "dropped"),
        "D-09: iptables mode has NodePorts at 127.0.0.1, but never at ::1.",
    ),
    Difference(
        "kube-proxy-nftables",
        ("node? localhost *",),
        "served *",
        ("refused",),
        "D-10: nftables mode has no NodePorts on loopback (an alpha feature, off).",
    ),
    Difference(
        "kube-proxy-*",
        ("* ??-host* *",),
        "served *<node*",
        ("served *<client*",),
        "Netfilter masquerades what leaves a node, so a host-network backend of the capturing node itself sees the "
        "client although the table has the node. spliceway's backends see what the table says.",
    ),
    Difference(
        "kube-proxy-*",
        _PODS_OF_OTHERS,
        "served *<node*",
        ("served+dropped *", "dropped"),
        "M-02: with a cluster's CIDR as the detector, a Pod of another node keeps its address at this node's NodePort, "
        "so what a backend elsewhere answers passes this node by. spliceway takes the node's address there (M-09).",
    ),
    Difference(
        "spliceway*",
        tuple(cell.replace("?l-*", "?l-* UDP *") for cell in _PODS_OF_OTHERS),
        "served *<node*",
        ("served+dropped *", "dropped"),
        "The same by UDP, where silence is no sign: spliceway takes the node's address when a client asks again from "
        "its port, or when TCP has shown it for the same two addresses shortly before. The cells' clients ask once.",
    ),
)


def explain(contestant: str, results: Iterable[Result]) -> tuple[dict[Difference, list[Result]], list[Result]]:
    """Sort the results that are not as expected: by the difference that they are, and those that are none."""
    found: dict[Difference, list[Result]] = {}
    unexplained: list[Result] = []
    for result in results:
        if not result.equal:
            fitting = next((entry for entry in DIFFERENCES if entry.fits(contestant, result)), None)
            if fitting is None:
                unexplained.append(result)
            else:
                found.setdefault(fitting, []).append(result)
    return found, unexplained


def unused(contestant: str, found: Iterable[Difference]) -> list[Difference]:
    """Differences of a contestant that none of its cells has."""
    seen = set(found)
    return [entry for entry in DIFFERENCES if fnmatchcase(contestant, entry.contestants) and entry not in seen]
