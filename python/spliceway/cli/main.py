"""The ``spliceway`` command group, and how errors of its commands end it."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

#: exit code after Ctrl-C, as shells give it
_INTERRUPTED = 130

try:
    import click

    from spliceway.cli.check import check
    from spliceway.cli.cleanup import cleanup
    from spliceway.cli.demo import demo
    from spliceway.cli.explain import explain
    from spliceway.cli.run import run
    from spliceway.cli.status import status
    from spliceway.errors import SplicewayError
    from spliceway.observe.state import version
except KeyboardInterrupt:  # these take most of the time until `main` is called
    sys.exit(_INTERRUPTED)


class _Group(click.Group):
    """Turns every exception that is meant for users into click's one line."""

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        with _told():  # --help and --version print already here
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _told():
            result = super().invoke(ctx)
            click.echo(nl=False)  # flushes: what cannot be written should fail here, and not at exit
        return result


@contextmanager
def _told() -> Generator[None]:
    """Turn what is raised into one line for the user, or into the right exit code."""
    try:
        yield
    except (SplicewayError, OSError, BaseExceptionGroup, KeyboardInterrupt) as raised:
        error = _clear(raised)
        if isinstance(error, KeyboardInterrupt):
            raise click.exceptions.Exit(_INTERRUPTED) from None
        if isinstance(error, BrokenPipeError):
            _discard_stdout()
            raise click.exceptions.Exit(0) from None  # whoever read our output has had enough
        if isinstance(error, SplicewayError | OSError):
            raise click.ClickException(_sentence(error)) from None
        raise error from None


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"spliceway {version()}")
        ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """A userspace load balancer for Kubernetes Services.

    It accepts a client's connection, picks a Pod, tries another one when the first does not answer, and relays.
    Every option can also be set by the environment variable that its help text names.
    """


for command in (run, check, explain, status, demo, cleanup):
    cli.add_command(command)


def main() -> None:
    """Entry point of the ``spliceway`` script."""
    try:
        cli(prog_name="spliceway")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _clear(error: BaseException) -> BaseException:
    """What to act on: of a nursery's group the one error that tells the user something, or else the group itself."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    for kinds in ((KeyboardInterrupt, SystemExit), (SplicewayError, OSError)):
        told, rest = error.split(kinds)
        if told is not None and (rest is None or kinds[0] is KeyboardInterrupt):
            leaf: BaseException = told
            while isinstance(leaf, BaseExceptionGroup):
                leaf = leaf.exceptions[0]
            return leaf
    return error


def _sentence(error: SplicewayError | OSError) -> str:
    """The error's text as a sentence: it begins with a capital and ends with a full stop."""
    if isinstance(error, SplicewayError):
        text = str(error)
    else:
        reason = (error.strerror or str(error)).lower()
        text = f"{error.filename}: {reason}" if error.filename else reason
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _discard_stdout() -> None:
    """Let the interpreter's last flush succeed."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
