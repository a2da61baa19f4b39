"""The report of the bench says what its result files say, and nothing that they do not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import report
from evidence import Evidence
from processes import BenchError
from rich.console import Console

MACHINE = {
    "cpu": "a CPU",
    "cpus": 2,
    "memory_mib": 2048,
    "kernel": "6.1",
    "load_before": 0.5,
    "commit": "abc",
    "time": "2026-01-01T00:00:00Z",
}
NAMES = ("direct", "kube-proxy-iptables", "haproxy", "spliceway")


def sample(value: float, **errors: int) -> dict[str, Any]:
    """One measurement."""
    times = {"p50": 1e-4, "p99": 2e-4, "p999": 4e-4}
    cost = {"process": 0.01, "machine": 0.1}
    return {"value": value, "errors": errors, "report": times, "cpu_cost": cost}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of `services` and of `kill`, one run each."""
    bulk = {name: [sample(10.0 + number), sample(12.0)] for number, name in enumerate(NAMES)}
    bulk["spliceway"].append(sample(99.0, corrupt=1))
    services = {
        "machine": MACHINE,
        "versions": {"haproxy": "2.6"},
        "absent": {"sozu": "it is not built: run bench/run.py peers"},
        "no_udp": ["haproxy"],
        "samples": {"bulk1": bulk, "latency": {name: [sample(5.0)] for name in NAMES}},
    }
    killed = {"requests": 900, "errors": {"refused": 100}, "timeline": [[300, 0], [250, 50], [350, 50]]}
    outcome = {"report": killed, "killed_at": 1.0, "restored_at": 2.0}
    kill = {"machine": MACHINE, "versions": {}, "absent": {}, "runs": {"kube-proxy-iptables": [outcome]}}
    (tmp_path / "services.json").write_text(json.dumps(services))
    (tmp_path / "kill.json").write_text(json.dumps(kill))
    return tmp_path


def write(folder: Path, readme: Path | None = None) -> str:
    """Make the report and return it."""
    assert report.run(argparse.Namespace(folder=folder, readme=readme), Console(quiet=True)) == 0
    return (folder / "REPORT.md").read_text()


def test_figures_voids_and_who_is_missing_are_told(folder: Path) -> None:
    """A reader could not tell a loss from a failure, nor why a name is not in the tables."""
    text = write(folder)
    row = next(line for line in text.splitlines() if line.startswith("| spliceway | 12.5"))
    assert row.endswith("| 1/3 |"), "the void round counts in no figure, but it is told"
    assert "- sozu (services): it is not built: run bench/run.py peers" in text
    assert "- haproxy (services, UDP): it carries no UDP" in text
    assert "| kube-proxy-iptables | 900 | 100 | refused 100 |" in text
    assert "0 of 49 met in both runs" in text


def test_a_bench_without_results_is_not_passed_over(folder: Path) -> None:
    """Scenarios that went badly could be left out of the report unnoticed."""
    text = write(folder)
    for name in ("sizes", "rolling", "programming", "idle"):
        assert f"Not measured: run 1 is missing (`python bench/run.py {name}`)." in text


def test_plots_are_drawn_for_what_there_is_and_stay_the_same(folder: Path) -> None:
    """The page would show pictures of older figures, and each report would change all pictures."""
    (folder / "sizes.svg").write_text("of an earlier report")
    text = write(folder)
    drawn = {path.name: path.read_bytes() for path in folder.glob("*.svg")}
    assert set(drawn) == {"ratios.svg", "latency.svg", "cpu.svg", "kill.svg"}
    assert all(f"]({name})" in text for name in drawn)
    assert b"bulk download, 1 stream" in drawn["ratios.svg"], "text stays text"
    write(folder)
    assert {path.name: path.read_bytes() for path in folder.glob("*.svg")} == drawn


def test_only_what_is_between_the_marks_of_the_readme_changes(folder: Path) -> None:
    """A report would eat the rest of the page."""
    readme = folder / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nfigures of last year\n{report.END}\nafter\n")
    write(folder, readme)
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n2 x a CPU, Linux 6.1, commit abc: ")
    assert text.endswith(f"\n{report.END}\nafter\n")
    assert "last year" not in text
    assert "| bulk download, 1 stream | 1.09" in text
    write(folder, readme)
    assert readme.read_text() == text


@pytest.mark.parametrize(
    "page", ["none", report.BEGIN, f"{report.END} {report.BEGIN}", (report.BEGIN + report.END) * 2]
)
def test_a_page_without_marks_is_left_alone(folder: Path, page: str) -> None:
    """The figures would be written to a place that nobody meant."""
    readme = folder / "README.md"
    readme.write_text(page)
    with pytest.raises(BenchError, match="each once"):
        write(folder, readme)
    assert readme.read_text() == page


def test_results_of_another_version_are_named(folder: Path) -> None:
    """Somebody with old results would get a traceback."""
    (folder / "kill.json").write_text(json.dumps({"machine": MACHINE, "runs": {"haproxy": [{"requests": 1}]}}))
    with pytest.raises(BenchError, match="the results of kill are of another version"):
        write(folder)


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    """An empty report would be written over a good one."""
    with pytest.raises(BenchError, match="has no results"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_readme_has_its_marks() -> None:
    """`run.py report --readme` would fail when the figures are to be published."""
    text = report.README.read_text()
    assert (text.count(report.BEGIN), text.count(report.END)) == (1, 1)


def test_each_run_is_listed_with_its_commit(folder: Path) -> None:
    """Nobody could tell which code the figures are of."""
    table = report.about(Evidence(folder))
    assert "| [services](services.md) | 1 | 2026-01-01T00:00:00Z | abc | 2 x a CPU, 2 GiB, Linux 6.1 | 0.5 |" in table
    assert "- haproxy: 2.6" in table
