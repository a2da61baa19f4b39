"""How all plots look: one colour and one place for each contestant, and files that only differ when figures do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.typing import RcKeyType

OURS = "spliceway"
#: of all texts and lines that are no data
INK = "#222222"
FAINT = "#d8d8d8"


class Look(NamedTuple):
    """How a contestant is drawn. Markers and labels tell what colours cannot."""

    colour: str
    marker: str


#: In the order of all plots. The colours are of Okabe and Ito's palette, which people who see fewer colours can tell
#: apart, one hue for each kind of contestant; variants have its tints.
LOOKS = {
    "direct": Look("#8a8a8a", "x"),
    "kube-proxy-iptables": Look("#0072b2", "s"),
    "kube-proxy-iptables-legacy": Look("#2f4b7c", "D"),
    "kube-proxy-nftables": Look("#56b4e9", "^"),
    "kube-proxy-userspace": Look("#c3cfd9", "v"),
    "haproxy": Look("#009e73", "P"),
    "haproxy-128k": Look("#3fb58f", "p"),
    "haproxy-tproxy": Look("#00664d", "H"),
    "nginx": Look("#6bbf9f", "X"),
    "sozu": Look("#b6dccd", "h"),
    "spliceway": Look("#d55e00", "o"),
    "spliceway-copy": Look("#eda96a", "<"),
    "spliceway-bind": Look("#cc79a7", ">"),
    "spliceway-bind-copy": Look("#e5bcd3", "d"),
    "spliceway-replay": Look("#eda96a", "*"),
}
_UNKNOWN = Look("#555555", "+")

_SETTINGS: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and diffs are short
    "svg.hashsalt": "spliceway",  # the same identifiers each time
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "figure.facecolor": "white",  # also on a dark page
    "savefig.facecolor": "white",
}


@contextmanager
def styled() -> Iterator[None]:
    """Figures are made and saved within it."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def save(figure: Figure, path: Path) -> None:
    """Write a figure; its format is that of the name."""
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=metadata, dpi=110)


def look(name: str) -> Look:
    """Of a contestant."""
    return LOOKS.get(name, _UNKNOWN)


def ordered(names: Iterable[str]) -> list[str]:
    """In the order of all plots; those without a look come last."""
    places = {name: position for position, name in enumerate(LOOKS)}
    return sorted(set(names), key=lambda name: (places.get(name, len(places)), name))


def grid(panels: int, columns: int, panel: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels of a size in inches, row by row."""
    rows = -(-panels // columns)
    columns = min(columns, panels)
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), layout="constrained")
    axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.set_axis_off()
    return figure, axes[:panels]


def name_rows(axes: Axes, names: Sequence[str], *, labels: bool = True) -> None:
    """One row for each contestant from top to bottom, ours in bold."""
    axes.set_yticks(range(len(names)), labels=list(names) if labels else [""] * len(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    for text in axes.get_yticklabels():
        if text.get_text() == OURS:
            text.set_fontweight("bold")
            text.set_color(look(OURS).colour)


def logarithmic(axes: Axes, room: float = 1.0) -> None:
    """A logarithmic axis to the right with plain numbers; it goes on for a factor of ``room`` behind the last mark."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * room)
    steps = (1, 2, 5) if high / low < 100 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.4g}" if tick < 1000 else f"{tick:,.0f}"))
    axes.grid(axis="x")
