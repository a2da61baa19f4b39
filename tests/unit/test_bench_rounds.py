"""The rounds of the bench: a comparison is only as fair as the order, the company and the void samples are."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any, cast

import evidence
import pytest
import scenarios
from load import Report
from processes import BenchError, Child
from proxies import Contestant
from rich.console import Console
from rounds import Place, any_error, measure, run_rounds
from stands import Stand, Stands


class _Kernel(Contestant):
    """Carries everything and has no process."""

    name = "kernel"

    def start(self, stand: Stand, stands: Stands, kubeconfig: Path | None) -> None:
        raise AssertionError("nobody starts it here")


class _Other(_Kernel):
    name = "other"


class _TcpOnly(_Kernel):
    name = "tcp-only"
    udp = False


class _Stands:
    """Stands whose load tool finds what it is told, or fails."""

    def __init__(self, *found: Report | BenchError) -> None:
        self._found = list(found)  # the last one again and again

    def forget(self, stand: Stand) -> None:
        """Nothing is tracked."""

    def conntrack(self, stand: Stand) -> int:
        return 0

    def measure(self, stand: Stand, arguments: list[str], targets: list[str]) -> Report:
        found = self._found.pop(0) if len(self._found) > 1 else self._found[0]
        if isinstance(found, BenchError):
            raise found
        return found


def _place(kind: type[Contestant]) -> Place:
    return Place(kind(), Stand(0, Path()))


def _report(**changed: Any) -> Report:
    nothing = {"servers": {}, "errors": {}, "timeline": [], "seconds": 1.0, "requests": 0, "bytes": 0}
    fields = {field: nothing.get(field, 0.0) for field in Report.__struct_fields__}
    return Report(**{**fields, **changed})


def _order(turns: int, names: list[str], kinds: list[type[Contestant]]) -> list[tuple[str, str]]:
    """Who was measured in what, in the order of time."""
    taken = []

    def take(place: Place, scenario: scenarios.Scenario) -> dict[str, Any]:
        taken.append((scenario.name, place.contestant.name))
        return {"value": 1.0, "errors": {}}

    chosen = [scenarios.ALL[name] for name in names]
    run_rounds([_place(kind) for kind in kinds], chosen, turns, take, Console(file=io.StringIO()))
    return taken


def test_everyone_is_measured_once_in_each_round_and_another_one_begins() -> None:
    """Without it a machine that slows down for a second would always hit the same contestant."""
    taken = _order(2, ["newconn"], [_Kernel, _Other])
    assert taken == [("newconn", "kernel"), ("newconn", "other"), ("newconn", "other"), ("newconn", "kernel")]


def test_who_carries_no_udp_is_measured_in_the_rest() -> None:
    """Without it a TCP proxy's row would be full of errors that are none, or be missing where it competes."""
    taken = _order(1, ["keepalive", "udp-flow"], [_Kernel, _TcpOnly])
    assert sorted(taken) == [("keepalive", "kernel"), ("keepalive", "tcp-only"), ("udp-flow", "kernel")]


def test_a_failed_measurement_is_a_void_sample() -> None:
    """Without it one proxy that dies would take the figures of all others with it, or count as slow."""
    stands = cast("Stands", _Stands(BenchError("the load tool did not end")))
    sample = measure(stands, _place(_Kernel), scenarios.ALL["newconn"], 1.0)
    assert sample["errors"]
    assert sample["failure"] == "the load tool did not end"
    assert any_error({"newconn": {"kernel": [sample]}})


def test_a_void_sample_is_taken_once_more_and_not_forgotten() -> None:
    """Without it one mishap would leave a target without a verdict, or pass unseen."""
    stands = cast("Stands", _Stands(_report(requests=9, errors={"reset": 1}), _report(requests=10)))
    sample = measure(stands, _place(_Kernel), scenarios.ALL["newconn"], 1.0)
    assert (sample["value"], sample["errors"]) == (10, {})
    assert (evidence.voids(sample), evidence.taken([sample])) == (1, 2)
    assert any_error({"newconn": {"kernel": [sample]}})


def test_cost_is_related_to_the_work_of_the_counted_seconds() -> None:
    """Without it CPU time of the warm-up would be charged to requests that were not counted."""
    stands = cast("Stands", _Stands(_report(seconds=1.0, requests=20_000)))
    sample = measure(stands, _place(_Kernel), scenarios.ALL["newconn"], 1.0)
    assert sample["value"] == pytest.approx(20_000)
    assert sample["cpu_window"] == pytest.approx(1.2)
    assert sample["cpu_cost"]["machine"] == pytest.approx(sample["cpu_machine"] / 1.2 / 2)


def test_memory_of_a_daemon_counts_its_workers(tmp_path: Path) -> None:
    """Without it a proxy whose work is done in child processes would seem to cost nothing."""
    sleeper = ["sh", "-c", "sleep 60 & trap 'kill $!' TERM; echo ready; wait"]
    with Child("daemon", sleeper, tmp_path / "log") as child:
        child.wait_until(lambda: b"ready" in child.log.read_bytes(), "starting")
        own = Path(f"/proc/{child.pid}/status").read_text().partition("VmRSS:")[2].split()[0]
        child.wait_until(lambda: child.memory()["VmRSS"] > int(own) * 1024, "a worker to be counted")


def test_helpers_that_come_and_go_do_not_disturb_the_count(tmp_path: Path) -> None:
    """Without it a sample would be void whenever a proxy's helper ended just while it was looked at."""
    busy = ["sh", "-c", "echo ready; while :; do (: & :) & (: & :); done"]
    with Child("daemon", busy, tmp_path / "log") as child:
        child.wait_until(lambda: b"ready" in child.log.read_bytes(), "starting")
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            assert child.memory()["VmRSS"] >= 0
            assert child.proportional_memory() >= 0
        assert child.cpu_seconds() > 0
