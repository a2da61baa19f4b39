"""Throughput next to others: ``python bench/run.py quick``; also ``kill`` and ``scale``. README.md has the method."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import contestants
import kill
import results
import scale
import scenarios
from contestants import Contestant
from load import LoadTool
from processes import BenchError, end_on_signals
from results import Sheet, Spread
from rich.console import Console
from rig import Rig
from scenarios import Scenario

#: every ratio is to this contestant's figure of the same round
BASE = "haproxy"
WARMUP = 0.3

#: samples by scenario and contestant, one for each round
Samples = dict[str, dict[str, list[dict[str, Any]]]]


def measure(rig: Rig, contestant: Contestant, scenario: Scenario, seconds: float) -> dict[str, Any]:
    """One sample: the figure, and what it cost the contestant's process."""
    contestant.activate(rig)
    before = contestant.child.cpu_seconds() if contestant.child else 0.0
    try:
        arguments = [*scenario.arguments, "--seconds", str(seconds), "--warmup", str(WARMUP)]
        report = rig.measure(arguments, contestant.targets(rig))
    finally:
        contestant.deactivate(rig)
    sample: dict[str, Any] = {"value": scenario.value(report), "errors": report.errors, "report": report.as_dict()}
    if contestant.child:
        contestant.child.check()
        sample["cpu_share"] = (contestant.child.cpu_seconds() - before) / (seconds + WARMUP)
        sample["memory"] = contestant.child.memory()
    return sample


def run_rounds(
    rig: Rig, present: Sequence[Contestant], chosen: Sequence[Scenario], rounds: int, seconds: float, console: Console
) -> Samples:
    """Measure every contestant once in every round of every scenario; who begins changes from round to round."""
    samples: Samples = {scenario.name: {contestant.name: [] for contestant in present} for scenario in chosen}
    for turn in range(rounds):
        for scenario in chosen:
            for offset in range(len(present)):
                contestant = present[(turn + offset) % len(present)]
                sample = measure(rig, contestant, scenario, seconds)
                samples[scenario.name][contestant.name].append(sample)
                errors = f"  errors: {sample['errors']}" if sample["errors"] else ""
                console.print(
                    f"round {turn + 1}/{rounds}  {scenario.name:10} {contestant.name:12} "
                    f"{results.number(sample['value']):>8} {scenario.unit}{errors}",
                    highlight=False,
                )
    return samples


def good(samples: Sequence[dict[str, Any]]) -> list[float]:
    """The figures of rounds without an error."""
    return [sample["value"] for sample in samples if not sample["errors"]]


def ratios(samples: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> list[float]:
    """Ratios inside each round in which both went without an error."""
    pairs = zip(samples, base, strict=True)
    return [
        one["value"] / other["value"]
        for one, other in pairs
        if not one["errors"] and not other["errors"] and other["value"]
    ]


def summarize(samples: Samples, chosen: Sequence[Scenario]) -> tuple[Sheet, list[dict[str, Any]]]:
    """One row for each scenario and contestant, and the goals with their verdicts."""
    columns = ("scenario", "unit", "contestant", "median (quartiles)", f"ratio to {BASE}", "CPUs", "RSS MiB", "void")
    sheet = Sheet("Throughput", columns)
    goals = []
    for scenario in chosen:
        by_name = samples[scenario.name]
        for name, own in by_name.items():
            spread = Spread.of(good(own))
            ratio = Spread.of(ratios(own, by_name[BASE])) if BASE in by_name else None
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
            if name == "spliceway" and scenario.goal is not None:
                median = ratio.median if ratio else 0.0
                goals.append(
                    {"scenario": scenario.name, "goal": scenario.goal, "ratio": median, "met": median >= scenario.goal}
                )
    return sheet, goals


def goal_text(goal: dict[str, Any]) -> str:
    """One line on a goal."""
    verdict = "met" if goal["met"] else "NOT met"
    return f"goal {goal['scenario']} at least {goal['goal']:g} x {BASE}: {verdict} ({results.number(goal['ratio'])})"


def quick(options: argparse.Namespace, console: Console) -> int:
    """Run all scenarios and write results/quick.json. Returns 1 when any round had an error."""
    chosen = [scenarios.ALL[name] for name in options.only or scenarios.ALL]
    facts = results.machine()
    with Rig(LoadTool.build()) as rig:
        if not rig.isolated:
            console.print("not root: everything runs on loopback, without network namespaces", style="yellow")
        rig.start_backend(*rig.backends)
        present, absent = contestants.start_all(options.contestants, rig)
        for name, why in absent.items():
            console.print(f"{name} does not take part: {why}", style="yellow")
        versions = {contestant.name: contestant.version() for contestant in present}
        samples = run_rounds(rig, present, chosen, options.rounds, options.seconds, console)
        layout = "namespaces" if rig.isolated else "loopback"
    sheet, goals = summarize(samples, chosen)
    notes = [
        f"layout: {layout}, {options.rounds} rounds of {options.seconds:g} s",
        *(f"{name}: {version}" for name, version in versions.items() if version),
        *(f"{name} did not take part: {why}" for name, why in absent.items()),
        *map(goal_text, goals),
    ]
    results.show([sheet], notes, console)
    data = {
        "machine": facts,
        "layout": layout,
        "versions": versions,
        "absent": absent,
        "goals": goals,
        "samples": samples,
    }
    console.print(f"written: {results.save('quick', data, results.document('Quick bench', facts, [sheet], notes))}")
    return int(any(sample["errors"] for by_name in samples.values() for own in by_name.values() for sample in own))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser(
        "quick", help="bulk, keep-alive and new connections next to direct, nftables DNAT and haproxy"
    )
    one.add_argument("--rounds", type=int, default=7, help="rounds (7)")
    one.add_argument("--seconds", type=float, default=2.0, help="seconds of each measurement (2)")
    one.add_argument("--only", action="append", choices=list(scenarios.ALL), help="only this scenario (repeatable)")
    everyone = ["direct", "dnat", "haproxy", "spliceway"]
    one.add_argument("--contestants", nargs="+", default=everyone, choices=list(contestants.ALL), metavar="NAME")
    kill.add_arguments(commands.add_parser("kill", help="a backend is killed and restored under load"))
    scale.add_arguments(commands.add_parser("scale", help="10,000 Services x 10 endpoints"))
    return parser.parse_args(arguments)


def main() -> int:
    """Run one bench. 0: done; 1: done, with errors in it; 2: it could not be run; 130: interrupted."""
    options = parse()
    console = Console(width=None if sys.stdout.isatty() else 140)
    end_on_signals()
    try:
        return {"quick": quick, "kill": kill.run, "scale": scale.run}[options.command](options, console)
    except BenchError as error:
        console.print(f"bench: {error}", style="red", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; everything is cleaned up")
        return 130


if __name__ == "__main__":
    sys.exit(main())
