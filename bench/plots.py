"""The plots of traffic: ratios in all scenarios, latencies, CPU time, and how figures change with many Services."""

from __future__ import annotations

from collections.abc import Sequence

import evidence
import plotstyle
import scenarios
from evidence import Data, Figure
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from matplotlib.lines import Line2D
from plotstyle import INK, look, ordered
from results import Spread, number
from targets import D

#: where ratios are compared: what gets more per second is better
_RATES = [name for name, scenario in scenarios.ALL.items() if scenario.better == "higher"]
_BULK = [name for name, scenario in scenarios.ALL.items() if name.startswith(("bulk", "up"))]
#: where the time of a request tells something
TIMED = ("latency", "first", "keepalive", "newconn")
_PERCENTILES = {"p50": "o", "p99": "D", "p999": "s"}
#: longer bars are cut: what is behind them is a limit that no proxy comes near
_LONGEST = 2.0


def ratios(runs: Sequence[Data]) -> Plot | None:
    """A panel of bars for each scenario: the ratio to D inside each round, with quartiles."""
    by_scenario = {
        scenario: {
            name: spread
            for name in contestants(runs, scenario)
            if (spread := Spread.of(evidence.all_ratios(runs, scenario, name, D)))
        }
        for scenario in _RATES
    }
    by_scenario = {scenario: spreads for scenario, spreads in by_scenario.items() if spreads}
    if not by_scenario:
        return None
    names = ordered(name for spreads in by_scenario.values() for name in spreads)
    plot, panels = plotstyle.grid(len(by_scenario), 3, (3.6, 0.55 + 0.21 * len(names)))
    for position, (axes, (scenario, spreads)) in enumerate(zip(panels, by_scenario.items(), strict=True)):
        axes.set_title(scenarios.ALL[scenario].title)
        _bars(axes, names, spreads)
        plotstyle.name_rows(axes, names, labels=position % 3 == 0)
        axes.axvline(1, color=INK, linewidth=0.9)
        axes.set_xlim(0, min(_LONGEST, 1.22 * max(spread.high for spread in spreads.values())))
    plot.supxlabel(f"ratio to {D} in the same round: median, whiskers are quartiles; longer is better", fontsize=9)
    return plot


def _bars(axes: Axes, names: Sequence[str], spreads: dict[str, Spread]) -> None:
    axes.grid(axis="x")
    for row, name in enumerate(names):
        spread = spreads.get(name)
        if spread is None:
            axes.text(0.01, row, " not measured", va="center", fontsize=7, color="#777777")
            continue
        axes.barh(row, spread.median, height=0.72, color=look(name).colour)
        axes.hlines(row, spread.low, spread.high, color=INK, linewidth=1)
        weight = "bold" if name == plotstyle.OURS else "normal"
        end = min(spread.high, _LONGEST * 0.87)
        axes.text(end, row, f" {spread.median:.2f}", va="center", fontsize=7, fontweight=weight)


def latencies(runs: Sequence[Data]) -> Plot | None:
    """p50, p99 and p99.9 of each contestant, a logarithmic panel for each scenario where time is what counts."""
    shown = [scenario for scenario in TIMED if contestants(runs, scenario)]
    if not shown:
        return None
    names = ordered(name for scenario in shown for name in contestants(runs, scenario))
    plot, panels = plotstyle.grid(len(shown), 2, (5.0, 0.8 + 0.23 * len(names)))
    for position, (axes, scenario) in enumerate(zip(panels, shown, strict=True)):
        axes.set_title(scenarios.ALL[scenario].title)
        for row, name in enumerate(names):
            _percentiles(axes, row, name, evidence.all_samples(runs, scenario, name))
        plotstyle.name_rows(axes, names, labels=position % 2 == 0)
        plotstyle.logarithmic(axes)
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=INK, label=name.replace("p999", "p99.9"))
        for name, marker in _PERCENTILES.items()
    ]
    plot.legend(handles=handles, loc="outside lower right", ncols=3, frameon=False)
    plot.supxlabel("time of a request, µs: median of the rounds; further left is better", fontsize=9)
    return plot


