"""Commands whose many options are listed in groups, the ones that everybody needs first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from spliceway.cli.params import option

_Function = TypeVar("_Function", bound=Callable[..., Any])


class GroupedOption(click.Option):
    """An option with the heading that it stands under in the help text."""

    def __init__(self, *arguments: Any, group: str = "Options", **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.group = group


class GroupedCommand(click.Command):
    """Lists options under their headings, in the order in which the headings first appear."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        groups: dict[str, list[tuple[str, str]]] = {}
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        for each in sorted(options, key=lambda each: not isinstance(each, GroupedOption)):
            record = each.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(each, "group", "Other"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def grouped(group: str, *names: str, **attributes: Any) -> Callable[[_Function], _Function]:
    """An `option` under this heading."""
    return option(*names, cls=GroupedOption, group=group, **attributes)


def switch(group: str, name: str, **attributes: Any) -> Callable[[_Function], _Function]:
    """A flag that may also be said with a value (``--flag=true``), as users of kube-proxy do."""
    return grouped(
        group, name, type=bool, is_flag=False, flag_value=True, default=False, metavar="[=true|false]", **attributes
    )
