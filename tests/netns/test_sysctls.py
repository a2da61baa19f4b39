"""Kernel settings made for real, in a network namespace of their own (P-05, P-06)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace; run the tests as root"),
]

FOLDER = "/proc/sys/net/netfilter"
#: nf_conntrack_max belongs to the whole machine and is read-only in a namespace
COMMAND = "-m spliceway run --init-only --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 5000"
SCRIPT = f"""
set -e
nft add table inet t
nft 'add chain inet t c {{ type filter hook input priority 0; ct state new accept; }}'  # loads connection tracking
"$0" {COMMAND}
cat {FOLDER}/nf_conntrack_tcp_timeout_close_wait {FOLDER}/nf_conntrack_tcp_timeout_established
"$0" {COMMAND}
"""


def test_init_only_makes_the_settings_and_ends() -> None:
    """Pods would lose half-closed connections after a minute, and upstream's test that reads 3600 back would fail."""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", SCRIPT, sys.executable],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3600", "5000"]
    assert done.stderr.count("nf_conntrack_tcp_timeout_close_wait: 3600, was ") == 1  # the second time nothing is to do
