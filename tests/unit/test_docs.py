"""The reference pages say what the program says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_page_of_flags_is_the_command_line() -> None:
    """An operator would read about flags that are gone, or not find a new one."""
    written = runpy.run_path(str(ROOT / "docs" / "flags.py"))["page"]()
    assert (ROOT / "docs" / "flags.md").read_text() == written, "docs/flags.md is old; run: python docs/flags.py"


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md", "docs/metrics.md"])
def test_flags_that_pages_name_exist(page: str) -> None:
    """A command copied from the docs would end with a usage error."""
    flags = set(re.findall(r"`(--[a-z-]+)`", (ROOT / "docs" / "flags.md").read_text()))
    others = {"--kube-proxy", "--force", "--client"}
    named = set(re.findall(r"spliceway run[^`\n]*?(--[a-z-]+)", (ROOT / page).read_text()))
    named |= set(re.findall(r"`(--[a-z-]+)[ =`]", (ROOT / page).read_text()))
    assert named - others <= flags


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_links_between_pages_lead_somewhere(page: str) -> None:
    """A reader would be sent to a page that is not there."""
    text = (ROOT / "docs" / page).read_text()
    for link in re.findall(r"`((?:docs|deploy|examples|tests)/[a-z/.-]+)`", text):
        assert (ROOT / link).exists(), link
