"""The tables of the report, of all runs together; the targets are judged in each run (`verdicts`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import evidence
import scenarios
from evidence import Data, Figure
from plotevents import programming_outcomes
from plots import contestants
from plotstyle import ordered
from results import Sheet, Spread, number, quantile
from scenarios import Scenario
from targets import DIRECT, HAPROXY, D
from verdicts import Assessment, Found, Target

_PERCENTILES = {"p50": "p50", "p99": "p99", "p999": "p99.9"}


def verdicts(assessments: Sequence[Assessment]) -> Sheet:
    """The target table with what each run found."""
    columns = ("measure", "compared", "must", "stretch", "run 1", "run 2", "must: verdict", "stretch: verdict")
    sheet = Sheet("Targets", columns)
    for one in assessments:
        target = one.target
        limits = [
            f"{limit.relation} {number(limit.bound)} {target.unit}".strip() if limit else "-"
            for limit in (target.must, target.stretch)
        ]
        cells = [_found(found, target) for found in one.found]
        sheet.add(
            target.measure, target.compared, *limits, *cells, one.verdict(target.must), one.verdict(target.stretch)
        )
    return sheet


def _found(found: Found, target: Target) -> str:
    if found.spread is None:
        return "-"
    return f"{found.spread.text() if target.rounds > 1 else number(found.spread.median)} {target.unit}".strip()


def traffic(runs: Sequence[Data], scenario: Scenario) -> Sheet:
    """One row for each contestant."""
    columns = ("contestant", "median (quartiles)", f"÷ {D}", f"÷ {HAPROXY}", "CPU, process", "CPU, machine", "void")
    lower = ", lower is better" if scenario.better == "lower" else ""
    sheet = Sheet(f"{scenario.title}, {scenario.unit}{lower}", columns)
    for name in contestants(runs, scenario.name):
        samples = evidence.all_samples(runs, scenario.name, name)
        compared = [cell(evidence.all_ratios(runs, scenario.name, name, base)) for base in (D, HAPROXY)]
        cpu = [cell(_milliseconds(samples, evidence.cpu_cost(whose))) for whose in ("process", "machine")]
        void = f"{sum(map(evidence.voids, samples))}/{evidence.taken(samples)}"
        sheet.add(name, cell(evidence.good(samples)), *compared, *cpu, void)
    return sheet


def latencies(runs: Sequence[Data], scenario: Scenario) -> Sheet:
    """Percentiles, and what they are more than those of ``direct`` in the same round."""
    columns = ("contestant", *_PERCENTILES.values(), *(f"added, {name}" for name in _PERCENTILES.values()))
    sheet = Sheet(f"{scenario.title}: time of a request, µs", columns)
    for name in contestants(runs, scenario.name):
        samples = evidence.all_samples(runs, scenario.name, name)
        times = [cell(_milliseconds(samples, evidence.percentile(key), 1e6)) for key in _PERCENTILES]
        added = [
            cell([1e6 * more for more in evidence.all_differences(runs, scenario.name, name, DIRECT, key)])
            for key in map(evidence.percentile, _PERCENTILES)
        ]
        sheet.add(name, *times, *(added if name != DIRECT else ["-"] * len(added)))
    return sheet


def _milliseconds(samples: Sequence[evidence.Sample], figure: Figure, scale: float = 1e3) -> list[float]:
    return [seconds * scale for seconds in evidence.good(samples, figure)]


def sizes(runs: Sequence[Data]) -> Sheet:
    """How many Services change the figures of each contestant."""
    numbers = sorted({int(size) for data in runs for size in data["sizes"]})
    sheet = Sheet(
        "With so many Services", ("scenario", "contestant", *(f"{size:,}" for size in numbers), "most ÷ least")
    )
    for scenario in (scenarios.ALL["newconn"], scenarios.ALL["first"]):
        parts = {size: evidence.all_sized(runs, size) for size in numbers}
        for name in ordered(name for own in parts.values() for name in contestants(own, scenario.name)):
            cells = [cell(evidence.good(evidence.all_samples(own, scenario.name, name))) for own in parts.values()]
            growth = evidence.all_growth(runs, scenario.name, name, numbers[-1], numbers[0])
            sheet.add(f"{scenario.title}, {scenario.unit}", name, *cells, cell(growth))
    return sheet


def kill(runs: Sequence[Data]) -> Sheet:
    """Errors of clients, by run and by kind."""
    sheet = Sheet("A Pod killed and restored", ("contestant", "replies", "errors, by run", "their kinds"))
    for name in ordered(name for data in runs for name in data["runs"]):
        _add_errors(sheet, (name,), [one["report"] for data in runs for one in data["runs"].get(name, ())])
    return sheet


def rolling(runs: Sequence[Data]) -> Sheet:
    """The same, for each way of ending Pods and each load."""
    columns = ("contestant", "Pods end", "connections", "replies", "errors, by run", "their kinds")
    sheet = Sheet("Three Pods replaced", columns)
    for name in ordered(name for data in runs for name in data["runs"]):
        for mode in ("orderly", "early"):
            outcomes = [one for data in runs for one in data["runs"].get(name, {}).get(mode, ())]
            for load in ("new", "kept"):
                _add_errors(sheet, (name, mode, load), [one[load] for one in outcomes])
    return sheet


def _add_errors(sheet: Sheet, head: Sequence[str], reports: Sequence[Mapping[str, Any]]) -> None:
    kinds: Counter[str] = Counter()
    for report in reports:
        kinds.update(report["errors"])
    by_run = " ".join(str(sum(report["errors"].values())) for report in reports)
    text = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
    sheet.add(*head, f"{sum(report['requests'] for report in reports):,}", by_run or "-", text or "-")


def programming(runs: Sequence[Data]) -> Sheet:
    """Start, memory, and how soon changes take effect."""
    columns = ("Services", "contestant", "start, s", "memory at its highest, MB")
    sheet = Sheet(
        "How soon all Services are served, and changes take effect",
        (*columns, "change p50 / p99, ms", "new Service p50 / p99, ms"),
    )
    for size, outcomes in programming_outcomes(runs).items():
        for name in ordered(outcomes):
            turns = outcomes[name]
            times = [_times([one["event"] for turn in turns for one in turn[kind]]) for kind in ("changes", "new")]
            memory = max((turn["after"]["memory"]["VmHWM"] for turn in turns), default=0)
            start = cell([turn["start"]["seconds"] for turn in turns])
            sheet.add(f"{size:,}", name, start, f"{memory / 1e6:.0f}", *times)
    return sheet


def _times(seconds: Sequence[float]) -> str:
    return " / ".join(number(quantile(seconds, percent) * 1e3) for percent in (50, 99)) if seconds else "-"


def idle(runs: Sequence[Data]) -> Sheet:
    """Bytes for each idle connection, of each run."""
    columns = ("contestant", "connections", "agent, B each", "kernel, B each", "both")
    sheet = Sheet("Memory of an idle connection, a figure for each run", columns)
    for name in ordered(name for data in runs for name in data["contestants"]):
        found = [data["contestants"][name] for data in runs if name in data["contestants"]]
        agent, kernel = ([one[key] / one["connections"] for one in found] for key in ("agent_bytes", "kernel_bytes"))
        both = map(sum, zip(agent, kernel, strict=True))
        counted = " ".join(f"{one['connections']:,.0f}" for one in found)
        sheet.add(name, counted, *(" ".join(map(number, each)) for each in (agent, kernel, both)))
    return sheet


def compact(runs: Sequence[Data], name: str, bases: Sequence[str]) -> Sheet:
    """A contestant's ratios to others in all scenarios."""
    sheet = Sheet("Ratios", (f"{name}'s ratio, median (quartiles)", *(f"÷ {base}" for base in bases)))
    for scenario in scenarios.ALL.values():
        cells = [cell(evidence.all_ratios(runs, scenario.name, name, base)) for base in bases]
        if any(text != "-" for text in cells):
            lower = f" ({scenario.unit}; lower is better)" if scenario.better == "lower" else ""
            sheet.add(f"{scenario.title}{lower}", *cells)
    return sheet


def cell(values: Sequence[float]) -> str:
    """Median and quartiles, a single figure as it is, or a dash."""
    spread = Spread.of(values)
    if spread is None:
        return "-"
    return spread.text() if len(values) > 1 else number(spread.median)
