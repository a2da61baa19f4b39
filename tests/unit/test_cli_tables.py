"""What `status` and `explain` print, on wide and narrow terminals and into pipes."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from spliceway.cli import explain as explain_module
from spliceway.cli import status as status_module
from spliceway.cli.logs import JsonFormatter, TextFormatter
from spliceway.cli.main import cli
from spliceway.model import Address, Frontend, FrontendState, Problem
from spliceway.observe.state import AgentState, CandidateRow, ExplainState, agent_state
from spliceway.observe.stats import FrontendRow, ServicePortRow, Snapshot
from support.fakeobserved import POOL, FakeObserved, backend_counters, engine_counters, pool_counters


def state_of(observed: FakeObserved) -> AgentState:
    return agent_state(Snapshot.take(observed), observed.counters(), pid=42, time=0.0)


def busy() -> FakeObserved:
    observed = FakeObserved()
    vip = Address("fd00::1", 8080)
    frontend = Frontend(vip, POOL)
    observed.frontend_map[frontend.key] = FrontendState(frontend, "serving")
    backend = backend_counters("127.0.0.11", flows=1234)
    pool = pool_counters(flows=1234, retries=17, saved=16, failed=1, backends=(backend,))
    observed.engine = engine_counters(pools=(pool,), fd_limit_hits=3, paused=True)
    observed.problem_list = (
        Problem("Service default/x", "is [bold]odd", warning=True),
        Problem("Service default/y", "spec.ports[0].port: 0 is not a port", "a.yaml", 7),
    )
    return observed


def invoke(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(status_module, "fetch_state", lambda _: state_of(busy()))
    result = CliRunner().invoke(cli, ["status", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_status_into_a_pipe_has_everything_of_a_service_port_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """`spliceway status | grep` would find half a row."""
    lines = invoke(monkeypatch).splitlines()
    row = next(line for line in lines if POOL in line)
    for cell in ("127.64.0.10:8080", "serving", "2/3 (1)", "1234", "17", "16", "1"):
        assert cell in row
    assert "accepting is PAUSED" in lines[0]
    assert any("[fd00::1]:8080" in line for line in lines)
    assert "limit fds: bit 3 times" in lines
    assert "set aside 127.0.0.12:9001 of default/shop:http: connection refused" in lines
    problem = lines.index("problem a.yaml:7: Service default/y: spec.ports[0].port: 0 is not a port")
    assert lines[problem + 1] == "warning Service default/x: is [bold]odd"
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_status_fits_the_terminal(width: int) -> None:
    """Rows would wrap into each other."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    state = state_of(busy())
    status_module.show_agent(console, state)
    status_module.show_services(console, state.services, None, 0.0)
    status_module.show_services(console, state.services, state, 1.0)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert any("1234" in line for line in lines)


@pytest.mark.parametrize("width", [20, 40, 59])
def test_narrow_terminal_gets_a_list(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of three letters each would be all that is left of a table."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    state = state_of(busy())
    status_module.show_services(console, state.services, None, 0.0)
    monkeypatch.setattr(explain_module, "open_console", lambda: console)
    candidate = CandidateRow("[fd00::2]:80", 1, True, 5, 0, 1, "owner of slot 3 of 251")
    answer = ExplainState("10.0.0.1:80", "10.0.0.9:1", POOL, "serving", "", "maglev", 7, (candidate,))
    explain_module.show(answer, any_port=False)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for line in ("  state: serving", "  flows: 1234", "try 1", "  health: healthy"):
        assert line in lines
    assert any("[fd00::2]" in line for line in lines)


def test_status_of_10_000_services_shows_what_is_going_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one Service that fails would scroll by among thousands of idle ones."""
    state = state_of(busy())
    idle = (
        ServicePortRow(f"default/idle-{number}", (FrontendRow("127.0.0.1:1", "serving"),)) for number in range(9999)
    )
    state = msgspec.structs.replace(state, services=(*state.services, *idle))
    monkeypatch.setattr(status_module, "fetch_state", lambda _: state)
    output = CliRunner().invoke(cli, ["status"]).output
    assert POOL in output
    assert "9999 idle service ports are not shown; --all shows them" in output
    assert "default/idle-9998" not in output


def test_status_json_has_all_fields_and_reads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script would trip over a field that is there only sometimes."""
    output = invoke(monkeypatch, "--json")
    assert msgspec.json.decode(output, type=AgentState) == state_of(busy())
    rows: list[dict[str, Any]] = json.loads(output)["services"]
    assert rows[0]["terminating"] == 0
    assert rows[0]["backends"][0]["flows"] == 1234


def test_explain_of_ipv6(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv6 addresses look like markup, and would vanish."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    rows = (
        CandidateRow("[fd00::2]:80", 1, True, 5, 0, 1, "owner of slot 3 of 251"),
        CandidateRow("[fd00::3]:80", 0, False, 0, 2, 0, "weight 0"),
    )
    answer = ExplainState("[fd00::1]:80", "[fd00::9]:0", "default/shop:http", "failed", "in use", "maglev", 7, rows)
    explain_module.show(answer, any_port=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[fd00::9] to [fd00::1]:80: pool default/shop:http, balance maglev"
    assert lines[1] == "failed: in use"
    assert any("[fd00::2]:80" in line and "owner of slot 3" in line for line in lines)
    assert any("[fd00::3]:80" in line and "set aside, 2 failed in a row" in line for line in lines)
    assert lines[-1].startswith("Another source port")


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (5 << 40, "5120.0 GiB")]
)
def test_bytes_for_people(number: float, text: str) -> None:
    """A rate would be off by a thousand."""
    assert status_module.human_bytes(number) == text


def record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("spliceway.node", logging.WARNING, __file__, 1, message, arguments, None)


def test_log_line_cannot_be_forged() -> None:
    """An object's name with a line end would write lines of its own into the log."""
    line = TextFormatter().format(record("%s: bad", "a\n2026-01-01 error all is lost"))
    assert "\n" not in line
    assert "warning a\\n2026" in line


def test_json_log() -> None:
    """A log collector could not parse the log."""
    fields = json.loads(JsonFormatter().format(record('problem "%s"', "é\n")))
    assert fields["message"] == 'problem "é\n"'
    assert (fields["level"], fields["logger"]) == ("warning", "spliceway.node")
    assert fields["time"].endswith("Z")
    try:
        Path("/nonexistent").read_text()
    except OSError:
        failed = record("failed")
        failed.exc_info = sys.exc_info()
    assert "FileNotFoundError" in json.loads(JsonFormatter().format(failed))["error"]
