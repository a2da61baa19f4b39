"""What every way of reaching a Service's backends can do for a bench."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from processes import BenchError, Child
from stands import SERVICE_PORT, VIP, Stand, Stands


class Contestant(ABC):
    """One way, on a stand of its own. `missing` is asked first, then it is made and started once."""

    name: ClassVar[str]
    #: it carries UDP as well
    udp: ClassVar[bool] = True
    #: it follows an API server, whose kubeconfig `start` needs; others only know the stand's three backends
    follows_api: ClassVar[bool] = False

    def __init__(self, vip: str = VIP) -> None:
        #: the Service's address
        self.vip = vip
        #: its process, once started; None where the kernel does it all
        self.child: Child | None = None

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot take part and what to do about it, or None."""
        return None

    @abstractmethod
    def start(self, stand: Stand, stands: Stands, kubeconfig: Path | None) -> None:
        """Start it on the stand's node; it answers soon after (`await_answer`). It ends with the stands.

        Raises:
            BenchError: it cannot be started.
        """

    def targets(self) -> list[str]:
        """What clients dial, ADDR:PORT."""
        return [f"{self.vip}:{SERVICE_PORT}"]

    def version(self) -> str:
        """Version of the software measured, empty where there is none."""
        return ""

    def await_answer(self, stand: Stand, stands: Stands, deadline: float = 60.0) -> None:
        """Wait until a client has a reply over TCP, and over UDP where it carries that.

        Raises:
            BenchError: it died, or ``deadline`` seconds passed.
        """
        targets = self.targets()
        if self.child is None:
            if not stands.answers(stand, targets, udp=self.udp):
                raise BenchError(f"{self.name}: a client's request has no reply")
            return
        self.child.wait_until(
            lambda: stands.answers(stand, targets, udp=self.udp), "answering a client", deadline, step=0.1
        )


def need(kubeconfig: Path | None, name: str) -> Path:
    """The kubeconfig of a contestant that follows an API server.

    Raises:
        BenchError: there is none.
    """
    if kubeconfig is None:
        raise BenchError(f"{name} follows an API server, and this bench has none for it")
    return kubeconfig
