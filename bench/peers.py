"""``run.py peers``: build the contestants and the control plane that are not there, and name what else is missing."""

from __future__ import annotations

import argparse

import peerbuilds
import proxies
from processes import BenchError
from rich.console import Console

from cluster.build import BuildError
from cluster.build import build as build_control_plane

_CONTROL_PLANE = ["etcd", "kube-apiserver", "kube-proxy"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has no options; what it does is always safe to repeat."""
    parser.epilog = "The programs go to ~/.cache/spliceway (or where SPLICEWAY_CACHE says)."


def run(_options: argparse.Namespace, console: Console) -> int:
    """0: every contestant can take part; 1: some cannot, and each is named with the reason and the remedy."""
    failures = _build_all()
    for why in failures:
        console.print(why, style="red", highlight=False, soft_wrap=True)
    lacking = 0
    for name, kind in proxies.ALL.items():
        why_not = kind.missing()
        lacking += why_not is not None
        console.print(f"{name:28} {'ready' if why_not is None else why_not}", highlight=False, soft_wrap=True)
    return 1 if failures or lacking else 0


def _build_all() -> list[str]:
    """Build what is not there, and say of each that cannot be built why."""
    failures = []
    try:
        build_control_plane(_CONTROL_PLANE)
    except BuildError as error:
        failures.append(str(error))
    for name in peerbuilds.NAMES:
        try:
            peerbuilds.build(name)
        except BenchError as error:
            failures.append(str(error))
    return failures
