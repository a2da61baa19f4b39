"""`spliceway cleanup` in a network namespace: what it takes away, what it leaves, and when it refuses."""

from __future__ import annotations

import os
import shutil

import pytest

from support.child import run_child

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces; run the tests as root"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("nft", "iptables-save", "ip"))),
        reason="needs the programs nft, iptables and ip (packages nftables, iptables, iproute2)",
    ),
]

PREAMBLE = """
import trio
from click.testing import CliRunner
from support.captureworld import *
from spliceway.capture.tproxy.routing import Routing
from spliceway.capture.tproxy.layout import Marks
from spliceway.cli.main import cli
build()
def cleanup(*arguments):
    done = CliRunner().invoke(cli, ["cleanup", "--state-socket", "/run/state.sock", *arguments])
    return done.exit_code, done.output
def rules():
    return run("ip rule") + run("ip -6 rule") + run("ip route show table all") + run("ip -6 route show table all")
"""

OWN = """
untouched = rules()
run("nft add table inet spliceway")
Routing(Marks.of_bit(4), 1070, 107).ensure()
run("ip rule add pref 50 fwmark 0x8000/0x8000 lookup 999")
run("ip rule del pref 50")
Routing(Marks.of_bit(9), 1072, 300)._ensure_rules(socket.AF_INET)  # of another instance, with other settings
code, output = cleanup()
assert code == 0 and "removed nftables table inet spliceway" in output and "IPv6 route in table 1072" not in output
assert rules() == untouched, rules()
assert "spliceway" not in run("nft list tables")
assert cleanup() == (0, "nothing to remove\\n")
"""


def test_everything_of_ours_goes_whatever_settings_made_it() -> None:
    """An agent that was killed leaves rules that swallow every Service's packets."""
    run_child(PREAMBLE + OWN, prefix=("unshare", "--net", "--mount"))


RUNNING = """
run("nft add table inet spliceway")
agent = socket.socket(socket.AF_UNIX)
agent.bind("/run/state.sock")
agent.listen()
code, output = cleanup()
assert code == 1 and "An agent runs on this node" in output and "--force" in output, output
assert "spliceway" in run("nft list tables")
code, output = cleanup("--force")
assert code == 0 and "spliceway" not in run("nft list tables"), output
run("nft add table inet spliceway")
run("nft add table ip kube-proxy")
code, output = cleanup("--kube-proxy")
assert (code, output) == (0, "removed of kube-proxy: nftables table ip kube-proxy\\n"), output
assert run("nft list tables") == "table inet spliceway\\n"
assert cleanup("--kube-proxy") == (0, "nothing to remove\\n")
code, output = cleanup("--kube-proxy", "--force")
assert code == 0 and run("nft list tables") == "", output
agent.close()
run("nft add table inet spliceway")
code, output = cleanup()
assert code == 0, "the socket file of a dead agent is no agent"
# An agent whose state socket is elsewhere, or that has none.
from spliceway.capture.tproxy.presence import captures_alone
async def capturing():
    async with captures_alone():
        return await trio.to_thread.run_sync(cleanup), await trio.to_thread.run_sync(cleanup, "--force")
run("nft add table inet spliceway")
(code, output), (forced, _) = trio.run(capturing)
assert code == 1 and "An agent runs on this node" in output, output
assert forced == 0 and "spliceway" not in run("nft list tables")
assert cleanup() == (0, "nothing to remove\\n")
"""


def test_a_running_agent_is_not_disturbed_unless_told_so() -> None:
    """An agent in kube-proxy's place must go on serving while what kube-proxy left is taken away."""
    run_child(PREAMBLE + RUNNING, prefix=("unshare", "--net", "--mount"))


KUBE_PROXY = """
from shutil import which
tools = [tool for tool in ("iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft") if which(tool)]
tools = tools or ["iptables", "ip6tables"]
for tool in tools:
    for command in (
        "-t nat -N KUBE-SERVICES", "-t nat -N KUBE-SVC-ERIFXISQEP7F7OF4", "-t nat -A PREROUTING -j KUBE-SERVICES",
        "-t nat -A KUBE-SERVICES -j KUBE-SVC-ERIFXISQEP7F7OF4", "-N KUBE-FORWARD", "-A FORWARD -j KUBE-FORWARD",
        "-N KUBE-FIREWALL", "-A INPUT -j KUBE-FIREWALL", "-t mangle -N KUBE-KUBELET-CANARY",
        "-t mangle -N KUBE-IPTABLES-HINT", "-t mangle -N KUBE-PROXY-CANARY",
    ):
        run(f"{tool} {command}")
run("nft add table ip kube-proxy")
run("nft add table ip6 kube-proxy")
run("nft add table inet kube-proxy-notes")
code, output = cleanup()
assert (code, output) == (0, "nothing to remove\\n"), output
code, output = cleanup("--kube-proxy")
assert code == 0, output
for tool in tools:
    assert f"of kube-proxy: {tool}: 4 chains, and 2 rules that led to them" in output, output
    saved = run(f"{tool}-save")
    found = {line[1:].split()[0] for line in saved.splitlines() if line.startswith(":KUBE")}
    assert found == {"KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT"}, found
    assert "-A INPUT -j KUBE-FIREWALL" in saved
tables = run("nft list tables").split("\\n")
assert "table ip kube-proxy" not in tables and "table ip6 kube-proxy" not in tables
assert "table inet kube-proxy-notes" in tables
assert cleanup("--kube-proxy") == (0, "nothing to remove\\n")
"""


def test_kube_proxys_leftovers_go_and_the_kubelets_chains_stay() -> None:
    """P-04: both variants of the tools have tables of their own in the kernel; kube-proxy may have used either."""
    run_child(PREAMBLE + KUBE_PROXY, prefix=("unshare", "--net", "--mount"))


FAILING = """
tools = Path("/run/tools")
tools.mkdir()
(tools / "nft").write_text("#!/bin/sh\\necho 'Error: Could not process rule: Device or resource busy' >&2; exit 1\\n")
(tools / "nft").chmod(0o755)
run("nft add table inet spliceway")
Routing(Marks.of_bit(4), 1070, 107).ensure()
path = os.environ["PATH"]
os.environ["PATH"] = f"{tools}:{path}"
code, output = cleanup()
os.environ["PATH"] = path
assert code == 1 and "not removed: nftables table inet spliceway" in output and "busy" in output, output
assert "removed IPv4 rule 107" in output and "fwmark" not in run("ip rule"), "the rest is removed all the same"
"""


def test_a_failure_is_told_and_the_rest_is_removed() -> None:
    run_child(PREAMBLE + FAILING, prefix=("unshare", "--net", "--mount"))


REFUSED = """
from spliceway.capture.tproxy.nft import NftError, probe_nft
tools = Path("/run/tools")
tools.mkdir()
(tools / "nft").write_text("#!/bin/sh\\necho 'Error: Could not process rule: Operation not permitted' >&2; exit 1\\n")
(tools / "nft").chmod(0o755)
os.environ["PATH"] = f"{tools}:" + os.environ["PATH"]
try:
    probe_nft(5.0)
except NftError as error:
    assert str(error).startswith("the program nft is not permitted to work; the agent needs CAP_NET_ADMIN"), error
else:
    raise AssertionError("it worked")
"""


def test_a_missing_right_is_one_sentence() -> None:
    """The first thing that a newcomer without root sees would be half a sentence in capitals."""
    run_child(PREAMBLE + REFUSED, prefix=("unshare", "--net", "--mount"))
