"""``spliceway demo``: the main job, shown with real processes.

- `spliceway.cli.demo.command`: the command
- `spliceway.cli.demo.play`: what happens when
- `spliceway.cli.demo.processes`: the agent and the backends
- `spliceway.cli.demo.traffic`: the clients, and what they saw
- `spliceway.cli.demo.backend`: one backend's own program
"""

from __future__ import annotations

from spliceway.cli.demo.command import demo

__all__ = ["demo"]
