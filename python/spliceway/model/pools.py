"""Pools: the backends that one class of client may use, and how."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from spliceway.model.names import Address, Protocol


class Balance(StrEnum):
    """How a backend is chosen."""

    MAGLEV = "maglev"
    RANDOM = "random"
    ROUND_ROBIN = "round-robin"
    LEAST_CONN = "least-conn"
    P2C = "p2c"
    #: by the client's address without its port
    SOURCE_HASH = "source-hash"
    #: shortest expected delay, and never queue (as IPVS has them)
    SED = "sed"
    NQ = "nq"


class Backend(NamedTuple):
    """One backend of a pool, in the engine's own order of fields (a plain tuple crosses the boundary)."""

    host: str
    port: int
    #: relative share of new flows; 0 takes none
    weight: int = 1
    #: False: health evidence says to use it only when nothing better is left
    healthy: bool = True

    @property
    def address(self) -> Address:
        """Where it is dialled."""
        return Address(self.host, self.port)


class RetryPolicy(msgspec.Struct, frozen=True, gc=False):
    """When and how often another backend is tried. Times in seconds.

    Defaults: common clients give up after 1 s or more, so ``deadline`` leaves them 100 ms; a Pod network answers a SYN
    in under 10 ms, so 250 ms without an answer is a lost packet or a dead node; three other backends are tried. The
    budget allows one retry for each new flow on average: the load on the survivors at most doubles.
    """

    tries: int = 4
    connect_timeout: float = 0.25
    deadline: float = 0.9
    budget_ratio: float = 1.0
    budget_reserve: int = 100
    #: opt-in: hold the first client bytes and send them to another backend when the first one closes or resets before
    #: it sent anything. Only for protocols whose first message may be repeated.
    replay: bool = False


class Affinity(msgspec.Struct, frozen=True, gc=False):
    """Clients (by IP) stay with their backend until ``timeout`` seconds after their last new flow (A-01, A-02).

    Pools of one ``group`` (the cluster and the local pool of a service port and family) share what is remembered.
    """

    group: str
    #: 0.001 s to 30 days; the Kubernetes API allows a day
    timeout: float


class PoolSpec(msgspec.Struct, frozen=True, gc=False):
    """A pool as the engine is to have it. ``name`` is the service port (``default/shop:http``) or the user's name.

    A UDP pool also holds, with weight 0, the endpoints that still serve but take nothing new: sessions stay with them,
    and move as soon as a backend is not in the pool any more (C-08).
    """

    name: str
    backends: tuple[Backend, ...]
    balance: Balance = Balance.MAGLEV
    retry: RetryPolicy = RetryPolicy()
    #: seconds that flows to a removed backend may still run; None: until they end (C-01)
    drain: float | None = None
    protocol: Protocol = Protocol.TCP
    #: None: every flow is balanced anew
    affinity: Affinity | None = None

    @property
    def usable(self) -> bool:
        """Some backend takes new flows."""
        return any(backend.weight for backend in self.backends)
