"""The report of all benches, from their result files: ``run.py report``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import plotevents
import plots
import plotstyle
import reporttables
import results
import scenarios
import targets
import verdicts
from evidence import RUNS, Data, Evidence, UnmeasuredError
from matplotlib.figure import Figure as Plot
from processes import BenchError
from results import Sheet
from rich.console import Console
from verdicts import Assessment, State

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
#: in the order of the report
BENCHES = ("services", "sizes", "kill", "rolling", "programming", "idle", "micro", "scale")


class Picture(NamedTuple):
    """A plot of a bench's runs."""

    bench: str
    title: str
    make: Callable[[Sequence[Data]], Plot | None]


#: by the name of the file
_PLOTS = {
    "ratios": Picture("services", f"ratios to {targets.D} in all scenarios", plots.ratios),
    "latency": Picture("services", "time of a request", plots.latencies),
    "cpu": Picture("services", "CPU time for each gigabit", plots.cpu),
    "sizes": Picture("sizes", "new connections with 1, 1,000 and 10,000 Services", plots.sizes),
    "kill": Picture("kill", "errors while a Pod is dead", plotevents.kill),
    "rolling": Picture("rolling", "errors during a rolling update", plotevents.rolling),
    "programming": Picture("programming", "how soon changes take effect", plotevents.programming),
}


class Part(NamedTuple):
    """What the report says on a bench's runs."""

    title: str
    bench: str
    pictures: tuple[str, ...]
    sheets: Callable[[Sequence[Data]], list[Sheet]]


def _one(make: Callable[[Sequence[Data]], Sheet]) -> Callable[[Sequence[Data]], list[Sheet]]:
    return lambda runs: [make(runs)]


def _traffic(runs: Sequence[Data]) -> list[Sheet]:
    return [reporttables.traffic(runs, scenario) for scenario in scenarios.ALL.values()]


def _latencies(runs: Sequence[Data]) -> list[Sheet]:
    return [reporttables.latencies(runs, scenarios.ALL[name]) for name in plots.TIMED]


_PARTS = (
    Part("Traffic", "services", ("ratios", "cpu"), _traffic),
    Part("Latency", "services", ("latency",), _latencies),
    Part("Few and many Services", "sizes", ("sizes",), _one(reporttables.sizes)),
    Part("A Pod dies", "kill", ("kill",), _one(reporttables.kill)),
    Part("Rolling update", "rolling", ("rolling",), _one(reporttables.rolling)),
    Part("Programming latency", "programming", ("programming",), _one(reporttables.programming)),
    Part("Idle connections", "idle", (), _one(reporttables.idle)),
)

_METHOD = """\
Every contestant has a network of its own, all alike (client, node, three Pods), on one machine. In each round every
contestant is measured once in every scenario; who begins changes. Replies and payload are verified; **a measurement
with any error is void** and counts nowhere but in the column *void*. Machines like this one drift by a factor of two
between minutes, so **ratios are taken inside a round**, and medians with quartiles are of those ratios. CPU is
milliseconds for each gigabit or each 10,000 requests: of the contestant's process, and of the whole machine with
clients, backends and what the kernel does for nobody. Tables and plots are of all rounds of both runs together; a
target holds only if it holds in each run on its own, with at least 7 good rounds.
[bench/README.md](../README.md) has the method in full."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``run.py report``."""
    parser.add_argument("--folder", type=Path, default=results.FOLDER, help="where the results are (bench/results)")
    parser.add_argument(
        "--readme", type=Path, nargs="?", const=README, help=f"also write the short table between {BEGIN} and {END}"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Write REPORT.md and its plots beside the results. Returns 0; targets that are not met are named, but no error."""
    files = Evidence(options.folder)
    if not any(files.runs(bench) for bench in BENCHES):
        raise BenchError(f"{options.folder} has no results: run the benches first (`python bench/run.py all`)")
    assessments = verdicts.assess(targets.table(), files)
    with plotstyle.styled():
        drawn = {name for name in _PLOTS if draw(name, files, options.folder)}
    path = options.folder / "REPORT.md"
    path.write_text(compose(files, assessments, drawn))
    console.print(summary(assessments), highlight=False, markup=False, soft_wrap=True)
    console.print(f"written: {path}")
    table = short(files, assessments)
    if options.readme:
        replace_between(options.readme, table)
        console.print(f"written: {options.readme}")
    else:
        console.print(f"for the README (--readme writes it):\n\n{table}", highlight=False, markup=False, soft_wrap=True)
    return 0


def draw(name: str, files: Evidence, folder: Path) -> bool:
    """Make a plot, or remove an old one when there are no figures for it; tells whether it was made."""
    picture, path = _PLOTS[name], folder / f"{name}.svg"
    with _understood(picture.bench):
        plot = picture.make(files.runs(picture.bench))
    if plot is None:
        path.unlink(missing_ok=True)
        return False
    plotstyle.save(plot, path)
    return True


@contextmanager
def _understood(bench: str) -> Iterator[None]:
    """A results file that has other fields than today's benches write is named."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise BenchError(
            f"the results of {bench} are of another version of the bench ({error!r}): run it again"
        ) from error


