"""All contestants."""

from __future__ import annotations

from collections.abc import Sequence

from proxies.base import Contestant
from proxies.direct import Direct
from proxies.haproxy import Haproxy, HaproxyLargeBuffers, HaproxyTransparent
from proxies.kubeproxy import Iptables, IptablesLegacy, Nftables
from proxies.nginx import Nginx
from proxies.sozu import Sozu
from proxies.spliceway import Spliceway, SplicewayBind, SplicewayBindCopy, SplicewayCopy
from proxies.userspace import Userspace

__all__ = ["ALL", "BASE", "Contestant", "find"]

#: in the order of tables
_KINDS: tuple[type[Contestant], ...] = (
    Direct,
    Iptables,
    IptablesLegacy,
    Nftables,
    Userspace,
    Haproxy,
    HaproxyLargeBuffers,
    HaproxyTransparent,
    Nginx,
    Sozu,
    Spliceway,
    SplicewayCopy,
    SplicewayBind,
    SplicewayBindCopy,
)
ALL: dict[str, type[Contestant]] = {kind.name: kind for kind in _KINDS}
#: ratios are to this one's figure of the same round: what most clusters run
BASE = Iptables.name


def find(names: Sequence[str]) -> tuple[list[type[Contestant]], dict[str, str]]:
    """Those that can take part, and why the others cannot."""
    absent = {name: why for name in names if (why := ALL[name].missing()) is not None}
    return [ALL[name] for name in names if name not in absent], absent
