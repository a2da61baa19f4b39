"""What choosing, building and publishing cost in themselves, by criterion: ``run.py micro``."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import results
import targets
from evidence import UnmeasuredError
from processes import BenchError, output_of
from results import Sheet, number
from rich.console import Console
from verdicts import Limit

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("spliceway-core", "spliceway-engine")
#: seconds that the build may take, and one bench besides what it measures
BUILD_SECONDS = 1200.0
BENCH_SECONDS = 240.0
#: criterion's own unit is the nanosecond, and for memory the byte
SCALES = {"ns": 1.0, "us": 1e3, "ms": 1e6, "mib": 1024.0**2}
#: pool of the targets
POOL = 10
#: figures of the results file by their names, which end with the unit: criterion's name of the bench
FIGURES = {
    "maglev_build_ms": "table/build/1000",
    "maglev_build_small_us": f"table/build/{POOL}",
    "change_small_us": f"pool/change/{POOL}",
    "change_large_us": "pool/change/1000",
    "all_build_ms": "all/pools",
    "all_equal_build_ms": "all/pools with equal backends",
    "all_tables_build_ms": "all/tables",
    "all_memory_mib": "memory/pools",
    "all_equal_memory_mib": "memory/pools with equal backends",
    "all_tables_memory_mib": "memory/tables",
    "publication_us": "publication/one pool",
    "publication_nothing_us": "publication/nothing",
    "publication_route_us": "publication/one route",
    "session_ns": "session/keep-alive request",
    "session_connection_ns": "session/connection of one request",
    "affinity_ns": "affinity/clients/1000",
    "affinity_flood_ns": "affinity/clients/1048576",
    "flow_key_ns": "dial/key",
    "dial_first_ns": "dial/first",
}


class Estimate(NamedTuple):
    """Criterion's median, and the 95 % confidence interval of it, in nanoseconds or bytes."""

    low: float
    median: float
    high: float

    def scaled(self, unit: str) -> Estimate:
        """The same in another unit."""
        return Estimate(*(value / SCALES[unit] for value in self))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py micro``."""
    parser.add_argument("--seconds", type=float, default=1.0, help="measuring time of each benchmark (1)")
    results.add_run_argument(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Build and run the benchmarks, show and write what they found; the exit code is 0.

    Raises:
        BenchError: cargo is missing, a benchmark failed, or one of those asked for did not report.
    """
    facts = results.machine()
    with tempfile.TemporaryDirectory(prefix="spliceway-bench-") as folder:
        with console.status("building the benches"):
            benches = build()
        for bench in benches:
            with console.status(f"criterion: {bench.stem.partition('-')[0]}"):
                measure(bench, Path(folder), options.seconds)
        estimates = read(Path(folder))
    data = {"machine": facts, **figures(estimates), "estimates": {name: list(one) for name, one in estimates.items()}}
    sheets = [judged(data), detailed(estimates)]
    notes = [
        "Median, and its 95 % confidence interval; all data hot in the cache, one thread.",
        f"Adding to every pick: {number(estimates['pick/key'].median)} ns of the benchmark itself.",
        "Memory is counted at the allocator, with 16 bytes for each block's own cost.",
        "All: 10,000 pools of 10 backends, with their tables and counters; of all tables, only these.",
        "Publication is of one change among 10,000 pools of 10: its pool is built, and the table of pools swapped.",
    ]
    results.show(sheets, notes, console)
    text = results.document("Micro-benchmarks", facts, sheets, notes)
    console.print(f"written: {results.save('micro', data, text, options.run)}")
    return 0


