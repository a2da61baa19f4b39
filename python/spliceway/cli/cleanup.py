"""``spliceway cleanup``: takes the agent's traces out of the node's kernel, and on request kube-proxy's."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from spliceway.cli.params import option, state_socket_option

_ANSWER_TIMEOUT = 2.0
_NFT_TIMEOUT = 60.0


@click.command()
@option(
    "--kube-proxy",
    is_flag=True,
    help="Remove what kube-proxy left instead: chains, tables, ipvs servers, ipsets. (With --force: both.)",
)
@option("--force", is_flag=True, help="Also while an agent runs. (It restores its own rules within a second.)")
@state_socket_option
def cleanup(kube_proxy: bool, force: bool, state_socket: Path) -> None:
    """Remove all packet rules, ip rules and routes that agents with `--capture tproxy` made on this node.

    Needs no API server, and may be repeated. An agent that Ctrl-C ends removes them itself; any other one leaves them
    to the next agent. Exit code 1: something could not be removed.
    """
    removed: list[str] = []
    failed: list[str] = []
    if force or not kube_proxy:
        from spliceway.capture.tproxy.presence import agent_captures  # only this command needs them
        from spliceway.capture.tproxy.traces import remove_traces

        if not force and (agent_captures() or agent_answers(state_socket)):
            raise click.ClickException(
                "An agent runs on this node, and it would restore its rules. Stop it first, or say --force."
            )
        removed, failed = remove_traces(_NFT_TIMEOUT)
    if kube_proxy:
        from spliceway.capture.kubeproxy import remove_leftovers

        leftovers = remove_leftovers()
        removed += [f"of kube-proxy: {each}" for each in leftovers.removed]
        failed += [f"of kube-proxy: {each}" for each in leftovers.failed]
    for each in removed:
        click.echo(f"removed {each}")
    if not removed and not failed:
        click.echo("nothing to remove")
    for each in failed:
        click.echo(f"Error: not removed: {each}", err=True)
    if failed:
        raise click.exceptions.Exit(1)


def agent_answers(path: Path) -> bool:
    """Whether somebody listens on the state socket; one that is too busy to accept counts as well."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(_ANSWER_TIMEOUT)
        try:
            caller.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return False
        except OSError:
            return True
    return True
