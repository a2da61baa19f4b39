"""A backend is killed without telling anybody, and restored, while clients open connections at a fixed rate."""

from __future__ import annotations

import argparse
import time
from typing import Any

import contestants
import results
from contestants import Contestant
from load import LoadTool, Report
from results import Sheet
from rich.console import Console
from rig import Rig

EVERYONE = ["spliceway", "spliceway-replay", "haproxy", "dnat"]
#: the contestants of which no client may see an error
MUST_BE_CLEAN = ("spliceway", "spliceway-replay")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py kill``."""
    parser.add_argument("--runs", type=int, default=5, help="runs of each contestant (5)")
    parser.add_argument("--rate", type=int, default=1000, help="new connections per second, an open loop (1000)")
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="length of a run; killed at 1/3, restored at 2/3 (6)"
    )
    parser.add_argument("--contestants", nargs="+", default=EVERYONE, choices=list(contestants.ALL), metavar="NAME")


class Backends:
    """One process for each backend, so that one of them can be killed."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._children = [rig.start_backend(address) for address in rig.backends]

    def kill(self, number: int) -> None:
        """SIGKILL: connections are reset, and new ones refused."""
        self._children[number].kill()

    def restore(self, number: int) -> None:
        """Start the same backend again and wait until it accepts."""
        self._children[number] = self._rig.start_backend(self._rig.backends[number])


def one_run(
    rig: Rig, backends: Backends, contestant: Contestant, options: argparse.Namespace, victim: int
) -> dict[str, Any]:
    """Kill and restore by the clock of the load's start."""
    contestant.activate(rig)
    before = contestant.statistics()
    words = ["paced", "--rate", str(options.rate), "--seconds", str(options.seconds)]
    with rig.start_load(words, contestant.targets(rig)) as load:
        wait_until(load.started + options.seconds / 3)
        backends.kill(victim)
        wait_until(load.started + options.seconds * 2 / 3)
        backends.restore(victim)
        load.wait_end(options.seconds + 30)
    contestant.deactivate(rig)
    report = Report.parse(load.log.read_text())
    after = contestant.statistics()
    counters = {key: after[key] - before.get(key, 0) for key in after}
    return {"requests": report.requests, "errors": report.errors, "counters": counters, "report": report.as_dict()}


def wait_until(moment: float) -> None:
    """Let the load run until a moment of the monotonic clock."""
    time.sleep(max(0.0, moment - time.monotonic()))


def run(options: argparse.Namespace, console: Console) -> int:
    """Interleave the contestants; returns 1 when a client of spliceway saw an error."""
    facts = results.machine()
    with Rig(LoadTool.build()) as rig:
        backends = Backends(rig)
        present, absent = contestants.start_all(options.contestants, rig)
        versions = {contestant.name: contestant.version() for contestant in present}
        runs: dict[str, list[dict[str, Any]]] = {contestant.name: [] for contestant in present}
        for turn in range(options.runs):
            for contestant in present:
                outcome = one_run(rig, backends, contestant, options, turn % len(rig.backends))
                runs[contestant.name].append(outcome)
                console.print(
                    f"run {turn + 1}/{options.runs}  {contestant.name:16} {outcome['requests']:,} replies, "
                    f"errors: {outcome['errors'] or 'none'}  {outcome['counters'] or ''}",
                    highlight=False,
                    soft_wrap=True,
                )
    sheet = summarize(runs, options)
    notes = [
        *(f"{name}: {version}" for name, version in versions.items() if version),
        *(f"{name} did not take part: {why}" for name, why in absent.items()),
        "A request that a backend had already received when it was killed can only be saved by replay, which a Service "
        "must ask for, because its request may have had an effect.",
    ]
    results.show([sheet], notes, console)
    data = {"machine": facts, "versions": versions, "absent": absent, "runs": runs}
    console.print(f"written: {results.save('kill', data, results.document('Kill test', facts, [sheet], notes))}")
    dirty = [name for name in MUST_BE_CLEAN for outcome in runs.get(name, []) if outcome["errors"]]
    return int(bool(dirty))


def summarize(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> Sheet:
    """One row for each contestant."""
    load = f"{options.rate:,} new connections/s, {options.runs} runs of {options.seconds:g} s"
    title = f"One of 3 backends killed and restored at {load}"
    sheet = Sheet(
        title,
        (
            "contestant",
            "replies",
            "client-visible errors, by run",
            "clean runs",
            "saved by a retry",
            "replayed",
            "p99 ms",
            "worst ms",
        ),
    )
    for name, outcomes in runs.items():
        errors = [sum(outcome["errors"].values()) for outcome in outcomes]
        saved, replayed = (
            sum(outcome["counters"].get(key, 0) for outcome in outcomes) for key in ("saved", "replayed")
        )
        counted = bool(outcomes and outcomes[0]["counters"])
        sheet.add(
            name,
            f"{sum(outcome['requests'] for outcome in outcomes):,}",
            " ".join(map(str, errors)),
            f"{errors.count(0)}/{len(errors)}",
            f"{saved:,}" if counted else "-",
            f"{replayed:,}" if counted else "-",
            f"{max(outcome['report']['p99'] for outcome in outcomes) * 1e3:.1f}",
            f"{max(outcome['report']['max'] for outcome in outcomes) * 1e3:.0f}",
        )
    return sheet
