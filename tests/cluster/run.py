#!/usr/bin/env python3
"""Run the cluster tests in namespaces of their own.

Usage: python tests/cluster/run.py [PYTEST-ARGUMENT ...]     (all cluster tests, unless an argument names a file)

The API server takes no endpoint on loopback, so backends need other addresses of this machine: 198.18.0.1 to .20 (kept
by RFC 2544 for tests) on the loopback device of a new network namespace, which nobody outside sees. A new mount
namespace has an empty /var/run, where the tests put the credentials of a Pod. Both work without root where the kernel
lets users make namespaces. Exit code 1 with one sentence when it does not, else that of pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HOSTS = tuple(f"198.18.0.{number}" for number in range(1, 21))
#: tells the second run of this program, inside the namespaces, from the first
INSIDE = "SPLICEWAY_CLUSTER_NAMESPACE"


def main(suite: str = "cluster", script: str = __file__) -> None:
    """Enter the namespaces, then become pytest. ``suite``: folder and marker; ``script``: the program that calls."""
    if INSIDE not in os.environ:
        _enter(script)
    _prepare()
    os.chdir(Path(__file__).parents[2])
    arguments = sys.argv[1:]
    if not any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        arguments.append(f"tests/{suite}")
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "-m", suite, *arguments])


def _enter(script: str) -> None:
    """Start the program again inside; does not return."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = ["unshare", *user, "--net", "--mount"]
    try:
        probe = subprocess.run([*unshare, "true"], capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        sys.exit("The cluster tests need `unshare` of util-linux, and there is none here.")
    if probe.returncode != 0:
        reason = probe.stderr.strip() or f"unshare ended with code {probe.returncode}"
        sys.exit(f"The cluster tests cannot make namespaces here ({reason}): run them as root.")
    command = [*unshare, sys.executable, str(Path(script).resolve()), *sys.argv[1:]]
    os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})


def _prepare() -> None:
    """Give the loopback device its addresses, and empty /var/run."""
    commands = [
        ["ip", "link", "set", "lo", "up"],
        *(["ip", "address", "add", f"{host}/32", "dev", "lo"] for host in HOSTS),
        ["mount", "-t", "tmpfs", "tmpfs", str(Path("/var/run").resolve())],
    ]
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except FileNotFoundError:
            sys.exit(f"The cluster tests need `{command[0]}`, and there is none here: install iproute2 and util-linux.")
        if done.returncode != 0:
            sys.exit(f"The cluster tests need `{' '.join(command)}`, and it fails: {done.stderr.strip()}")


if __name__ == "__main__":
    main()
