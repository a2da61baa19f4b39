"""Rounds: every contestant once in every scenario, in changing order; ratios only inside a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import results
from results import Sheet, Spread
from rich.console import Console
from scenarios import Scenario

#: seconds of load before the figures count
WARMUP = 0.3

#: one measurement: ``value``, ``errors``, the whole ``report``, and what it cost
Sample = dict[str, Any]
#: samples by scenario and contestant, one for each round
Samples = dict[str, dict[str, list[Sample]]]


class Named(Protocol):
    """Who takes part."""

    @property
    def name(self) -> str:
        """Told in tables."""


_Contestant = TypeVar("_Contestant", bound=Named)


def run_rounds(
    present: Sequence[_Contestant],
    chosen: Sequence[Scenario],
    rounds: int,
    measure: Callable[[_Contestant, Scenario], Sample],
    console: Console,
) -> Samples:
    """Measure every contestant once in every round of every scenario; who begins changes from round to round."""
    samples: Samples = {scenario.name: {contestant.name: [] for contestant in present} for scenario in chosen}
    for turn in range(rounds):
        for scenario in chosen:
            for offset in range(len(present)):
                contestant = present[(turn + offset) % len(present)]
                sample = measure(contestant, scenario)
                samples[scenario.name][contestant.name].append(sample)
                errors = f"  errors: {sample['errors']}" if sample["errors"] else ""
                console.print(
                    f"round {turn + 1}/{rounds}  {scenario.name:10} {contestant.name:20} "
                    f"{results.number(sample['value']):>8} {scenario.unit}{errors}",
                    highlight=False,
                )
    return samples


def good(samples: Sequence[Sample]) -> list[float]:
    """The figures of rounds without an error."""
    return [sample["value"] for sample in samples if not sample["errors"]]


def ratios(samples: Sequence[Sample], base: Sequence[Sample]) -> list[float]:
    """Ratios inside each round in which both went without an error."""
    pairs = zip(samples, base, strict=True)
    return [
        one["value"] / other["value"]
        for one, other in pairs
        if not one["errors"] and not other["errors"] and other["value"]
    ]


def summarize(
    samples: Samples, chosen: Sequence[Scenario], base: str, ours: str = "spliceway"
) -> tuple[Sheet, list[dict[str, Any]]]:
    """One row for each scenario and contestant, and the goals with their verdicts."""
    columns = ("scenario", "unit", "contestant", "median (quartiles)", f"ratio to {base}", "CPUs", "RSS MiB", "void")
    sheet = Sheet("Throughput", columns)
    goals = []
    for scenario in chosen:
        by_name = samples[scenario.name]
        for name, own in by_name.items():
            spread = Spread.of(good(own))
            ratio = Spread.of(ratios(own, by_name[base])) if base in by_name else None
            shares = Spread.of([sample["cpu_share"] for sample in own if "cpu_share" in sample])
            memory = max((sample["memory"]["VmRSS"] for sample in own if "memory" in sample), default=0)
            sheet.add(
                scenario.title,
                scenario.unit,
                name,
                spread.text() if spread else "-",
                ratio.text() if ratio else "-",
                f"{shares.median:.2f}" if shares else "-",
                f"{memory / 2**20:.0f}" if memory else "-",
                f"{len(own) - len(good(own))}/{len(own)}",
            )
            if name == ours and scenario.goal is not None:
                median = ratio.median if ratio else 0.0
                goals.append(
                    {"scenario": scenario.name, "goal": scenario.goal, "ratio": median, "met": median >= scenario.goal}
                )
    return sheet, goals


def goal_text(goal: dict[str, Any], base: str) -> str:
    """One line on a goal."""
    verdict = "met" if goal["met"] else "NOT met"
    return f"goal {goal['scenario']} at least {goal['goal']:g} x {base}: {verdict} ({results.number(goal['ratio'])})"


def any_error(samples: Samples) -> bool:
    """Whether any measurement had an error."""
    return any(sample["errors"] for by_name in samples.values() for own in by_name.values() for sample in own)