def build() -> list[Path]:
    """Build the benches; where cargo has put them."""
    try:
        output_of(["cargo", "--version"])
    except BenchError as error:
        raise BenchError(f"{error}; the micro-benchmarks need cargo, see rust-version in Cargo.toml") from error
    packages = [word for package in PACKAGES for word in ("--package", package)]
    command = ["cargo", "bench", "--locked", "--manifest-path", str(ROOT / "Cargo.toml"), *packages]
    told = output_of([*command, "--benches", "--no-run", "--message-format", "json"], timeout=BUILD_SECONDS)
    artifacts = [json.loads(line) for line in told.splitlines()]
    return [
        Path(artifact["executable"])
        for artifact in artifacts
        if artifact["reason"] == "compiler-artifact" and artifact["target"]["kind"] == ["bench"]
    ]


def measure(bench: Path, folder: Path, seconds: float) -> None:
    """Let criterion write its estimates into ``folder``, in which nothing of an earlier run is mistaken for new."""
    arguments = ["--bench", "--noplot", "--warm-up-time", "0.3", "--measurement-time", str(seconds)]
    output_of(
        ["setpriv", "--pdeathsig", "KILL", "env", f"CRITERION_HOME={folder}", str(bench), *arguments],
        timeout=BENCH_SECONDS + 60 * seconds,
    )


def read(folder: Path) -> dict[str, Estimate]:
    """What criterion has written, by the full names of the benchmarks.

    Raises:
        BenchError: one that a figure is taken from did not report.
    """
    found = {}
    for path in sorted(folder.rglob("new/benchmark.json")):
        name = json.loads(path.read_text())["full_id"]
        median = json.loads(path.with_name("estimates.json").read_text())["median"]
        interval = median["confidence_interval"]
        found[name] = Estimate(interval["lower_bound"], median["point_estimate"], interval["upper_bound"])
    missing = sorted({"pick/key", *FIGURES.values(), *_picks().values()} - found.keys())
    if missing:
        raise BenchError(f"criterion reported nothing of {', '.join(missing)}")
    return found


def figures(estimates: dict[str, Estimate]) -> dict[str, Any]:
    """The medians by the names that the targets know."""
    picks = {policy: estimates[name].median for policy, name in _picks().items()}
    others = {figure: estimates[name].scaled(figure.rpartition("_")[2]).median for figure, name in FIGURES.items()}
    return {"pick": picks, **others}


def _picks() -> dict[str, str]:
    policies = ("maglev", "random", "round-robin", "least-conn", "p2c", "source-hash", "sed", "nq")
    return {policy: f"pick/{policy}/{POOL}" for policy in policies}


def judged(data: dict[str, Any]) -> Sheet:
    """The targets with what this run says of them."""
    sheet = Sheet("Targets", ("measure", "of", "figure", "must", "stretch"))
    for target in targets.table():
        if target.bench != "micro":
            continue
        try:
            (figure,) = target.figures(data)
        except UnmeasuredError as error:
            sheet.add(target.measure, target.compared, str(error), "", "")
            continue
        verdicts = (_verdict(limit, figure) for limit in (target.must, target.stretch))
        sheet.add(target.measure, target.compared, f"{number(figure)} {target.unit}", *verdicts)
    return sheet


def _verdict(limit: Limit | None, figure: float) -> str:
    if limit is None:
        return ""
    verdict = "met" if limit.holds(figure) else f"missed by {limit.miss(figure):.0%}"
    return f"{limit.relation} {number(limit.bound)}: {verdict}"


def detailed(estimates: dict[str, Estimate]) -> Sheet:
    """Every benchmark."""
    sheet = Sheet("All benchmarks", ("benchmark", "median", "interval", "unit"))
    for name, estimate in estimates.items():
        unit = "mib" if name.startswith("memory/") else next(_readable(estimate.median))
        low, median, high = (number(value) for value in estimate.scaled(unit))
        sheet.add(name, median, f"{low}..{high}", "MiB" if unit == "mib" else unit.replace("us", "µs"))
    return sheet


def _readable(nanoseconds: float) -> Iterator[str]:
    """The units of time in which it is 1 or more, the largest first; else nanoseconds."""
    yield from (unit for unit in ("ms", "us") if nanoseconds >= SCALES[unit])
    yield "ns"
