"""All benches: ``python bench/run.py NAME``. README.md has the method."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import idle
import kill
import micro
import peers
import programming
import report
import results
import rolling
import scale
import services
import sizes
from processes import BenchError, end_on_signals
from rich.console import Console

from cluster.api import ApiError, ApiUnreachableError
from cluster.controlplane import ControlPlaneError
from support.namespace import NamespaceError

#: seconds that a bench may take to clean up after an interrupt
_CLEANUP_SECONDS = 60.0
#: what ends a bench with one clear sentence
_FAILURES = (BenchError, NamespaceError, ControlPlaneError, ApiError, ApiUnreachableError)


class Bench(NamedTuple):
    """What it is for, its options, and how it runs: the result is the exit code.

    ``measures``: it leaves a results file, so it knows ``--run``. ``in_all``: it is a part of ``run.py all``.
    """

    purpose: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Console], int]
    measures: bool = True
    in_all: bool = True


def add_all_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py all``."""
    results.add_run_argument(parser)


def run_all(options: argparse.Namespace, console: Console) -> int:
    """Run the benches one after another, each in a process of its own; the worst exit code of them."""
    worst = 0
    for name, bench in BENCHES.items():
        if bench.in_all:
            console.rule(name)
            words = ["--run", str(options.run)] if bench.measures else []
            worst = max(worst, _to_its_end([sys.executable, __file__, name, *words]))
    return worst


def _to_its_end(command: Sequence[str]) -> int:
    """Run a bench; when this process is interrupted, wait until the bench has cleaned up."""
    process = subprocess.Popen(command)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_CLEANUP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


BENCHES = {
    "peers": Bench("build what is to be measured and is not there", peers.add_arguments, peers.run, measures=False),
    "services": Bench("traffic, every way to reach a Service, few Services", services.add_arguments, services.run),
    "sizes": Bench("new connections with 1, 1,000 and 10,000 Services", sizes.add_arguments, sizes.run),
    "idle": Bench("memory of idle connections", idle.add_arguments, idle.run),
    "kill": Bench("a backend is killed and restored under load", kill.add_arguments, kill.run),
    "rolling": Bench("all Pods are replaced one after another under load", rolling.add_arguments, rolling.run),
    "programming": Bench("how soon Services are served and changes act", programming.add_arguments, programming.run),
    "micro": Bench("the engine's parts alone (criterion)", micro.add_arguments, micro.run),
    "scale": Bench("10,000 Services x 10 endpoints from files", scale.add_arguments, scale.run),
    "report": Bench("REPORT.md, plots and targets, from the results", report.add_arguments, report.run, measures=False),
    "quick": Bench(
        "services with the main contestants and scenarios only, 2 minutes",
        services.add_quick_arguments,
        services.run,
        in_all=False,
    ),
    "all": Bench("all of the above but quick", add_all_arguments, run_all, measures=False, in_all=False),
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, bench in BENCHES.items():
        bench.add_arguments(commands.add_parser(name, help=bench.purpose, description=bench.purpose))
    return parser.parse_args(arguments)


def main() -> int:
    """Run one bench. 0: done; 1: done, with errors in it; 2: it could not be run; 130: interrupted."""
    options = parse()
    console = Console(width=None if sys.stdout.isatty() else 140)
    end_on_signals()
    try:
        return BENCHES[options.command].run(options, console)
    except _FAILURES as error:
        console.print(f"bench: {error}", style="red", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; everything is cleaned up")
        return 130


if __name__ == "__main__":
    sys.exit(main())
