"""What the result files say: samples by scenario and contestant, and figures inside each round."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import results
from processes import BenchError

#: one results file
Data = Mapping[str, Any]
#: one measurement, as `rounds` makes it
Sample = Mapping[str, Any]
#: what is looked at in a sample; None where the sample does not have it
Figure = Callable[[Sample], float | None]

#: a target has to hold in each of them
RUNS = (1, 2)


class UnmeasuredError(Exception):
    """A figure is not there. The text is the reason."""


class Evidence:
    """The result files of a folder, each read once."""

    def __init__(self, folder: Path = results.FOLDER) -> None:
        self._folder = folder
        self._read: dict[tuple[str, int], Data | None] = {}

    def run(self, bench: str, run: int) -> Data:
        """One run of a bench.

        Raises:
            UnmeasuredError: there is no such file.
            BenchError: the file is none of the bench's.
        """
        if (bench, run) not in self._read:
            self._read[bench, run] = self._load(results.path_of(bench, run, self._folder))
        data = self._read[bench, run]
        if data is None:
            again = "" if run == 1 else f" --run {run}"
            raise UnmeasuredError(f"run {run} is missing (`python bench/run.py {bench}{again}`)")
        return data

    def runs(self, bench: str) -> list[Data]:
        """All runs of a bench that are there. Raises BenchError as `run` does."""
        found = []
        for number in RUNS:
            try:
                found.append(self.run(bench, number))
            except UnmeasuredError:
                continue
        return found

    @staticmethod
    def _load(path: Path) -> Data | None:
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BenchError(f"{path} cannot be read: {error}; remove it or run the bench again") from error
        if not isinstance(data, dict):
            raise BenchError(f"{path} is not the results of a bench; remove it or run the bench again")
        return data


# --- figures of a sample


def value(sample: Sample) -> float | None:
    """What the scenario measures, in its unit."""
    return float(sample["value"])


def percentile(name: str) -> Figure:
    """Seconds that a request took: ``p50``, ``p90``, ``p99`` or ``p999``."""

    def figure(sample: Sample) -> float | None:
        seconds = sample["report"].get(name)
        return float(seconds) if seconds else None

    return figure


def cpu_cost(whose: str) -> Figure:
    """CPU seconds for each unit of the scenario's work (a gigabit, or 10,000 requests): ``process`` or ``machine``."""

    def figure(sample: Sample) -> float | None:
        seconds = sample.get("cpu_cost", {}).get(whose)
        return float(seconds) if seconds else None

    return figure


# --- series of rounds


def voids(sample: Sample) -> int:
    """How many samples of the turn were void: it, and those before it."""
    return len(sample.get("void", ())) + bool(sample["errors"])


def taken(samples: Iterable[Sample]) -> int:
    """How many samples there were, with those that were void and taken once more."""
    return sum(1 + len(sample.get("void", ())) for sample in samples)


def good(samples: Iterable[Sample], figure: Figure = value) -> list[float]:
    """The figures of the rounds without an error."""
    return [found for sample in samples if not sample["errors"] and (found := figure(sample)) is not None]


def pairs(own: Sequence[Sample], other: Sequence[Sample], figure: Figure = value) -> list[tuple[float, float]]:
    """Both figures of each round in which both went without an error."""
    found = []
    for one, two in zip(own, other, strict=False):  # an interrupted contestant has fewer rounds
        if not one["errors"] and not two["errors"]:
            mine, theirs = figure(one), figure(two)
            if mine is not None and theirs is not None:
                found.append((mine, theirs))
    return found


def ratios(own: Sequence[Sample], base: Sequence[Sample], figure: Figure = value) -> list[float]:
    """Ratios inside each round in which both went without an error."""
    return [mine / theirs for mine, theirs in pairs(own, base, figure) if theirs]


def differences(own: Sequence[Sample], base: Sequence[Sample], figure: Figure = value) -> list[float]:
    """Differences inside each round in which both went without an error."""
    return [mine - theirs for mine, theirs in pairs(own, base, figure)]


def series(data: Data, scenario: str, contestant: str) -> list[Sample]:
    """All rounds of a contestant in a scenario.

    Raises:
        UnmeasuredError: it was not measured; says why where that is known.
    """
    by_name = data.get("samples", {}).get(scenario)
    if by_name is None:
        raise UnmeasuredError(f"the run had no scenario {scenario}")
    if own := by_name.get(contestant):
        return list(own)
    why = data.get("absent", {}).get(contestant)
    if why:
        raise UnmeasuredError(f"{contestant} did not take part: {why}")
    raise UnmeasuredError(f"{contestant} was not measured in {scenario}")


def sized(data: Data, size: int) -> Data:
    """The part of a results file that was measured with so many Services.

    Raises:
        UnmeasuredError: it was not.
    """
    part: Data | None = data.get("sizes", {}).get(str(size))
    if part is None:
        raise UnmeasuredError(f"the run had no size of {size:,} Services")
    return part


def all_samples(runs: Iterable[Data], scenario: str, contestant: str) -> list[Sample]:
    """The rounds of all runs together; empty where it was not measured."""
    return [sample for data in runs for sample in _own(data, scenario, contestant)]


def all_ratios(runs: Iterable[Data], scenario: str, contestant: str, base: str, figure: Figure = value) -> list[float]:
    """Ratios inside each round of all runs; empty where one of the two was not measured."""
    both = ((_own(data, scenario, contestant), _own(data, scenario, base)) for data in runs)
    return [ratio for own, other in both for ratio in ratios(own, other, figure)]


def all_differences(
    runs: Iterable[Data], scenario: str, contestant: str, base: str, figure: Figure = value
) -> list[float]:
    """Differences inside each round of all runs; empty where one of the two was not measured."""
    both = ((_own(data, scenario, contestant), _own(data, scenario, base)) for data in runs)
    return [more for own, other in both for more in differences(own, other, figure)]


def all_sized(runs: Iterable[Data], size: int) -> list[Data]:
    """What all runs have of a number of Services."""
    return [sized(data, size) for data in runs if str(size) in data.get("sizes", {})]


def all_growth(runs: Iterable[Data], scenario: str, contestant: str, many: int, few: int) -> list[float]:
    """Ratios of a contestant's figure with many Services to its own with few, inside each round of all runs."""
    found = []
    for data in runs:
        parts = [all_sized([data], size) for size in (many, few)]
        own, base = (all_samples(part, scenario, contestant) for part in parts)
        found += ratios(own, base)
    return found


def _own(data: Data, scenario: str, contestant: str) -> Sequence[Sample]:
    own: Sequence[Sample] = data.get("samples", {}).get(scenario, {}).get(contestant, ())
    return own
