"""The tables of a bench in rounds: figures, ratios inside rounds, costs and latencies."""

from __future__ import annotations

from collections.abc import Sequence

import evidence
from results import Sheet, Spread
from rounds import Samples
from scenarios import GIGABITS, Scenario

#: the other contestant whose ratio everyone wants to know
RIVAL = "haproxy"
#: what routing alone takes
LIMIT = "direct"


def cell(values: Sequence[float], scale: float = 1.0) -> str:
    """Median and quartiles, or a dash."""
    spread = Spread.of([value * scale for value in values])
    return spread.text() if spread else "-"


def figures(samples: Samples, chosen: Sequence[Scenario], base: str, title: str = "Figures") -> Sheet:
    """One row for each scenario and contestant."""
    others = [base, *([RIVAL] if any(RIVAL in by_name for by_name in samples.values()) else [])]
    compared = (f"ratio to {other}" for other in others)
    sheet = Sheet(title, ("scenario", "unit", "contestant", "median (quartiles)", *compared, "void"))
    for scenario in chosen:
        by_name = samples[scenario.name]
        unit = f"{scenario.unit}, lower wins" if scenario.better == "lower" else scenario.unit
        for name, own in by_name.items():
            ratios = [cell(evidence.ratios(own, by_name.get(other, []))) for other in others]
            void = f"{sum(map(evidence.voids, own))}/{evidence.taken(own)}"
            sheet.add(scenario.title, unit, name, cell(evidence.good(own)), *ratios, void)
    return sheet


def costs(samples: Samples, chosen: Sequence[Scenario]) -> Sheet:
    """CPU time for the work done, memory, and the tracked connections that a round leaves."""
    columns = ("scenario", "contestant", "CPU s for each", "process", "machine", "RSS MiB", "conntrack")
    sheet = Sheet("What it cost: medians (quartiles); memory and tracked connections at most", columns)
    for scenario in chosen:
        for name, own in samples[scenario.name].items():
            cpu = [cell(evidence.good(own, evidence.cpu_cost(whose))) for whose in ("process", "machine")]
            memory = max(evidence.good(own, _memory), default=0.0)
            tracked = max(evidence.good(own, _tracked), default=0.0)
            sheet.add(
                scenario.title,
                name,
                scenario.work_unit,
                *cpu,
                f"{memory / 2**20:.0f}" if memory else "-",
                f"{tracked:,.0f}",
            )
    return sheet


def latencies(samples: Samples, chosen: Sequence[Scenario]) -> Sheet:
    """What a request took, and what that is more than routing alone in the same round."""
    names = ("p50", "p99", "p999")
    columns = ("scenario", "contestant", *names, *(f"added {name}" for name in names))
    sheet = Sheet(f"Time of a request, us: median (quartiles) of the rounds; added: more than {LIMIT}", columns)
    percentiles = [evidence.percentile(name) for name in names]
    for scenario in chosen:
        by_name = samples[scenario.name]
        for name, own in by_name.items():
            if scenario.unit == GIGABITS:
                continue
            others = by_name.get(LIMIT, []) if name != LIMIT else []
            took = [cell(evidence.good(own, one), 1e6) for one in percentiles]
            added = [cell(evidence.differences(own, others, one), 1e6) for one in percentiles]
            sheet.add(scenario.title, name, *took, *added)
    return sheet


def _memory(sample: evidence.Sample) -> float | None:
    return float(sample["memory"]["VmRSS"]) if "memory" in sample else None


def _tracked(sample: evidence.Sample) -> float | None:
    return float(sample["conntrack"])
