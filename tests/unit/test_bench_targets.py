"""The targets of the bench: what counts as met, and what never does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import evidence
import pytest
import targets
import verdicts
from evidence import Evidence
from processes import BenchError
from verdicts import Assessment, Limit, State, Target

Write = Callable[..., None]

OURS, HAPROXY, BASE = targets.OURS, targets.HAPROXY, targets.D


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a run's results file."""

    def write(bench: str, run: int = 1, **data: Any) -> None:
        (tmp_path / ("{}.json" if run == 1 else "{}.2.json").format(bench)).write_text(json.dumps(data))

    return write


def samples(values: Sequence[float], void: Sequence[int] = (), **fields: Any) -> list[dict[str, Any]]:
    """One sample a round; those in ``void`` had an error."""
    return [
        {
            "value": value,
            "errors": {"reset": 1} if turn in void else {},
            "report": {"p50": value / 1e3, "p99": value / 1e2, "p999": value / 10},
            **fields,
        }
        for turn, value in enumerate(values)
    ]


def newconn(folder: Path) -> Assessment:
    """What is said of new connections next to haproxy."""
    [one] = [
        one
        for one in verdicts.assess(targets.table(), Evidence(folder))
        if (one.target.measure, one.target.compared) == ("new connection per request", "÷ haproxy")
    ]
    return one


def state(one: Assessment) -> State:
    """Of its must."""
    assert one.target.must
    return one.state(one.target.must)


def test_ratios_are_taken_inside_a_round(tmp_path: Path, write: Write) -> None:
    """A machine that got faster while haproxy was measured would decide the verdict."""
    drift = [1, 2, 4, 8, 16, 32, 64]
    own = samples([1.2 * factor for factor in drift])
    write("services", samples={"newconn": {OURS: own, HAPROXY: samples(drift)}})
    spread = newconn(tmp_path).found[0].spread
    assert spread is not None
    assert spread == pytest.approx((1.2, 1.2, 1.2))


@pytest.mark.parametrize("who", [OURS, HAPROXY])
def test_a_round_with_an_error_of_either_is_left_out(tmp_path: Path, write: Write, who: str) -> None:
    """A proxy that answers wrongly but fast would win."""
    values = {name: [2.0] * 8 for name in (OURS, HAPROXY)}
    values[who][3] = 1e9 if who == OURS else 1e-9
    own, other = (samples(values[name], void=[3] if name == who else []) for name in (OURS, HAPROXY))
    write("services", samples={"newconn": {OURS: own, HAPROXY: other}})
    spread = newconn(tmp_path).found[0].spread
    assert spread is not None
    assert spread.high == 1
    assert len(evidence.ratios(own, other)) == 7


def test_it_takes_both_runs(tmp_path: Path, write: Write) -> None:
    """One lucky run would be published as a target met."""
    for run, factor in ((1, 1.3), (2, 1.2)):
        write("services", run, samples={"newconn": {OURS: samples([factor] * 7), HAPROXY: samples([1.0] * 7)}})
    assert state(newconn(tmp_path)) is State.MET

    write("services", 2, samples={"newconn": {OURS: samples([0.945] * 7), HAPROXY: samples([1.0] * 7)}})
    one = newconn(tmp_path)
    assert state(one) is State.SPLIT
    assert one.verdict(one.target.must) == "missed in 1 of 2 runs, by 10%"


def test_a_missing_run_is_no_proof(tmp_path: Path, write: Write) -> None:
    """The report would claim what was measured once, or never."""
    one = newconn(tmp_path)
    assert state(one) is State.UNMEASURED
    assert "python bench/run.py services`" in one.verdict(one.target.must)
    assert "services --run 2" in one.verdict(one.target.must)

    write("services", samples={"newconn": {OURS: samples([2.0] * 7), HAPROXY: samples([1.0] * 7)}})
    one = newconn(tmp_path)
    assert state(one) is State.ONE_RUN
    assert "run 2 is missing" in one.verdict(one.target.must)


def test_nothing_is_met_without_files(tmp_path: Path) -> None:
    """An empty folder would look like a success."""
    assessments = verdicts.assess(targets.table(), Evidence(tmp_path))
    limits = [(one, limit) for one in assessments for limit in (one.target.must, one.target.stretch) if limit]
    assert len(limits) > 70
    assert {one.state(limit) for one, limit in limits} == {State.UNMEASURED}
    assert all(one.verdict(limit).startswith("not measured: ") for one, limit in limits)


def test_few_good_rounds_prove_nothing(tmp_path: Path, write: Write) -> None:
    """A median of two rounds that happened to go well would count."""
    for run in (1, 2):
        own = samples([2.0] * 7, void=[0])
        write("services", run, samples={"newconn": {OURS: own, HAPROXY: samples([1.0] * 7)}})
    one = newconn(tmp_path)
    assert state(one) is State.UNMEASURED
    assert "6 good rounds, 7 are needed" in one.verdict(one.target.must)
    assert one.found[0].spread is not None  # but it is shown


