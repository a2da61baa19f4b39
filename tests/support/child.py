"""Running a piece of Python in a process of its own, with limits or namespaces that the test must not have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def run_child(code: str, *, prefix: tuple[str, ...] = (), timeout: float = 60.0) -> str:
    """Run ``code`` after ``prefix`` (a command such as ``unshare -n``) and return what it prints.

    It can import ``support``. Fails with its output when it does not exit with 0 in ``timeout`` seconds.
    """
    paths = [str(TESTS), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [*prefix, sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
