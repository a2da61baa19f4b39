"""``spliceway status``: what the running agent serves, and what is wrong."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from spliceway.cli.agent import fetch_state
from spliceway.cli.output import open_console, print_table
from spliceway.cli.params import SecondsParam, state_socket_option
from spliceway.observe.state import AgentState
from spliceway.observe.stats import ServicePortRow, rates

if TYPE_CHECKING:
    from rich.console import Console

_NUMBERS = ("flows", "active", "retries", "saved", "errors")
_RATES = ("flows/s", "in/s", "out/s")
#: with more service ports than this, those that are idle and without fault are left out
_MANY = 200
#: terminals with fewer columns get the first and the last things to know of each service port only
_NARROW = 100
_LEFT_OUT_WHEN_NARROW = ("frontend", "active", "retries", "in/s", "out/s")
_STATE_COLOURS = {"serving": "green", "failed": "red", "rejecting": "yellow", "dropping": "yellow"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--all", "show_all", is_flag=True, help=f"Of more than {_MANY} service ports, show the idle ones, too.")
@click.option("--interval", type=SecondsParam(0.1, 60.0), help="Also show rates, measured for so long.")
@state_socket_option
def status(as_json: bool, show_all: bool, interval: float | None, state_socket: Path) -> None:
    """Show every service port that the running agent serves, and what is wrong.

    Numbers count since the agent started. Endpoints: ready ones of all, and in brackets those that health has set
    aside. Saved: clients that a retry kept from an error. Errors: clients that got no backend.
    """
    state = fetch_state(state_socket)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(state), indent=2))
        return
    before = None
    if interval:
        before, started = state, time.monotonic()
        time.sleep(interval)
        state, interval = fetch_state(state_socket), time.monotonic() - started
    console = open_console()
    show_agent(console, state)
    shown = [row for row in state.services if show_all or len(state.services) <= _MANY or not _is_idle(row)]
    show_services(console, shown, before, interval or 0.0)
    if len(shown) < len(state.services):
        console.print(f"{len(state.services) - len(shown)} idle service ports are not shown; --all shows them")
    show_troubles(console, state)


def show_agent(console: Console, state: AgentState) -> None:
    """Print the agent's own line."""
    phase = "draining" if state.draining else "ready" if state.ready else "starting"
    console.print(
        f"spliceway {state.version}, pid {state.pid}: {phase}, generation {state.generation}, "
        f"{state.workers} workers, {state.flows} flows open" + (", accepting is PAUSED" if state.paused else "")
    )
    if not state.services:
        console.print("nothing is served")


def show_services(console: Console, rows: Sequence[ServicePortRow], before: AgentState | None, seconds: float) -> None:
    """Print the table; with ``before``, the state of ``seconds`` ago, also rates."""
    if not rows:
        return
    numbers = _NUMBERS + (_RATES if before else ())
    columns = ("service port", "frontend", "state", "endpoints", *numbers)
    if console.width < _NARROW:
        columns = tuple(column for column in columns if column not in _LEFT_OUT_WHEN_NARROW)
    earlier = {row.pool: row for row in before.services} if before else {}
    table: list[list[str]] = []
    for row in rows:
        cells = _cells(row)
        if before:
            rate = rates(earlier.get(row.pool, ServicePortRow(row.pool)), row, seconds)
            values = (f"{rate.flows:.0f}", human_bytes(rate.bytes_in), human_bytes(rate.bytes_out))
            cells |= dict(zip(_RATES, values, strict=True))
        table.append([cells[column] for column in columns])
    print_table(console, columns, table, right=numbers)


def show_troubles(console: Console, state: AgentState) -> None:
    """Print failed frontends, backends set aside, bounds that bit, silent sources, and problems."""
    from rich.markup import escape

    for row in state.unhealthy:
        console.print(f"[yellow]set aside[/yellow] {escape(row.backend)} of {escape(row.pool)}: {escape(row.reason)}")
    for limit, hits in state.limits.items():
        if hits:
            console.print(f"[yellow]limit[/yellow] {limit}: bit {hits} times")
    for source in state.sources:
        if not source.synced or source.last_error:
            reason = source.last_error or "has not said everything yet"
            console.print(f"[yellow]source[/yellow] {escape(source.name)}: {escape(reason)}")
    for problem in sorted(state.problems, key=lambda each: each.warning):
        label = "[yellow]warning[/yellow]" if problem.warning else "[red]problem[/red]"
        console.print(f"{label} {escape(str(problem))}")


def _is_idle(row: ServicePortRow) -> bool:
    return row.state == "serving" and not row.active and not row.errors and not row.unhealthy


def _cells(row: ServicePortRow) -> dict[str, str]:
    from rich.markup import escape

    colour = _STATE_COLOURS.get(row.state, "dim")
    aside = f" ({row.unhealthy})" if row.unhealthy else ""
    endpoints = f"{row.ready}/{row.ready + row.terminating + row.unready}{aside}"
    frontends = "\n".join(escape(frontend.address) for frontend in row.frontends)
    cells = {
        "service port": escape(row.pool),
        "frontend": frontends,
        "state": f"[{colour}]{row.state}[/{colour}]",
        "endpoints": endpoints,
    }
    return cells | {number: str(getattr(row, number)) for number in _NUMBERS}


def human_bytes(number: float) -> str:
    """``1.5 MiB`` for 1572864."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
