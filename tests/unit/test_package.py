"""What `pip install spliceway` promises to a program that imports it."""

from __future__ import annotations

from importlib import resources

import spliceway
from support.child import run_child


def test_importing_starts_nothing_and_pulls_in_nothing_heavy() -> None:
    """A gateway that imports spliceway must not pay for Trio, the Kubernetes client or threads before it uses them."""
    code = """
import sys, threading
import spliceway
heavy = {"trio", "kubernetes", "spliceway._engine", "yaml", "rich", "prometheus_client"} & set(sys.modules)
print(sorted(heavy), threading.active_count())
"""
    assert run_child(code) == "[] 1\n"


def test_the_package_is_typed_and_its_public_names_exist() -> None:
    """Type checkers of users must see the types (PEP 561), and every documented name must be there."""
    assert (resources.files("spliceway") / "py.typed").is_file()
    for name in spliceway.__all__:
        assert getattr(spliceway, name) is not None
