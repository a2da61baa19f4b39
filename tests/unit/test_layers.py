"""What import-linter cannot see. A failure ties the control plane to the extension in more than one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "python" / "spliceway"


def imports(node: ast.AST) -> Iterator[str]:
    """Modules that are imported when the program runs, so not those under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imports(child)


def test_only_engine_py_imports_the_extension() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any("spliceway._engine" in name for name in imports(ast.parse(path.read_text())))
    }
    assert found == {"engine.py"}
