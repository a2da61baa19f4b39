"""What clients must see, said as sentences that hold at last, all at the same moment.

    hold(served(client, service.cluster(), backend, source=client), refused(other, service.cluster("udp")))

Clients are as those of Kubernetes' own tests: each attempt is a new flow, with a second's patience.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from support.nodes import Host, each
from support.probes import Observed, Probe

from .services import Target

#: changes are seen within it; they take some tens of milliseconds
PATIENCE = 15.0
POLL_SECONDS = 0.02
#: what is not there yet is asked for again rather than waited for
SETTLING_TIMEOUT = 0.3
#: that a client has, and that silence must last
TIMEOUT = 1.0
#: new flows that one backend answers, and at least and at most with several, until all of them have answered
ALONE, AT_LEAST, AT_MOST = 5, 10, 60
REFUSALS = 2


class Expectation(NamedTuple):
    """What a client must see of a probe; ``fault`` says what is wrong with what it saw, or nothing."""

    client: Host
    probe: Probe
    fault: Callable[[Observed], str]
    #: it can only be seen by waiting for what does not come
    silent: bool = False

    def __str__(self) -> str:
        probe = self.probe
        return f"{self.client} -> {probe.protocol} [{probe.host}]:{probe.port}"


def served(
    client: Host, target: Target, *backends: Host | str, source: Host | str | None = None, payload: str = "?"
) -> Expectation:
    """Every new flow is answered, by each of these in turn and by nobody else.

    ``source``: whom backends see; a place (any of its addresses) or an address.
    """
    names = tuple(sorted(each if isinstance(each, str) else each.name for each in backends))
    at_least, at_most = (ALONE, ALONE) if len(names) == 1 else (AT_LEAST, AT_MOST)
    allowed = {source} if isinstance(source, str) else set(source.hosts) if source else None

    def fault(seen: Observed) -> str:
        if seen.refused or seen.dropped or seen.faults or tuple(sorted(seen.answers)) != names:
            return f"must be served by {', '.join(names)}"
        sources = {host for hosts in seen.sources.values() for host in hosts}
        if allowed is not None and not sources <= allowed:
            return f"must be seen as {source}"
        return ""

    return Expectation(client, Probe(*target, at_least, at_most, names, SETTLING_TIMEOUT, payload), fault)


def refused(client: Host, target: Target) -> Expectation:
    """Every new flow is refused at once."""

    def fault(seen: Observed) -> str:
        return "" if seen.refused == REFUSALS else "must be refused"

    return Expectation(client, Probe(*target, REFUSALS, REFUSALS, timeout=SETTLING_TIMEOUT), fault)


def dropped(client: Host, target: Target) -> Expectation:
    """Nothing comes back."""

    def fault(seen: Observed) -> str:
        return "" if seen.dropped else "must be dropped"

    return Expectation(client, Probe(*target, timeout=TIMEOUT), fault, silent=True)


def fails(client: Host, target: Target) -> Expectation:
    """Nobody answers: refused, unreachable or lost, which depends on who else is on the way."""

    def fault(seen: Observed) -> str:
        return "must fail" if seen.answers else ""

    return Expectation(client, Probe(*target, timeout=TIMEOUT), fault, silent=True)


def faults(*expectations: Expectation) -> list[str]:
    """Make the probes of all clients at once, and return what is not as expected."""
    by_client: dict[str, list[Expectation]] = defaultdict(list)
    for expectation in expectations:
        by_client[expectation.client.name].append(expectation)

    def ask(name: str) -> list[str]:
        mine = by_client[name]
        seen = mine[0].client.namespace.probe(expectation.probe for expectation in mine)
        judged = [(each, each.fault(what), what) for each, what in zip(mine, seen, strict=True)]
        return [f"{expectation} {fault}: {what}" for expectation, fault, what in judged if fault]

    return [fault for part in each(by_client, ask) for fault in part]


def hold(*expectations: Expectation, patience: float = PATIENCE) -> None:
    """Return when all of them hold at once; fail with what does not when that takes longer than ``patience``."""
    deadline = time.monotonic() + patience
    quick = [expectation for expectation in expectations if not expectation.silent]
    while wrong := faults(*quick) or (faults(*expectations) if len(quick) < len(expectations) else []):
        assert time.monotonic() < deadline, f"after {patience:.0f} s:\n" + "\n".join(wrong)
        time.sleep(POLL_SECONDS)


def stays(*expectations: Expectation, times: int = 3) -> None:
    """All of them hold now, and again: what was right does not go wrong."""
    patient = [
        each._replace(probe=msgspec.structs.replace(each.probe, timeout=3 * TIMEOUT)) if not each.silent else each
        for each in expectations
    ]
    for _ in range(times):
        wrong = faults(*patient)
        assert not wrong, "\n".join(wrong)


def answers(client: Host, target: Target, count: int) -> dict[str, int]:
    """Who answers so many new flows, each of which must be answered."""
    (seen,) = client.namespace.probe([Probe(*target, count, count, timeout=3 * TIMEOUT)])
    assert sum(seen.answers.values()) == count, f"{client} -> {target}: {seen}"
    return seen.answers
