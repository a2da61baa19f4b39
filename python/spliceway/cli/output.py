"""Tables and lines for a terminal, a pipe, or nobody."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: columns of a line that is not for a terminal: nothing is cut off there
_PIPE_WIDTH = 2000


def open_console() -> Console:
    """A console on stdout. Colours only for terminals, and not with ``NO_COLOR``; a pipe gets lines of full length."""
    from rich.console import Console

    terminal = sys.stdout is not None and sys.stdout.isatty()
    return Console(width=None if terminal else _PIPE_WIDTH, highlight=False, soft_wrap=not terminal)


def new_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """A plain table; the columns named in ``right`` hold numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = column in right
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    return table
