"""The spliceway agent as the benches start it, and what it says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from processes import BenchError

PYTHON_SOURCE = Path(__file__).resolve().parent.parent / "python"


def environment() -> dict[str, str]:
    """Environment in which ``-m spliceway`` is this checkout's."""
    paths = [str(PYTHON_SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def missing() -> str | None:
    """Why the agent cannot run here, or None."""
    probe = [sys.executable, "-c", "import spliceway._engine"]
    done = subprocess.run(probe, env={**os.environ, **environment()}, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return f"its extension is not built ({done.stderr.strip().splitlines()[-1]}): run make build"


def command(manifests: list[Path], socket: Path, admin: str) -> list[str]:
    """``spliceway run`` on files, with a state socket, and /readyz at ``admin`` (ADDR:PORT)."""
    paths = [word for path in manifests for word in ("--manifests", str(path))]
    sides = ["--healthz-bind-address", admin, "--metrics-bind-address", "off", "--state-socket", str(socket)]
    return [sys.executable, "-m", "spliceway", "run", *paths, *sides]


def status(socket: Path) -> dict[str, Any]:
    """``spliceway status --json`` of the agent behind ``socket``.

    Raises:
        BenchError: the agent does not answer.
    """
    words = [sys.executable, "-m", "spliceway", "status", "--json", "--state-socket", str(socket)]
    done = subprocess.run(
        words, env={**os.environ, **environment()}, capture_output=True, text=True, check=False, timeout=30
    )
    if done.returncode != 0:
        raise BenchError(f"spliceway status: {done.stderr.strip()}")
    state = json.loads(done.stdout)
    if not isinstance(state, dict):
        raise BenchError("spliceway status --json printed something else than an object")
    return state


def pool_totals(state: dict[str, Any]) -> dict[str, int]:
    """Running totals of all service ports together; ``status`` leaves out what is 0."""
    keys = ("flows", "tries", "retries", "saved", "replayed", "failed", "no_backend")
    return {key: sum(int(row.get(key, 0)) for row in state["services"]) for key in keys}


def version() -> str:
    """Version of this checkout's package."""
    probe = "from importlib.metadata import version; print(version('spliceway'))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "not installed"
