"""Statistics of rounds, facts about the machine, and the files that a bench leaves behind."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).resolve().parent / "results"
CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")


class Spread(NamedTuple):
    """Median and quartiles of the rounds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None without values; one value is all three."""
        if not values:
            return None
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)

    def text(self) -> str:
        """Three significant digits, or all digits of the integer part."""
        return f"{number(self.median)} ({number(self.low)}..{number(self.high)})"


def quantile(values: Sequence[float], percent: int) -> float:
    """The smallest value that ``percent`` of the values do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -(-len(ranked) * percent // 100) - 1))]


def number(value: float) -> str:
    """A figure as short as it is meaningful."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def congestion_control() -> str:
    """What TCP connections of this network namespace begin with."""
    return CONGESTION_CONTROL.read_text().strip()


def machine() -> dict[str, Any]:
    """What a reader needs to judge the figures by."""
    cpus = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    memory = int(Path("/proc/meminfo").read_text().split(maxsplit=2)[1])
    return {
        "cpu": cpus[0] if cpus else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_mib": memory // 1024,
        "kernel": platform.release(),
        "congestion_control": congestion_control(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "commit": commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def commit() -> str:
    """The checkout's commit, with ``+`` when files other than results differ from it."""
    root = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode != 0:
        return "no commit"
    status = [*git, "status", "--porcelain", "--", ".", f":!{FOLDER.relative_to(root)}"]
    dirty = subprocess.run(status, capture_output=True, text=True, check=False).stdout
    return head.stdout.strip() + ("+" if dirty.strip() else "")


def path_of(name: str, run: int = 1, folder: Path = FOLDER) -> Path:
    """``NAME.json``, and ``NAME.2.json`` of the second run: a target has to hold in each of two runs."""
    return folder / (f"{name}.json" if run == 1 else f"{name}.{run}.json")


def save(name: str, data: dict[str, Any], markdown: str, run: int = 1) -> Path:
    """Write the run's JSON (everything) and, beside it, ``.md`` (the tables); return the first."""
    FOLDER.mkdir(exist_ok=True)
    path = path_of(name, run)
    path.write_text(json.dumps(data, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown)
    return path


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """``--run``, which `save` is given."""
    parser.add_argument(
        "--run", type=int, default=1, choices=(1, 2), help="which of the two runs this is: 2 writes NAME.2.json (1)"
    )


class Sheet:
    """A table that is shown in the terminal and kept as Markdown."""

    def __init__(self, title: str, columns: Sequence[str]) -> None:
        self.title = title
        self.columns = columns
        self.rows: list[tuple[str, ...]] = []

    def add(self, *cells: str) -> None:
        """Append one row."""
        self.rows.append(cells)

    def show(self, console: Console) -> None:
        """Print it; figures to the right."""
        table = Table(title=self.title, title_justify="left")
        for position, column in enumerate(self.columns):
            table.add_column(column, justify="right" if position else "left", no_wrap=console.width >= 100)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def table(self) -> str:
        """The same as a Markdown table."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (self.columns, rule, *self.rows)) + "\n"

    def markdown(self) -> str:
        """The table with its title as a heading."""
        return f"### {self.title}\n\n{self.table()}"


def document(title: str, facts: dict[str, Any], sheets: Iterable[Sheet], notes: Iterable[str] = ()) -> str:
    """The Markdown file of one bench."""
    about = (
        f"{facts['time']}, commit {facts['commit']}, {facts['cpus']} x {facts['cpu']}, Linux {facts['kernel']}, "
        f"TCP {facts['congestion_control']}, Python {facts['python']}, "
        f"load average before the run {facts['load_before']:.1f}"
    )
    parts = [f"## {title}", about, *(sheet.markdown() for sheet in sheets), *(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def show(sheets: Iterable[Sheet], notes: Iterable[str], console: Console) -> None:
    """The same in the terminal."""
    for sheet in sheets:
        sheet.show(console)
    for note in notes:
        console.print(f"- {note}", highlight=False, soft_wrap=True)
