"""The README is what a newcomer copies: its programs must run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.child import run_child

README = Path(__file__).resolve().parents[2] / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


OUTPUTS = ["4 flows, 2 saved by a retry, 0 failed\n", "hello\n"]


@pytest.mark.parametrize(("program", "output"), list(zip(PROGRAMS, OUTPUTS, strict=True)))
def test_the_programs_of_the_readme_run(program: str, output: str) -> None:
    """Whoever pastes an example into a file gets what it promises."""
    assert run_child(program) == output
