"""The JSON that the state socket answers with; `spliceway status` and `explain` read it into the same types. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

import spliceway
from spliceway.model import Address, Problem, SourceStatistics
from spliceway.observe.stats import ServicePortRow, Snapshot, service_rows

if TYPE_CHECKING:
    from spliceway._engine import EngineCounters
    from spliceway.observe.observed import FlowOutcome


class UnhealthyRow(msgspec.Struct, frozen=True):
    """A backend that health has set aside."""

    pool: str
    backend: str
    reason: str


class AgentState(msgspec.Struct, frozen=True):
    """Everything that `spliceway status` shows. ``time`` is seconds since the Unix epoch."""

    version: str
    pid: int
    time: float
    ready: bool
    draining: bool
    generation: int
    workers: int
    flows: int
    #: accepting is paused at the fd or flow limit
    paused: bool
    #: how often each bound bit
    limits: dict[str, int]
    services: tuple[ServicePortRow, ...]
    sources: tuple[SourceStatistics, ...]
    problems: tuple[Problem, ...]
    unhealthy: tuple[UnhealthyRow, ...]


class CandidateRow(msgspec.Struct, frozen=True):
    """One backend in the order in which a flow would try it; ``rank`` 0: it would not be tried."""

    address: str
    weight: int
    healthy: bool
    active: int
    consecutive_failures: int
    rank: int
    reason: str


class ExplainState(msgspec.Struct, frozen=True):
    """What a flow from ``client`` to ``frontend`` would do."""

    frontend: str
    client: str
    #: the one that this class of client may use
    pool: str
    #: for this client: ``serving``, ``rejecting``, ``dropping`` or ``failed``, with the reason
    state: str
    message: str
    #: empty, 0 and none when no backend gets to see the client
    balance: str
    generation: int
    candidates: tuple[CandidateRow, ...]
    #: POD, NODE or EXT; empty with ordinary sockets, which know no classes
    client_class: str = ""


class ErrorState(msgspec.Struct, frozen=True):
    """Why a request has no answer."""

    error: str


def version() -> str:
    """The version of the package; it comes from the compiled engine, which is loaded when somebody asks."""
    return spliceway.__version__


def limit_hits(counters: EngineCounters) -> dict[str, int]:
    """How often each of the engine's bounds bit, by the bound's name."""
    return {
        "flows": counters.flow_limit_hits,
        "fds": counters.fd_limit_hits,
        "pipes": counters.pipe_limit_hits,
        "events": counters.events_dropped,
        "sessions": counters.session_limit_hits,
        "affinities": counters.affinity_limit_hits,
        "bypasses": counters.bypass_limit_hits,
    }


def agent_state(snapshot: Snapshot, counters: EngineCounters, *, pid: int, time: float) -> AgentState:
    """Build the state. Takes tens of milliseconds with 10,000 Services: call it in a thread."""
    return AgentState(
        version=version(),
        pid=pid,
        time=time,
        ready=snapshot.ready,
        draining=snapshot.draining,
        generation=snapshot.generation,
        workers=counters.workers,
        flows=counters.flows,
        paused=counters.paused,
        limits=limit_hits(counters),
        services=tuple(service_rows(snapshot, counters)),
        sources=snapshot.sources,
        problems=snapshot.problems,
        unhealthy=tuple(
            UnhealthyRow(each.target.pool, str(each.target.backend), each.reason) for each in snapshot.unhealthy
        ),
    )


def explain_state(frontend: str, client: str, outcome: FlowOutcome) -> ExplainState:
    """Build the answer to one explain request."""
    explanation = outcome.explanation
    candidates = tuple(
        CandidateRow(
            str(Address(each.host, each.port)),
            each.weight,
            each.healthy,
            each.active,
            each.consecutive_failures,
            each.rank,
            each.reason,
        )
        for each in (explanation.candidates if explanation else ())
    )
    return ExplainState(
        frontend,
        client,
        outcome.pool,
        outcome.state,
        outcome.reason,
        explanation.balance if explanation else "",
        explanation.generation if explanation else 0,
        candidates,
        (outcome.client_class.name or "") if outcome.client_class else "",
    )
