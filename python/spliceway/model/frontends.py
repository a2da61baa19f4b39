"""Frontends: what clients dial, and what becomes of them."""

from __future__ import annotations

from enum import IntFlag, StrEnum
from typing import NamedTuple

import msgspec

from spliceway.model.names import Address, Protocol


class FrontendVerdict(StrEnum):
    """What happens to a client of a frontend (T-15).

    Without a usable endpoint anywhere it is refused at once (N-01); where only this node's endpoints may be used and it
    has none, packets are dropped.
    """

    SERVE = "serve"
    REJECT = "reject"
    DROP = "drop"


class FrontendKind(StrEnum):
    """Where a frontend's address comes from."""

    #: chosen by the user
    LISTEN = "listen"
    CLUSTER_IP = "cluster-ip"
    NODE_PORT = "node-port"
    EXTERNAL_IP = "external-ip"
    LOAD_BALANCER = "load-balancer"


class ClientClass(IntFlag):
    """Who a client is, by the address that it comes from (section 2.7). A set of classes is their union."""

    POD = 1
    NODE = 2
    EXT = 4


#: no class, and all of them
NO_CLIENT = ClientClass(0)
ANY_CLIENT = ClientClass.POD | ClientClass.NODE | ClientClass.EXT


class FrontendKey(NamedTuple):
    """What clients dial; no two frontends have the same. A NodePort's host is ``0.0.0.0`` or ``::``."""

    address: Address
    protocol: Protocol

    def __str__(self) -> str:
        return str(self.address) if self.protocol is Protocol.TCP else f"{self.address}/{self.protocol.lower()}"

    @classmethod
    def parse(cls, text: str) -> FrontendKey:
        """Read ``10.0.0.1:80`` or ``10.0.0.1:53/udp``.

        Raises:
            ValueError: it is not an address, a port and perhaps a protocol; the text says what is wrong.
        """
        address, slash, name = text.partition("/")
        if slash and name.upper() not in set(Protocol):
            raise ValueError(f"{text!r} is not ADDRESS:PORT/PROTOCOL: {name!r} is none of tcp, udp, sctp")
        return cls(Address.parse(address), Protocol(name.upper()) if slash else Protocol.TCP)


class ExternalRoute(NamedTuple):
    """What clients from outside get where it differs from what Pods and the node get (ETP=Local, T-13)."""

    pool: str
    verdict: FrontendVerdict


class Frontend(msgspec.Struct, frozen=True, gc=False):
    """An address that clients dial, the pool behind it and the verdict."""

    address: Address
    pool: str
    verdict: FrontendVerdict = FrontendVerdict.SERVE
    protocol: Protocol = Protocol.TCP
    #: the port stays open without backends, and clients are reset: an embedding program chose it
    keep_open: bool = False
    kind: FrontendKind = FrontendKind.LISTEN
    #: for clients of class EXT instead of ``pool`` and ``verdict``; None: they get the same
    external: ExternalRoute | None = None
    #: the classes whose source address the backend sees (M-09), wherever the network lets its answers come back through
    #: this node; the others come from the node's address
    keep_source: ClientClass = NO_CLIENT
    #: canonical CIDRs that clients must come from (T-17); empty: all may come. Others are dropped (T-18)
    sources: tuple[str, ...] = ()

    @property
    def key(self) -> FrontendKey:
        """What clients dial."""
        return FrontendKey(self.address, self.protocol)

    @property
    def served(self) -> bool:
        """Some client is served."""
        verdicts = (self.verdict, self.external.verdict if self.external else self.verdict)
        return FrontendVerdict.SERVE in verdicts


class FrontendState(msgspec.Struct, frozen=True):
    """What became of a frontend: ``serving``, ``rejecting`` (no usable endpoint), or ``failed`` with a ``message``."""

    frontend: Frontend
    state: str
    message: str = ""
