#!/usr/bin/env python3
"""Write docs/flags.md from the command line's own definition: ``python docs/flags.py``. A test compares the two."""

from __future__ import annotations

from pathlib import Path

import click

from spliceway.cli.grouped import GroupedOption
from spliceway.cli.main import cli

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Flags of `spliceway run`

Written by `docs/flags.py`. Each flag can also be set by the environment variable `SPLICEWAY_` and its name in capitals
(`--cluster-cidr`: `SPLICEWAY_CLUSTER_CIDR`). Times are seconds, or numbers with `ms`, `s`, `m` or `h`. Flags that
kube-proxy has as well have its names and meanings; `docs/operations.md` has a table of those that differ.
"""


def page() -> str:
    """The whole page."""
    run = cli.get_command(click.Context(cli), "run")
    assert run is not None
    groups: dict[str, list[click.Option]] = {}
    for each in run.params:
        if isinstance(each, click.Option):
            groups.setdefault(each.group if isinstance(each, GroupedOption) else "Other", []).append(each)
    parts = [HEAD]
    for heading in sorted(groups, key=lambda heading: heading == "Other"):
        parts.append(f"## {heading}\n\n| flag | default | meaning |\n|---|---|---|")
        parts += [_row(each) for each in groups[heading]]
        parts.append("")
    return "\n".join(parts)


def _row(each: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*each.opts, *each.secondary_opts))
    value = "" if each.is_flag else _value(each)
    text, _, said = (each.help or "").partition("  [default")
    default = said.strip(": ]").replace("with the API and tproxy: ", "") if said else _default(each)
    return f"| {names}{value} | {_escape(default)} | {_escape(text)} |"


def _value(each: click.Option) -> str:
    if isinstance(each.type, click.Choice):
        return f" `{'|'.join(map(str, each.type.choices))}`".replace("|", "\\|")
    metavar = each.metavar or ("NUMBER" if isinstance(each.type, click.IntRange) else each.type.name.upper())
    return f" `{_escape(metavar)}`"


def _default(each: click.Option) -> str:
    if isinstance(each.show_default, str):
        return each.show_default
    if each.is_flag and each.secondary_opts:
        return "yes" if each.default else "no"
    if not isinstance(each.default, int | float | str) or each.default is False:
        return ""
    return f"{each.default:g}" if isinstance(each.default, float) else f"{each.default}"


def _escape(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("*", "\\*").split())


if __name__ == "__main__":
    PAGE.write_text(page())
