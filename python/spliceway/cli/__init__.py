"""The command line. Errors are one sentence on stderr: exit code 2 for wrong usage, 1 for everything else."""

from __future__ import annotations

from spliceway.cli.main import cli, main

__all__ = ["cli", "main"]
