"""Tables and lines for a terminal, a pipe, or nobody."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: columns of a line that is not for a terminal: nothing is cut off there
_PIPE_WIDTH = 2000
#: terminals with fewer columns get a list instead of a table
_NARROWEST_TABLE = 60


def open_console() -> Console:
    """A console on stdout. Colours only for terminals, and not with ``NO_COLOR``; a pipe gets lines of full length.

    What it prints raises `BrokenPipeError` when nobody reads it any more.
    """
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))  # rich would exit with 1

    terminal = sys.stdout is not None and sys.stdout.isatty()
    return PipeConsole(width=None if terminal else _PIPE_WIDTH, highlight=False, soft_wrap=not terminal)


def print_table(
    console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()
) -> None:
    """Print ``rows`` of rich's markup; the columns named in ``right`` hold numbers.

    A narrow terminal gets a list: each row's first cell, and below it the others that hold something.
    """
    if console.width < _NARROWEST_TABLE:
        for first, *others in rows:
            console.print(f"{columns[0]} {first}", overflow="fold")
            for column, cell in zip(columns[1:], others, strict=True):
                if cell:
                    console.print(f"  {column}: {cell}", overflow="fold")
    else:
        table = _new_table(columns, right)
        for row in rows:
            table.add_row(*row)
        console.print(table)


def _new_table(columns: Sequence[str], right: Sequence[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = column in right
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    return table