def _percentiles(axes: Axes, row: int, name: str, samples: Sequence[evidence.Sample]) -> None:
    found = {}
    for percentile in _PERCENTILES:
        if spread := Spread.of(evidence.good(samples, evidence.percentile(percentile))):
            found[percentile] = spread.median * 1e6
    if not found:
        return
    axes.hlines(row, min(found.values()), max(found.values()), color=look(name).colour, linewidth=2.5)
    for percentile, microseconds in found.items():
        axes.plot(microseconds, row, _PERCENTILES[percentile], color=look(name).colour, markersize=5)


def cpu(runs: Sequence[Data]) -> Plot | None:
    """CPU time for each gigabit: the contestant's process, and the whole machine with clients and backends."""
    process, machine = evidence.cpu_cost("process"), evidence.cpu_cost("machine")
    shown = [scenario for scenario in _BULK if any(_costs(runs, scenario, machine).values())]
    if not shown:
        return None
    names = ordered(name for scenario in shown for name in _costs(runs, scenario, machine))
    plot, panels = plotstyle.grid(len(shown), 3, (3.6, 0.55 + 0.21 * len(names)))
    for position, (axes, scenario) in enumerate(zip(panels, shown, strict=True)):
        axes.set_title(scenarios.ALL[scenario].title)
        axes.grid(axis="x")
        own, everything = _costs(runs, scenario, process), _costs(runs, scenario, machine)
        for row, name in enumerate(names):
            _cost(axes, row, name, own.get(name, 0.0), everything.get(name))
        axes.set_xlim(0, 1.25 * max(everything.values()))
        plotstyle.name_rows(axes, names, labels=position % 3 == 0)
    plot.supxlabel("CPU milliseconds for each gigabit: full colour the process, pale the whole machine", fontsize=9)
    return plot


def _costs(runs: Sequence[Data], scenario: str, figure: Figure) -> dict[str, float]:
    """Milliseconds by contestant, median of the rounds."""
    spreads = {
        name: Spread.of(evidence.good(evidence.all_samples(runs, scenario, name), figure))
        for name in contestants(runs, scenario)
    }
    return {name: spread.median * 1e3 for name, spread in spreads.items() if spread}


def _cost(axes: Axes, row: int, name: str, own: float, everything: float | None) -> None:
    if everything is None:
        return
    axes.barh(row, everything, height=0.72, color=look(name).colour, alpha=0.3)
    axes.barh(row, own, height=0.72, color=look(name).colour)
    text = f" {number(own)} of {number(everything)}" if own else f" {number(everything)}"
    axes.text(everything, row, text, va="center", fontsize=7)


def sizes(runs: Sequence[Data]) -> Plot | None:
    """New connections and first-packet latency over the number of Services, a line for each contestant."""
    numbers = sorted({int(size) for data in runs for size in data.get("sizes", {})})
    if not numbers:
        return None
    plot, (rate, first) = plotstyle.grid(2, 2, (4.6, 3.6))
    rate.set_title(f"{scenarios.ALL['newconn'].title}, 1/s")
    first.set_title("first request of a connection, p99 µs")
    figures = ((rate, "newconn", evidence.value, 1.0), (first, "first", evidence.percentile("p99"), 1e6))
    names = ordered(
        name for size in numbers for part in evidence.all_sized(runs, size) for name in contestants([part], "newconn")
    )
    for axes, scenario, figure, scale in figures:
        for name in names:
            points = []
            for size in numbers:
                samples = evidence.all_samples(evidence.all_sized(runs, size), scenario, name)
                if spread := Spread.of(evidence.good(samples, figure)):
                    points.append((size, spread.median * scale, spread.low * scale, spread.high * scale))
            _line(axes, name, points)
        axes.set_xscale("log")
        axes.set_xticks(numbers, labels=[f"{size:,}" for size in numbers])
        axes.minorticks_off()
        axes.set_xlabel("Services")
        axes.grid(axis="y")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
    plot.legend(*rate.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return plot


def _line(axes: Axes, name: str, points: Sequence[tuple[float, float, float, float]]) -> None:
    if not points:
        return
    across, median, low, high = zip(*points, strict=True)
    style = look(name)
    width = 2.4 if name == plotstyle.OURS else 1.4
    axes.fill_between(across, low, high, color=style.colour, alpha=0.15, linewidth=0)
    axes.plot(across, median, color=style.colour, marker=style.marker, linewidth=width, label=name)


def contestants(runs: Sequence[Data], scenario: str) -> list[str]:
    """All that were measured in a scenario, in the order of all plots."""
    return ordered(name for data in runs for name in data.get("samples", {}).get(scenario, {}))