def test_who_did_not_take_part_is_named_with_the_reason(tmp_path: Path, write: Write) -> None:
    """A reader would not know what to install to repeat it."""
    for run in (1, 2):
        why = {HAPROXY: "it is not installed: apt-get install haproxy"}
        write("services", run, samples={"newconn": {OURS: samples([2.0] * 7)}}, absent=why)
    one = newconn(tmp_path)
    assert one.verdict(one.target.must).endswith(
        "haproxy did not take part: it is not installed: apt-get install haproxy"
    )


def test_added_latency_is_judged_in_microseconds(tmp_path: Path, write: Write) -> None:
    """A proxy as slow as haproxy would pass for a faster one."""
    base = samples([10.0] * 7)
    for run in (1, 2):
        slow = samples([10.0 + 0.5 * (run == 1)] * 7)
        write("services", run, samples={"latency": {OURS: slow, HAPROXY: base, targets.DIRECT: samples([9.99] * 7)}})
    found = {
        (one.target.measure, one.target.compared): one
        for one in verdicts.assess(targets.table(), Evidence(tmp_path))
        if one.target.measure.startswith("added latency")
    }
    p50 = found["added latency at half load, p50", "more than haproxy's"]
    assert [one.spread.median for one in p50.found if one.spread] == pytest.approx([500, 0])
    assert p50.verdict(p50.target.must) == "missed, by 500 µs"
    over = found["added latency at half load, p50", "over direct"]
    assert [one.spread.median for one in over.found if one.spread] == pytest.approx([510, 10])
    assert over.target.stretch
    assert over.state(over.target.stretch) is State.SPLIT


def test_many_services_are_compared_in_the_same_round(tmp_path: Path, write: Write) -> None:
    """Figures with 10,000 Services would be compared with those of another proxy with one."""
    few = {"first": {OURS: samples([1.0, 2.0] * 4)}, "newconn": {OURS: samples([9.0] * 8), BASE: samples([9.0] * 8)}}
    many = {"first": {OURS: samples([1.05, 2.1] * 4)}, "newconn": {OURS: samples([9.0] * 8), BASE: samples([5.0] * 8)}}
    for run in (1, 2):
        write("sizes", run, sizes={"1": {"samples": few}, "10000": {"samples": many}})
    found = {one.target.compared: one for one in verdicts.assess(targets.table(), Evidence(tmp_path))}
    growth, compared = found["10,000 ÷ 1 Services"], found["÷ kube-proxy-iptables with as many"]
    assert growth.found[0].spread == pytest.approx((1.05, 1.05, 1.05))
    assert compared.found[0].spread == pytest.approx((1.8, 1.8, 1.8))
    assert state(growth) is state(compared) is State.MET
    legacy = found["÷ kube-proxy-iptables-legacy with as many"]
    assert "kube-proxy-iptables-legacy was not measured" in legacy.verdict(legacy.target.must)


def test_bytes_of_idle_connections_are_of_one_connection(tmp_path: Path, write: Write) -> None:
    """The memory of thousands would be judged as that of one."""
    for run in (1, 2):
        own = {"connections": 9000, "agent_bytes": 9000 * 600, "kernel_bytes": 9000 * 7000}
        write("idle", run, contestants={OURS: own})
    found = [one for one in verdicts.assess(targets.table(), Evidence(tmp_path)) if one.target.bench == "idle"]
    assert [one.found[0].spread.median for one in found if one.found[0].spread] == [600, 7600]
    assert [one.verdict(one.target.must) for one in found] == ["met", "met"]
    assert [one.verdict(one.target.stretch) for one in found] == ["missed, by 17%", "met"]


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    """A report of half of the figures would look whole."""
    (tmp_path / "services.json").write_text(text)
    with pytest.raises(BenchError, match=r"services\.json"):
        Evidence(tmp_path).run("services", 1)


@pytest.mark.parametrize(
    ("relation", "figure", "holds"),
    [("≥", 1.0, True), ("≥", 0.99, False), ("≤", 1.0, True), ("≤", 1.01, False), ("<", 1.0, False), ("<", 0.9, True)],
)
def test_bounds(relation: str, figure: float, holds: bool) -> None:
    """A figure on the bound would be judged the wrong way round."""
    assert Limit(relation, 1.0).holds(figure) is holds


def test_every_target_has_a_bound_and_is_there_once() -> None:
    """A row of the table would be without a verdict, or count twice."""
    table: list[Target] = targets.table()
    assert all(target.must or target.stretch for target in table)
    assert len({(target.measure, target.compared, target.unit) for target in table}) == len(table)
