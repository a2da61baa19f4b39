"""The targets of the data plane as data: what has to hold in each of two runs, and how its figures are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import evidence
import scenarios
from evidence import Data, Figure, UnmeasuredError
from verdicts import Limit, Target

OURS = "spliceway"
#: D: what most clusters run
D = "kube-proxy-iptables"
LEGACY = "kube-proxy-iptables-legacy"
USERSPACE = "kube-proxy-userspace"
HAPROXY = "haproxy"
#: It does the same work as ours, the kept client address included; `ORDINARY` does the same work as `HAPROXY`.
HAPROXY_TRANSPARENT = "haproxy-tproxy"
ORDINARY = "spliceway-bind"
DIRECT = "direct"
#: Services where there are many
MANY = 10_000

# --- how figures are found


def ratio(scenario: str, base: str, figure: Figure = evidence.value, ours: str = OURS) -> Callable[[Data], list[float]]:
    """Ratios to another contestant's figure of the same round."""
    return lambda data: evidence.ratios(
        evidence.series(data, scenario, ours), evidence.series(data, scenario, base), figure
    )


def microseconds_over(scenario: str, base: str, name: str) -> Callable[[Data], list[float]]:
    """How many microseconds a percentile is above another contestant's in the same round."""

    def figures(data: Data) -> list[float]:
        own, other = evidence.series(data, scenario, OURS), evidence.series(data, scenario, base)
        return [seconds * 1e6 for seconds in evidence.differences(own, other, evidence.percentile(name))]

    return figures


def among_many(figures: Callable[[Data], list[float]]) -> Callable[[Data], list[float]]:
    """The same with `MANY` Services."""
    return lambda data: figures(evidence.sized(data, MANY))


def entry(*path: str, scale: float = 1.0) -> Callable[[Data], list[float]]:
    """One figure of a results file that keeps medians itself."""

    def figures(data: Data) -> list[float]:
        found: Any = data
        for position, key in enumerate(path):
            if not isinstance(found, dict) or key not in found:
                raise UnmeasuredError(f"the results have no {'.'.join(path[: position + 1])}")
            found = found[key]
        if not isinstance(found, int | float):
            raise UnmeasuredError(f"{'.'.join(path)} of the results is no figure")
        return [found * scale]

    return figures


def idle_bytes(*fields: str) -> Callable[[Data], list[float]]:
    """Bytes for each idle connection, the fields together."""

    def figures(data: Data) -> list[float]:
        own = data.get("contestants", {}).get(OURS)
        if own is None or any(field not in own for field in ("connections", *fields)):
            raise UnmeasuredError(f"{OURS} was not measured")
        return [sum(own[field] for field in fields) / own["connections"]]

    return figures


# --- the table


def at_least(bound: float) -> Limit:
    """≥"""
    return Limit("≥", bound)


def at_most(bound: float) -> Limit:
    """≤"""
    return Limit("≤", bound)


def below(bound: float) -> Limit:
    """<"""
    return Limit("<", bound)


def table() -> list[Target]:
    """All targets, in the order of the report."""
    parts = (_bulk(), _requests(), _sizes(), _latency(), _udp(), _cpu(), _idle(), _micro())
    return [target for part in parts for target in part]


def _bulk() -> Iterator[Target]:
    bounds = {1: (0.65, 0.85), 4: (0.45, 0.60), 64: (0.45, 0.60)}
    for direction in ("bulk", "up"):
        for streams, (must, stretch) in bounds.items():
            name = f"{direction}{streams}"
            yield _against(HAPROXY, name, at_least(1.3))
            yield _against(USERSPACE, name, at_least(1.2))
            yield _against(D, name, at_least(must), at_least(stretch))


def _requests() -> Iterator[Target]:
    yield from _against_alike("keepalive", at_least(1.1))
    yield _against(D, "keepalive", None, at_least(0.90))
    yield _against(USERSPACE, "keepalive", at_least(1.4), at_least(1.7))
    yield _p99_against(HAPROXY, "keepalive", at_most(1.0))
    yield _p99_against(D, "keepalive", None, at_most(1.0))
    yield from _against_alike("newconn", at_least(1.05))
    yield _against(D, "newconn", None, at_least(0.90))
    yield _against(USERSPACE, "newconn", at_least(1.8), at_least(2.1))


