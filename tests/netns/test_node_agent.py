"""The agent as the service proxy of a Node, told by manifests, in a network namespace of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support.child import run_child

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace; run the tests as root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft; install nftables"),
]

PROLOGUE = """
import json, subprocess, time, urllib.error, urllib.request
from pathlib import Path
from support.agentprocess import AgentProcess, PATIENCE
for command in ("link set lo up", "addr add 198.18.0.1/32 dev lo", "route add default dev lo"):
    subprocess.run(["ip", *command.split()], check=True)
folder = Path()
manifest = folder / "state.json"

def node(*taints, addresses=("198.18.0.1",)):
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "spec": {"taints": [{"key": taint, "effect": "NoSchedule"} for taint in taints]},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }

SERVICE = {
    "apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"},
    "spec": {
        "type": "LoadBalancer", "clusterIP": "198.18.1.1",
        "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
        "ports": [{"name": "http", "port": 80, "nodePort": 31001}],
    },
}

def slice_of(*nodes):
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "shop-1", "labels": {"kubernetes.io/service-name": "shop"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [
            {"addresses": [f"198.18.2.{number}"], "nodeName": name} for number, name in enumerate(nodes, 1)
        ],
    }

def say(*items):
    new = folder / "new"
    new.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    new.rename(manifest)

def get(port, path="/", host="198.18.0.1"):
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""

def until(condition, agent):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline and agent.process.poll() is None, agent.log
        time.sleep(0.02)

def start():
    return AgentProcess(
        folder, "--manifests", str(manifest), "--capture", "tproxy", "--hostname-override", "N1",
        "--healthz-bind-address", "0.0.0.0:10256", "--metrics-bind-address", "127.0.0.1:10249",
        "--conntrack-max-per-core", "0",
    )
"""


def run(code: str, folder: Path) -> None:
    """Run in a namespace of its own; ``folder`` is the working directory, so that paths of sockets are short."""
    run_child(PROLOGUE + code, prefix=("unshare", "--net", f"--wd={folder}"))


def test_load_balancers_find_the_nodes_with_endpoints(tmp_path: Path) -> None:
    """A cloud's load balancer would send clients to nodes that drop them, or to none (H-01 to H-11)."""
    code = """
say(node(), SERVICE, slice_of("n1", "n1", "n2"))
with start() as agent:
    agent.wait_ready()
    until(lambda: get(31000)[0] == 200, agent)
    assert '"localEndpoints": 2' in get(31000)[1]
    assert get(10256, "/healthz")[0] == 200
    assert "lastUpdated" in get(10256, "/healthz", "127.0.0.1")[1]
    assert get(10249, "/proxyMode", "127.0.0.1") == (200, "spliceway")
    say(node(), SERVICE, slice_of("n2"))
    until(lambda: get(31000)[0] == 503, agent)
    say(node("ToBeDeletedByClusterAutoscaler"), SERVICE, slice_of("n2"))
    until(lambda: get(10256, "/healthz")[0] == 503, agent)
    assert get(10256, "/livez")[0] == 200
    cluster = {**SERVICE, "spec": {**SERVICE["spec"], "externalTrafficPolicy": "Cluster"}}
    say(node(), cluster, slice_of("n2"))
    until(lambda: get(31000)[0] == 0, agent)
    metrics = get(10249, "/metrics", "127.0.0.1")[1]
    assert "spliceway_capture_elements" in metrics and 'kubeproxy_proxy_healthz_total{code="503"}' in metrics
    agent.process.terminate()
    assert agent.wait_exit() == 0, agent.log
"""
    run(code, tmp_path)


def test_a_second_agent_of_the_node_is_refused_before_it_changes_anything(tmp_path: Path) -> None:
    """Two agents would write each other's rules anew for ever, and each end would take the other's away."""
    code = """
def ruleset():
    shown = subprocess.run(["nft", "-s", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    return shown + subprocess.run(["ip", "rule"], capture_output=True, text=True, check=True).stdout

def second(name):
    return AgentProcess(
        folder, "--manifests", str(manifest), "--capture", "tproxy", "--conntrack-max-per-core", "0",
        "--mark-bit", "9", name=name,
    )

say(node(), SERVICE, slice_of("n1"))
with start() as agent:
    agent.wait_ready()
    before = ruleset()
    with second("second") as other:
        assert other.wait_exit() == 1
        assert "Error: Another spliceway agent captures on this node already; stop it first" in other.log, other.log
        assert "Traceback" not in other.log and len(other.log.splitlines()) == 1, other.log
    assert ruleset() == before
    agent.state()
    with second("third") as other:  # one that comes while the first is just ending waits for it
        agent.process.terminate()
        assert agent.wait_exit() == 0, agent.log
        other.wait_ready()
        other.process.terminate()
        assert other.wait_exit() == 0, other.log
"""
    run(code, tmp_path)


@pytest.mark.parametrize(
    ("after", "says"),
    [
        ("say(SERVICE)", "Node n1 was deleted"),
        ('say(node(addresses=("198.18.0.9",)), SERVICE)', "other addresses than at start: 198.18.0.9, not 198.18.0.1"),
    ],
    ids=["deleted", "other addresses"],
)
def test_another_node_than_at_start_ends_the_agent(after: str, says: str, tmp_path: Path) -> None:
    """A node that was renumbered would be served with old addresses (W-23). The rules wait for the next agent."""
    code = f"""
say(node(), SERVICE, slice_of("n1"))
with start() as agent:
    agent.wait_ready()
    {after}
    assert agent.wait_exit() == 1, agent.log
    assert {says!r} in agent.log, agent.log
    assert "Traceback" not in agent.log, agent.log
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert "spliceway" in tables, tables
"""
    run(code, tmp_path)
