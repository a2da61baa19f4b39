"""``spliceway explain``: which backends a client would get, and why."""

from __future__ import annotations

from pathlib import Path

import click

from spliceway.cli.agent import fetch_explanation
from spliceway.cli.output import open_console, print_table
from spliceway.cli.params import ClientParam, FrontendParam, state_socket_option
from spliceway.model import Address, FrontendKey
from spliceway.observe.state import ExplainState

_COLUMNS = ("try", "backend", "weight", "health", "active", "why")


@click.command()
@click.argument("frontend", type=FrontendParam(), metavar="ADDR:PORT[/udp]")
@click.option("--client", type=ClientParam(), required=True, metavar="IP[:PORT]", help="Who connects.")
@state_socket_option
def explain(frontend: FrontendKey, client: Address, state_socket: Path) -> None:
    """Tell which backends a connection to ADDR:PORT would try, in order, and why.

    Asks the running agent, which runs the code that picks backends, without a connection being made.
    """
    show(fetch_explanation(state_socket, frontend, client), any_port=not client.port)


def show(answer: ExplainState, *, any_port: bool) -> None:
    """Print the answer; ``any_port``: the client's port was not given."""
    from rich.markup import escape

    console = open_console()
    client = answer.client.rpartition(":")[0] if any_port else answer.client
    who = f"{client} (class {answer.client_class})" if answer.client_class else client
    balance = f", balance {answer.balance}" if answer.balance else ""
    console.print(f"{escape(f'{who} to {answer.frontend}')}: pool [bold]{escape(answer.pool)}[/bold]{balance}")
    if answer.state != "serving":
        reason = answer.message or "no usable endpoint: clients are refused"
        console.print(f"[red]{answer.state}[/red]: {escape(reason)}")
    if not answer.candidates:
        if answer.state == "serving":
            console.print("no backend")
        return
    rows: list[tuple[str, ...]] = []
    for each in answer.candidates:
        health = "healthy" if each.healthy else "[red]set aside[/red]"
        if each.consecutive_failures:
            health += f", {each.consecutive_failures} failed in a row"
        rank = str(each.rank) if each.rank else "-"
        rows.append((rank, escape(each.address), str(each.weight), health, str(each.active), escape(each.reason)))
    print_table(console, _COLUMNS, rows, right=("try", "weight", "active"))
    if any_port:
        console.print("Another source port of this client may get another backend; name one with --client IP:PORT.")
