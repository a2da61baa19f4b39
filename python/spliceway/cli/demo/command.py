"""The command ``spliceway demo``, and the table at its end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spliceway.cli.output import open_console, print_table

if TYPE_CHECKING:
    from rich.console import Console

    from spliceway.cli.demo.play import Outcome

_MANIFEST = Path("examples", "shop.yaml")


@click.command()
@click.option(
    "--manifest",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A Service with three endpoints on loopback.  [default: examples/shop.yaml]",
)
def demo(manifest: Path | None) -> None:
    """Kill, restore and remove backends under traffic, and count what clients notice.

    Starts the real agent on a copy of the manifest, three HTTP backends, and clients; takes about 12 seconds, and fails
    if any client saw an error.
    """
    import trio
    from rich.markup import escape

    from spliceway.cli.demo.play import play

    path = manifest or find_manifest()
    console = open_console()
    started = time.monotonic()

    def say(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:5.1f} s[/dim]  {escape(line)}")

    outcome = trio.run(play, path, say)
    if outcome is None:
        raise click.Abort
    errors = report(console, outcome)
    if errors:
        click.get_current_context().exit(1)


def find_manifest() -> Path:
    """The example in the present folder, or beside the source tree that this module was loaded from."""
    for root in (Path(), *Path(__file__).resolve().parents):
        if (root / _MANIFEST).is_file():
            return root / _MANIFEST
    raise click.UsageError(f"{_MANIFEST} is not here; name a manifest with --manifest, or run this in the source tree.")


def report(console: Console, outcome: Outcome) -> int:
    """Print what was counted; return how many errors clients saw."""
    from rich.markup import escape

    backends = list(outcome.scene.backends)
    rows: list[tuple[str, ...]] = []
    for phase in outcome.traffic.phases:
        connections = phase.backends.total() or 1
        shares = [f"{phase.backends[name] / connections:.0%}" for name in backends]
        times = [f"{phase.percentile(part) * 1000:.1f} ms" for part in (0.5, 0.99)]
        rows.append((phase.title, str(phase.requests), str(phase.errors.total()), *shares, *times))
    console.print()
    numbers = ("requests", "errors", *backends)
    print_table(console, ("phase", *numbers, "p50", "p99"), rows, right=numbers)
    console.print()
    requests = sum(phase.requests for phase in outcome.traffic.phases)
    errors = sum(phase.errors.total() for phase in outcome.traffic.phases)
    colour = "red" if errors or not requests else "green"
    console.print(f"[bold {colour}]{requests} requests, {errors} client-visible errors[/bold {colour}]")
    row = outcome.row
    console.print(f"{row.saved} clients saved by a retry ({row.retries} retries), {row.replayed} requests replayed")
    console.print(
        f"Shares count new connections. Kept connections go on where they are; {outcome.traffic.reopened} were closed "
        "between two requests and opened again, as HTTP clients do."
    )
    for phase in outcome.traffic.phases:
        for reason, count in phase.errors.most_common():
            console.print(f"[red]{phase.title}[/red]: {count} times: {escape(reason)}")
    return errors if requests else 1
