"""What the cells came to, as a table for the end of a run and as text for a failure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .differences import Difference
from .measure import Result

_SHOWN = 60


class Row(NamedTuple):
    """One contestant's cells."""

    contestant: str
    cells: int
    equal: int
    intended: int
    unexplained: int
    seconds: float


def table(rows: Iterable[Row]) -> list[str]:
    """Lines of a table."""
    lines = [f"{'contestant':<22}{'cells':>7}{'equal':>7}{'intended differences':>22}{'unexplained':>13}{'seconds':>9}"]
    for row in rows:
        counts = f"{row.cells:>7}{row.equal:>7}{row.intended:>22}{row.unexplained:>13}{row.seconds:>9.1f}"
        lines.append(f"{row.contestant:<22}{counts}")
    return lines


def failures(unexplained: Sequence[Result], unused: Sequence[Difference]) -> str:
    """What is wrong, one line each."""
    lines = [f"{result.cell}: expected {result.expected}; got {result.got}" for result in unexplained[:_SHOWN]]
    if len(unexplained) > _SHOWN:
        lines.append(f"and {len(unexplained) - _SHOWN} more")
    lines += [f"no cell has this difference any more: {entry.cells} {entry.reason}" for entry in unused]
    return "\n".join(lines)
