"""Removes what kube-proxy left in the kernel, in whichever mode it ran (P-04). Blocking; best effort.

Chains of the kubelet (KUBE-FIREWALL, KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT) stay, and so do sysctls and conntrack
entries.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from spliceway.capture.tproxy import netlink

_TIMEOUT = 60.0
_OWN_CHAIN = re.compile(
    r"KUBE-(SERVICES|EXTERNAL-SERVICES|NODEPORTS|POSTROUTING|MARK-MASQ|FORWARD|PROXY-FIREWALL|PROXY-CANARY"
    r"|LOAD-BALANCER|NODE-PORT|IPVS-FILTER|IPVS-OUT-FILTER|SOURCE-RANGES-FIREWALL|(SVC|SVL|FW|EXT|SEP)-[A-Z0-9]+)"
)
_JUMP = re.compile(r" -[jg] (\S+)")
_IPVS_DEVICE = "kube-ipvs0"
_IPVS_SERVERS = Path("/proc/net/ip_vs")
_DELETE_LINK = 17
_IP_TOOLS = ("iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft")


class Report(NamedTuple):
    """What was removed, and what could not be, each with its reason."""

    removed: list[str]
    failed: list[str]


def remove_leftovers() -> Report:
    """Remove everything, one kind after the other; a failure does not keep the rest from being removed."""
    report = Report([], [])
    tools = [tool for tool in _IP_TOOLS if shutil.which(f"{tool}-save")]
    for tool in tools or [tool for tool in ("iptables", "ip6tables") if shutil.which(f"{tool}-save")]:
        _attempt(report, tool, functools.partial(_clean_iptables, tool))
    if shutil.which("nft"):
        _attempt(report, "nftables", _clean_nftables)
    _attempt(report, "ipvs", _clean_ipvs)
    if shutil.which("ipset"):
        _attempt(report, "ipset", _clean_ipsets)
    return report


def iptables_script(saved: str) -> tuple[str, int, int]:
    """What ``iptables-restore --noflush`` must be told to remove kube-proxy's part of what ``iptables-save`` printed.

    Returns the script (empty when there is nothing to do), and the numbers of chains and of rules in other chains.
    """
    chains: defaultdict[str, list[str]] = defaultdict(list)
    jumps: defaultdict[str, list[str]] = defaultdict(list)
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            name = line[1:].split()[0]
            if _OWN_CHAIN.fullmatch(name):
                chains[table].append(name)
        elif line.startswith("-A "):
            jump = _JUMP.search(line)
            if jump and _OWN_CHAIN.fullmatch(jump[1]) and not _OWN_CHAIN.fullmatch(line.split()[1]):
                jumps[table].append(line)
    script = "".join(_table_script(table, chains[table], jumps[table]) for table in {**chains, **jumps})
    return script, sum(map(len, chains.values())), sum(map(len, jumps.values()))


def _table_script(table: str, chains: Iterable[str], jumps: Iterable[str]) -> str:
    """Jumps first, then all chains are emptied, and only then removed: they refer to each other."""
    names = list(chains)
    lines = [f"*{table}", *(f"-D {jump[3:]}" for jump in jumps)]
    lines += [f"-F {name}" for name in names] + [f"-X {name}" for name in names]
    return "\n".join([*lines, "COMMIT", ""])


def _attempt(report: Report, what: str, clean: Callable[[], list[str]]) -> None:
    try:
        report.removed.extend(clean())
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        report.failed.append(f"{what}: {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return str(error.stderr).strip() or f"exit code {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no end within {_TIMEOUT:g} s"
    return getattr(error, "strerror", None) or str(error)


def _clean_iptables(tool: str) -> list[str]:
    script, chains, jumps = iptables_script(_run([f"{tool}-save"]))
    if not script:
        return []
    _run([f"{tool}-restore", "--noflush", "-w", "10"], script)
    return [f"{tool}: {chains} chains, and {jumps} rules that led to them"]


def _clean_nftables() -> list[str]:
    removed: list[str] = []
    listing = json.loads(_run(["nft", "-j", "list", "tables"]))
    for item in listing["nftables"]:
        table = item.get("table", {})
        if table.get("name") == "kube-proxy" and table.get("family") in ("ip", "ip6"):
            _run(["nft", "delete", "table", table["family"], "kube-proxy"])
            removed.append(f"nftables table {table['family']} kube-proxy")
    return removed


def _clean_ipvs() -> list[str]:
    """kube-proxy's device tells that the virtual servers are its own; without it they may be somebody else's."""
    try:
        index = socket.if_nametoindex(_IPVS_DEVICE)
    except OSError:
        return []
    removed: list[str] = []
    if _IPVS_SERVERS.exists():
        if not shutil.which("ipvsadm"):
            raise OSError(0, "the program ipvsadm is needed to remove virtual servers; install it and run this again")
        _run(["ipvsadm", "--clear"])
        removed.append("all ipvs virtual servers")
    netlink.request(netlink.NETLINK_ROUTE, _DELETE_LINK, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0))
    return [*removed, f"device {_IPVS_DEVICE}"]


def _clean_ipsets() -> list[str]:
    names = [name for name in _run(["ipset", "list", "-name"]).split() if name.startswith("KUBE-")]
    for name in names:
        _run(["ipset", "destroy", name])
    return [f"{len(names)} ipsets"] if names else []


def _run(command: Sequence[str], script: str = "") -> str:
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(
        command, input=script, capture_output=True, text=True, check=True, timeout=_TIMEOUT, env=environment
    )
    return done.stdout
