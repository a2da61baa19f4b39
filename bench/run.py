"""All benches: ``python bench/run.py quick|services|programming|kill|scale``. README.md has the method."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import kill
import programming
import quick
import scale
import services
from processes import BenchError, end_on_signals
from rich.console import Console

#: by name: the module, and what it is for
BENCHES = {
    "quick": (quick, "bulk, keep-alive and new connections next to direct, nftables DNAT and haproxy"),
    "services": (services, "UDP and TCP through a node's service proxy, next to kube-proxy"),
    "programming": (programming, "how soon 10,000 Services are served and changes take effect, next to kube-proxy"),
    "kill": (kill, "a backend is killed and restored under load"),
    "scale": (scale, "10,000 Services x 10 endpoints from files"),
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, purpose) in BENCHES.items():
        module.add_arguments(commands.add_parser(name, help=purpose))
    return parser.parse_args(arguments)


def main() -> int:
    """Run one bench. 0: done; 1: done, with errors in it; 2: it could not be run; 130: interrupted."""
    options = parse()
    console = Console(width=None if sys.stdout.isatty() else 140)
    end_on_signals()
    try:
        module = BENCHES[options.command][0]
        return int(module.run(options, console))
    except BenchError as error:
        console.print(f"bench: {error}", style="red", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; everything is cleaned up")
        return 130


if __name__ == "__main__":
    sys.exit(main())