def compose(files: Evidence, assessments: Sequence[Assessment], drawn: Collection[str]) -> str:
    """The whole report as Markdown."""
    text = [
        "# What the benches found",
        summary(assessments),
        about(files),
        reporttables.verdicts(assessments).markdown(),
    ]
    if (ROOT / "docs" / "performance.md").exists():
        text.append("Why targets are missed and what was tried: [docs/performance.md](../../docs/performance.md).")
    for part in _PARTS:
        text.append(f"## {part.title}")
        runs = files.runs(part.bench)
        if not runs:
            text.append(missing(files, part.bench))
            continue
        text += [f"![{_PLOTS[name].title}]({name}.svg)" for name in part.pictures if name in drawn]
        with _understood(part.bench):
            text += [sheet.markdown() for sheet in part.sheets(runs) if sheet.rows]
    text += ["## Who did not take part", absent(files), "## Method", _METHOD]
    return "\n\n".join(paragraph.strip() for paragraph in text) + "\n"


def missing(files: Evidence, bench: str) -> str:
    """Why there are no figures of a bench."""
    try:
        files.run(bench, 1)
    except UnmeasuredError as reason:
        return f"Not measured: {reason}."
    return ""


def summary(assessments: Sequence[Assessment]) -> str:
    """How many targets hold, and which do not."""
    lines = []
    for what in ("must", "stretch"):
        limited = [(one, limit) for one in assessments if (limit := getattr(one.target, what))]
        states = [one.state(limit) for one, limit in limited]
        count = {state: states.count(state) for state in State}
        lines.append(
            f"- **{what}**: {count[State.MET]} of {len(states)} met in both runs, "
            f"{count[State.MISSED] + count[State.SPLIT]} missed, "
            f"{count[State.ONE_RUN]} met in the one run that counts, {count[State.UNMEASURED]} not measured"
        )
    missed = [
        f"{one.target.measure} {one.target.compared} ({one.verdict(one.target.must)})"
        for one in assessments
        if one.target.must and one.state(one.target.must) in (State.MISSED, State.SPLIT)
    ]
    lines += [f"- must, missed: {'; '.join(missed)}"] if missed else []
    return "\n".join(lines)


def about(files: Evidence) -> str:
    """What was measured when, on what, and which versions."""
    sheet = Sheet("Runs", ("bench", "run", "time", "commit", "machine", "load before"))
    versions: dict[str, str] = {}
    for bench in BENCHES:
        for number in RUNS:
            try:
                data = files.run(bench, number)
            except UnmeasuredError:
                continue
            facts = data["machine"]
            machine = f"{facts['cpus']} x {facts['cpu']}, {facts['memory_mib'] // 1024} GiB, Linux {facts['kernel']}"
            page = results.path_of(bench, number).with_suffix(".md").name
            sheet.add(
                f"[{bench}]({page})",
                str(number),
                facts["time"],
                facts["commit"],
                machine,
                f"{facts['load_before']:.1f}",
            )
            versions |= {name: version for name, version in data.get("versions", {}).items() if version}
    lines = [f"- {name}: {versions[name]}" for name in plotstyle.ordered(versions)]
    return sheet.markdown() + "\n" + "\n".join(lines)


def absent(files: Evidence) -> str:
    """Every contestant that was not there, with the reason and the bench."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for bench in BENCHES:
        for data in files.runs(bench):
            for name, why in data.get("absent", {}).items():
                reasons.setdefault((name, why), []).append(bench)
            for size, part in data.get("sizes", {}).items():
                for name, why in part.get("absent", {}).items():
                    reasons.setdefault((name, why), []).append(f"{bench} with {int(size):,} Services")
            for name in data.get("no_udp", ()):
                reasons.setdefault((name, "it carries no UDP"), []).append(f"{bench}, UDP")
    lines = [f"- {name} ({', '.join(dict.fromkeys(where))}): {why}" for (name, why), where in reasons.items()]
    return "\n".join(lines) or "Everybody took part."


def short(files: Evidence, assessments: Sequence[Assessment]) -> str:
    """The figures of the README."""
    bases = (targets.D, targets.HAPROXY, targets.USERSPACE)
    sheets = [reporttables.compact(files.runs("services"), targets.OURS, bases)]
    for bench, make in (("kill", reporttables.kill), ("programming", reporttables.programming)):
        with _understood(bench):
            sheets.append(make(files.runs(bench)))
    ratios = sheets[0].table() if sheets[0].rows else ""
    others = [f"{sheet.title}:\n\n{sheet.table()}" for sheet in sheets[1:] if sheet.rows]
    parts = (_intro(files), ratios, f"Targets of the data plane:\n\n{summary(assessments)}", *others)
    return "\n\n".join(part.strip() for part in parts if part)


def _intro(files: Evidence) -> str:
    runs = files.runs("services")
    if not runs:
        return missing(files, "services")
    facts = runs[0]["machine"]
    return (
        f"{facts['cpus']} x {facts['cpu']}, Linux {facts['kernel'].partition('-')[0]}, commit "
        f"{', '.join(dict.fromkeys(data['machine']['commit'] for data in runs))}: ratios inside the same round, median "
        "(quartiles) of all rounds. [The report](bench/results/REPORT.md) has all contestants and scenarios, plots, "
        "and all targets with their verdicts."
    )


def replace_between(path: Path, text: str) -> None:
    """Put ``text`` between the two marks of a page.

    Raises:
        BenchError: the page does not have them, each once and in order.
    """
    page = path.read_text()
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in tail:
        raise BenchError(f"{path} needs {BEGIN} and after it {END}, each once")
    path.write_text(f"{head}{BEGIN}\n{text.strip()}\n{END}{tail}")
