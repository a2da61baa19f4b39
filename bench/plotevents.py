"""The plots of events: errors that clients saw second by second, and how soon changes take effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotstyle
from evidence import Data
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from matplotlib.lines import Line2D
from plotstyle import INK, look, ordered
from results import number, quantile

#: what the load tool reported of one run
Report = Mapping[str, Any]
#: from second to second of a run
Span = tuple[float, float]


class Strip(NamedTuple):
    """The errors of one contestant's runs under one load. ``spans`` are shaded."""

    name: str
    title: str
    reports: Sequence[Report]
    spans: Sequence[Span]


def kill(runs: Sequence[Data]) -> Plot | None:
    """A Pod is killed and restored: requests of each second that failed, all runs of a contestant together."""
    strips = []
    for name in ordered(name for data in runs for name in data["runs"]):
        outcomes = [outcome for data in runs for outcome in data["runs"].get(name, ())]
        spans = [(outcome["killed_at"], outcome["restored_at"]) for outcome in outcomes[:1]]
        strips.append(Strip(name, name, [outcome["report"] for outcome in outcomes], spans))
    return _plot(strips, 1, "one of three Pods is dead and nobody was told")


def rolling(runs: Sequence[Data]) -> Plot | None:
    """Three Pods are replaced: a row for each contestant and way of ending Pods, a column for each load."""
    strips = []
    for name in ordered(name for data in runs for name in data["runs"]):
        for mode in ("orderly", "early"):
            outcomes = [outcome for data in runs for outcome in data["runs"].get(name, {}).get(mode, ())]
            spans = [span for outcome in outcomes[:1] for span in leaving(outcome["events"])]
            for load, words in (("new", "new connections"), ("kept", "kept connections")):
                reports = [outcome[load] for outcome in outcomes]
                strips.append(Strip(name, f"{name}, {mode}: {words}", reports, spans))
    return _plot(strips, 2, "a Pod is leaving, in the first run")


def leaving(events: Sequence[Mapping[str, Any]]) -> list[Span]:
    """When each Pod was on its way out: told or ended, whichever came first, until its endpoint was gone."""
    begun: dict[str, float] = {}
    spans = []
    for event in events:
        if event["what"] == "removed":
            spans.append((begun.get(event["pod"], event["at"]), event["at"]))
        elif event["what"] in ("terminating", "ended", "killed"):
            begun.setdefault(event["pod"], event["at"])
    return spans


def _plot(strips: Sequence[Strip], columns: int, shaded: str) -> Plot | None:
    strips = [strip for strip in strips if strip.reports]
    if not strips:
        return None
    shares = [failed_shares(strip.reports) for strip in strips]
    top = max(5.0, 1.15 * max(max(own, default=0.0) for own in shares))
    seconds = max(len(own) for own in shares)
    plot, panels = plotstyle.grid(len(strips), columns, (9.0 / columns, 0.78))
    for axes, strip, own in zip(panels, strips, shares, strict=True):
        _strip(axes, strip, own)
        axes.set_xlim(0, max(1, seconds))
        axes.set_ylim(0, top)
    plot.supxlabel(f"second of the run; shaded: {shaded}", fontsize=9)
    plot.supylabel("requests that failed, %", fontsize=9)
    return plot


def failed_shares(reports: Sequence[Report]) -> list[float]:
    """Per cent of the requests begun in each second that failed, over all runs."""
    seconds = max((len(report["timeline"]) for report in reports), default=0)
    done, failed = [0] * seconds, [0] * seconds
    for report in reports:
        for second, (replies, errors) in enumerate(report["timeline"]):
            done[second] += replies
            failed[second] += errors
    return [100 * bad / (bad + well) if bad + well else 0.0 for well, bad in zip(done, failed, strict=True)]


def _strip(axes: Axes, strip: Strip, shares: Sequence[float]) -> None:
    for begin, end in strip.spans:
        axes.axvspan(begin, end, color="#efefef", linewidth=0)
    axes.bar(range(len(shares)), shares, width=1.0, align="edge", color=look(strip.name).colour, linewidth=0)
    failed, runs = sum(sum(report["errors"].values()) for report in strip.reports), len(strip.reports)
    counted = f"{failed:,} errors" if failed else "no error"
    ours = strip.name.startswith(plotstyle.OURS)
    axes.set_title(strip.title, fontsize=8, pad=2, fontweight="bold" if ours else "normal")
    axes.set_title(f"{counted} in {runs} runs", fontsize=7.5, pad=2, loc="right", fontweight="normal")
    axes.locator_params(axis="y", nbins=2)


def programming(runs: Sequence[Data]) -> Plot | None:
    """How soon an endpoint's change and a new Service take effect, a row of panels for each number of Services."""
    together = programming_outcomes(runs)
    if not together:
        return None
    kinds = {"changes": "another endpoint", "new": "new Service"}
    names = ordered(name for outcomes in together.values() for name in outcomes)
    plot, panels = plotstyle.grid(2 * len(together), 2, (4.9, 0.8 + 0.3 * len(names)))
    cells = [(size, kind) for size in together for kind in kinds]
    for position, (axes, (size, kind)) in enumerate(zip(panels, cells, strict=True)):
        axes.set_title(f"{kinds[kind]}, {size:,} Services")
        for row, name in enumerate(names):
            turns = together[size].get(name, ())
            _times(axes, row, name, [one["event"] * 1e3 for turn in turns for one in turn[kind]])
        plotstyle.name_rows(axes, names, labels=position % 2 == 0)
        plotstyle.logarithmic(axes, room=4.0)  # for the text after the last mark
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=INK, label=text)
        for marker, text in (("o", "median"), ("D", "p99"))
    ]
    plot.legend(handles=handles, loc="outside lower right", ncols=2, frameon=False)
    plot.supxlabel("ms from the watch event to the first connection that is right; further left is better", fontsize=9)
    return plot


def programming_outcomes(runs: Sequence[Data]) -> dict[int, dict[str, list[Any]]]:
    """The turns of all runs together, by the number of Services and by contestant."""
    together: dict[int, dict[str, list[Any]]] = {}
    for data in runs:
        for size, part in data.get("sizes", {}).items():
            for name, turns in part["outcomes"].items():
                together.setdefault(int(size), {}).setdefault(name, []).extend(turns)
    return dict(sorted(together.items()))


def _times(axes: Axes, row: int, name: str, milliseconds: Sequence[float]) -> None:
    if not milliseconds:
        return
    median, high = quantile(milliseconds, 50), quantile(milliseconds, 99)
    axes.hlines(row, median, high, color=look(name).colour, linewidth=2.5)
    axes.plot(median, row, "o", color=look(name).colour)
    axes.plot(high, row, "D", color=look(name).colour)
    axes.annotate(
        f"{number(median)} / {number(high)}", (high, row), (6, 0), textcoords="offset points", va="center", fontsize=7
    )
