"""What the result files say about a target, in each run and over both."""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

from evidence import RUNS, Data, Evidence, UnmeasuredError
from results import Spread, number

#: good rounds in which a median counts
ROUNDS = 7

_HOLDS: dict[str, Callable[[float, float], bool]] = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}


class Limit(NamedTuple):
    """A bound and on which side of it figures have to be."""

    relation: str
    bound: float

    def holds(self, figure: float) -> bool:
        """Whether the figure is on the right side."""
        return _HOLDS[self.relation](figure, self.bound)

    def miss(self, figure: float) -> float:
        """How far on the wrong side: a share of the bound, or the figure itself where the bound is 0."""
        return abs(figure - self.bound) / abs(self.bound) if self.bound else abs(figure)


class Target(NamedTuple):
    """One line of the table. ``figures`` finds the figures of one run's rounds; their median is judged."""

    measure: str
    #: what is compared or counted
    compared: str
    bench: str
    unit: str
    figures: Callable[[Data], Sequence[float]]
    must: Limit | None = None
    stretch: Limit | None = None
    #: fewer good rounds prove nothing
    rounds: int = ROUNDS


class Found(NamedTuple):
    """What one run says about a target: a spread, or the reason why there is none that counts."""

    spread: Spread | None
    reason: str = ""


class State(enum.Enum):
    """Of a limit, over the runs."""

    MET = "met"
    MISSED = "missed"
    #: it held in one run and not in the other, which is a miss too
    SPLIT = "missed in 1 of 2 runs"
    #: it holds in one run, and the other does not count
    ONE_RUN = "holds in one run"
    UNMEASURED = "not measured"


class Assessment(NamedTuple):
    """A target with what each of `evidence.RUNS` found."""

    target: Target
    found: tuple[Found, ...]

    def state(self, limit: Limit) -> State:
        """Whether the limit holds in each run."""
        held = [limit.holds(one.spread.median) for one in self.found if one.spread and not one.reason]
        if not held:
            return State.UNMEASURED
        if all(held):
            return State.MET if len(held) == len(RUNS) else State.ONE_RUN
        return State.SPLIT if any(held) else State.MISSED

    def verdict(self, limit: Limit | None) -> str:
        """The state with the reason, or with how much is missing in the worse run."""
        if limit is None:
            return "-"
        state = self.state(limit)
        if state is State.UNMEASURED:
            return f"{state.value}: {'; '.join(dict.fromkeys(one.reason for one in self.found))}"
        if state is State.ONE_RUN:
            return f"{state.value}; {next(one.reason for one in self.found if one.reason)}"
        if state is State.MET:
            return str(state.value)
        missed = [one.spread.median for one in self.found if one.spread and not one.reason]
        most = max(limit.miss(figure) for figure in missed if not limit.holds(figure))
        return f"{state.value}, by {f'{most:.0%}' if limit.bound else f'{number(most)} {self.target.unit}'}"


def assess(table: Sequence[Target], files: Evidence) -> list[Assessment]:
    """Judge all targets. Raises BenchError when a results file cannot be read."""
    return [Assessment(target, tuple(_find(target, files, run) for run in RUNS)) for target in table]


def _find(target: Target, files: Evidence, run: int) -> Found:
    try:
        figures = target.figures(files.run(target.bench, run))
    except UnmeasuredError as reason:
        return Found(None, str(reason))
    spread = Spread.of(figures)
    if len(figures) < target.rounds:
        return Found(spread, f"run {run} has {len(figures)} good rounds, {target.rounds} are needed")
    return Found(spread)
