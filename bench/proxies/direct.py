"""No proxy: clients dial the backends in turn, routed by their node. It is what the machine can do at best."""

from __future__ import annotations

from pathlib import Path

from stands import Stand, Stands

from proxies.base import Contestant


class Direct(Contestant):
    """The limit of all ratios."""

    name = "direct"

    def start(self, stand: Stand, stands: Stands, kubeconfig: Path | None) -> None:
        self._backends = stand.backends

    def targets(self) -> list[str]:
        return self._backends
