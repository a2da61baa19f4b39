"""Throughput next to direct routing, nftables DNAT and haproxy: ``run.py quick``."""

from __future__ import annotations

import argparse

import contestants
import results
import rounds
import scenarios
from contestants import Contestant
from load import LoadTool
from rich.console import Console
from rig import Rig
from rounds import Sample
from scenarios import Scenario

#: every ratio is to this contestant's figure of the same round
BASE = "haproxy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py quick``."""
    parser.add_argument("--rounds", type=int, default=7, help="rounds (7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each measurement (2)")
    parser.add_argument("--only", action="append", choices=list(scenarios.ALL), help="only this scenario (repeatable)")
    everyone = ["direct", "dnat", "haproxy", "spliceway"]
    parser.add_argument("--contestants", nargs="+", default=everyone, choices=list(contestants.ALL), metavar="NAME")


def measure(rig: Rig, contestant: Contestant, scenario: Scenario, seconds: float) -> Sample:
    """One sample: the figure, and what it cost the contestant's process."""
    contestant.activate(rig)
    before = contestant.child.cpu_seconds() if contestant.child else 0.0
    try:
        arguments = [*scenario.arguments, "--seconds", str(seconds), "--warmup", str(rounds.WARMUP)]
        report = rig.measure(arguments, contestant.targets(rig))
    finally:
        contestant.deactivate(rig)
    sample: Sample = {"value": scenario.value(report), "errors": report.errors, "report": report.as_dict()}
    if contestant.child:
        contestant.child.check()
        sample["cpu_share"] = (contestant.child.cpu_seconds() - before) / (seconds + rounds.WARMUP)
        sample["memory"] = contestant.child.memory()
    return sample


def run(options: argparse.Namespace, console: Console) -> int:
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
        samples = rounds.run_rounds(
            present,
            chosen,
            options.rounds,
            lambda contestant, scenario: measure(rig, contestant, scenario, options.seconds),
            console,
        )
        layout = "namespaces" if rig.isolated else "loopback"
    sheet, goals = rounds.summarize(samples, chosen, BASE)
    notes = [
        f"layout: {layout}, {options.rounds} rounds of {options.seconds:g} s",
        *(f"{name}: {version}" for name, version in versions.items() if version),
        *(f"{name} did not take part: {why}" for name, why in absent.items()),
        *(rounds.goal_text(goal, BASE) for goal in goals),
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
    return int(rounds.any_error(samples))