def _sizes() -> Iterator[Target]:
    for base in (D, LEGACY):
        yield Target(
            f"{_title('newconn')}, {MANY:,} Services",
            f"÷ {base} with as many",
            "sizes",
            "",
            among_many(ratio("newconn", base)),
            at_least(1.2),
            at_least(1.8),
        )
    measure = f"{_title('first')}, p99"
    yield Target(measure, f"{MANY:,} ÷ 1 Services", "sizes", "", _first_growth, at_most(1.1), at_most(1.0))


def _first_growth(data: Data) -> list[float]:
    many, one = (evidence.series(evidence.sized(data, size), "first", OURS) for size in (MANY, 1))
    return evidence.ratios(many, one, evidence.percentile("p99"))


def _latency() -> Iterator[Target]:
    for name, stretch in (("p50", 12), ("p99", 60)):
        measure = f"added latency at half load, {name}"
        than_haproxy = microseconds_over("latency", HAPROXY, name)  # what both add to is the same
        yield Target(measure, f"more than {HAPROXY}'s", "services", "µs", than_haproxy, below(0))
        than_direct = microseconds_over("latency", DIRECT, name)
        yield Target(measure, f"over {DIRECT}", "services", "µs", than_direct, None, at_most(stretch))


def _udp() -> Iterator[Target]:
    for name, must, stretch in (("udp-flow", 0.40, 0.6), ("udp-flows", 0.35, 0.5), ("udp-trains", 0.9, 1.2)):
        yield _against(D, name, at_least(must), at_least(stretch))


def _cpu() -> Iterator[Target]:
    for name in ("bulk1", "bulk4", "bulk64", "up1", "up4", "up64"):
        figures = ratio(name, HAPROXY, evidence.cpu_cost("process"))
        measure = f"CPU per gigabit, {_title(name)}"
        yield Target(measure, f"÷ {HAPROXY}", "services", "", figures, at_most(0.7), at_most(0.5))


def _idle() -> Iterator[Target]:
    for compared, fields, must, stretch in (
        ("agent", ("agent_bytes",), 1024, 512),
        ("agent with kernel sockets", ("agent_bytes", "kernel_bytes"), 10 * 1024, 8 * 1024),
    ):
        figures = idle_bytes(*fields)
        yield Target("idle connection", compared, "idle", "B", figures, at_most(must), at_most(stretch), rounds=1)


def _micro() -> Iterator[Target]:
    for policy, must in (("maglev", 8), ("p2c", 20), ("least-conn", 40)):
        figures = entry("pick", policy)
        yield _single("pick a backend, hot cache", policy, "ns", figures, must)
    yield _single("Maglev table", "1,000 backends x 65,537 slots", "ms", entry("maglev_build_ms"), 1)
    yield _single("all pools and their tables", "10,000 Services x 10 backends", "ms", entry("all_build_ms"), 150)
    yield _single("all pools and their tables", "10,000 Services x 10 backends", "MiB", entry("all_memory_mib"), 25)


def _single(measure: str, compared: str, unit: str, figures: Callable[[Data], list[float]], must: float) -> Target:
    """A micro-benchmark, whose rounds are criterion's; the stretch is half of the bound."""
    return Target(measure, compared, "micro", unit, figures, at_most(must), at_most(must / 2), rounds=1)


def _against(base: str, scenario: str, must: Limit | None, stretch: Limit | None = None) -> Target:
    """The scenario's figure as a ratio to another contestant's."""
    return Target(_title(scenario), f"÷ {base}", "services", "", ratio(scenario, base), must, stretch)


def _against_alike(scenario: str, must: Limit) -> Iterator[Target]:
    """The scenario's figure as a ratio to haproxy's; and of either to the other one that does the same work."""
    yield _against(HAPROXY, scenario, must)
    yield _against(HAPROXY_TRANSPARENT, scenario, must)
    figures = ratio(scenario, HAPROXY, ours=ORDINARY)
    yield Target(_title(scenario), f"{ORDINARY} ÷ {HAPROXY}", "services", "", figures, must)


def _p99_against(base: str, scenario: str, must: Limit | None, stretch: Limit | None = None) -> Target:
    """The scenario's p99 as a ratio to another contestant's."""
    figures = ratio(scenario, base, evidence.percentile("p99"))
    return Target(f"{_title(scenario)}, p99", f"÷ {base}", "services", "", figures, must, stretch)


def _title(scenario: str) -> str:
    return scenarios.ALL[scenario].title
