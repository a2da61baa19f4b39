"""At which addresses healthCheckNodePorts answer: those that answer NodePorts (H-01)."""

from __future__ import annotations

from collections.abc import Callable

from spliceway.model import Node
from spliceway.observe.listening import has_ipv6
from spliceway.settings import CaptureSettings

_WILDCARDS = {4: "0.0.0.0", 6: "::"}


class HealthHosts:
    """Resolved once, as kube-proxy does; the Node's own addresses must be known where they are asked for. Blocking.

    Args:
        settings: which addresses answer NodePorts.
        node: the Node, as far as it is known.
    """

    def __init__(self, settings: CaptureSettings, node: Callable[[], Node | None]) -> None:
        self._settings = settings
        self._node = node
        self._resolved: dict[int, tuple[str, ...]] | None = None

    def __call__(self, family: int) -> tuple[str, ...]:
        """The addresses of a family, 4 or 6; a wildcard where all of them answer."""
        if not self._settings.node_port_addresses:
            return (_WILDCARDS[family],) if family == 4 or has_ipv6() else ()
        if self._resolved is None:
            self._resolved = self._resolve()
        return self._resolved[family] if self._resolved else ()

    def _resolve(self) -> dict[int, tuple[str, ...]] | None:
        from spliceway.capture.tproxy.nodeports import accepted_addresses
        from spliceway.capture.tproxy.routing import interface_addresses

        node = self._node()
        if node is None and "primary" in self._settings.node_port_addresses:
            return None
        present = (address for _, address in interface_addresses())
        accepted = accepted_addresses(self._settings, node.addresses if node else None, present)
        found: dict[int, tuple[str, ...]] = {}
        for family in (4, 6):
            hosts = accepted[family].addresses
            everywhere = (_WILDCARDS[family],) if family == 4 or has_ipv6() else ()
            found[family] = everywhere if hosts is None else hosts
        return found
