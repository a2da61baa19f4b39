"""Users' mistakes on the command line: one sentence, the right exit code, never a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from support.agentprocess import PATIENCE, AgentProcess, EchoBackend, cli, free_vip, manifest
from support.child import run_child

MISTAKES: list[tuple[list[str], int, str]] = [
    ([], 2, "Usage"),
    (["runn"], 2, "No such command"),
    (["run"], 1, "not in a Kubernetes cluster"),
    (["run", "--manifests", "no-such-file.yaml"], 2, "no-such-file.yaml"),
    (["run", "some.yaml"], 2, "some.yaml"),
    (["run", "--kubeconfig", "no-such-config"], 1, "no-such-config"),
    (["run", "--manifests", ".", "--kubeconfig", "x"], 2, "exclude each other"),
    (["run", "--listen", "127.0.0.1:80"], 2, "--listen"),
    (["run", "--listen", "127.0.0.1:0=default/shop"], 2, "--listen"),
    (["run", "--listen", "localhost:80=default/shop"], 2, "'localhost' is not an IP address"),
    (["run", "--listen", "127.0.0.1:80=default/Shop_1"], 2, "not the name of a Service"),
    (["run", "--listen", "127.0.0.1:80=a/b", "--listen", "127.0.0.1:80=a/c"], 2, "127.0.0.1:80 twice"),
    (["run", "--healthz-bind-address", "10256"], 2, "--healthz-bind-address"),
    (["run", "--metrics-bind-address", "localhost:1"], 2, "--metrics-bind-address"),
    (["run", "--capture", "iptables"], 2, "--capture"),
    (["run", "--capture", "tproxy", "--listen", "127.0.0.1:80=a/b"], 2, "--capture bind"),
    (["run", "--cluster-cidr", "10.244.0.0/33"], 2, "'10.244.0.0/33' is not a CIDR"),
    (["run", "--cluster-cidr", "10.0.0.0/16,10.1.0.0/16"], 2, "one of each family"),
    (["run", "--cluster-cidr", "10.0.0.0/16,,"], 2, "empty entry"),
    (["run", "--nodeport-addresses", "primary,primary"], 2, "says 'primary' twice"),
    (["run", "--nodeport-addresses", "eth0"], 2, "one of primary, localhost, all"),
    (["run", "--detect-local-mode", "BridgeInterface"], 2, "needs --pod-bridge-interface"),
    (["run", "--pod-interface-name-prefix", "veth"], 2, "is for --detect-local-mode InterfaceNamePrefix"),
    (
        ["run", "--detect-local-mode", "InterfaceNamePrefix", "--pod-interface-name-prefix", 'veth" accept #'],
        2,
        "cannot name an interface",
    ),
    (
        ["run", "--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", "sixteen-letters-"],
        2,
        "cannot name an interface",
    ),
    (["run", "--master", "http://[::bad"], 1, "is unusable: Invalid IPv6 URL"),
    (["run", "--detect-local-mode", "NodeCIDR", "--manifests", "."], 2, "--hostname-override"),
    (["run", "--hostname-override", " "], 2, "--hostname-override"),
    (["run", "--mark-bit", "31"], 2, "--mark-bit"),
    (["run", "--conntrack-min", "-1"], 2, "--conntrack-min"),
    (["run", "--master", "https://x", "--manifests", "."], 2, "exclude each other"),
    (["run", "--balance", "best"], 2, "--balance"),
    (["run", "--connect-timeout", "soon"], 2, "--connect-timeout"),
    (["run", "--retry-deadline", "nan"], 2, "--retry-deadline"),
    (["run", "--tries", "0"], 2, "--tries"),
    (["run", "--health", "icmp"], 2, "--health"),
    (["run", "--health-path", "ready"], 2, "--health-path"),
    (["run", "--workers", "-1"], 2, "--workers"),
    (["check"], 2, "PATH"),
    (["check", "no-such-folder"], 2, "no-such-folder"),
    (["explain", "127.0.0.1"], 2, "ADDR:PORT"),
    (["explain", "127.0.0.1:80"], 2, "--client"),
    (["explain", "127.0.0.1:80", "--client", "me"], 2, "--client"),
    (["explain", "127.0.0.1:80", "--client", "fe80::1%lo"], 2, "'fe80::1%lo'"),
    (
        ["explain", "127.0.0.1:80", "--client", "10.0.0.1", "--state-socket", "no.sock"],
        1,
        "no agent answers at no.sock",
    ),
    (["status", "--state-socket", "no.sock"], 1, "no agent answers at no.sock; is it running?"),
    (["status", "--state-socket", "x" * 200], 1, "no agent answers at"),
    (["demo", "--manifest", "no.yaml"], 2, "no.yaml"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), MISTAKES)
def test_mistake(arguments: list[str], code: int, says: str) -> None:
    """A typo would greet the user with a traceback, or with success."""
    result = cli(*arguments, KUBERNETES_SERVICE_HOST="")
    assert result.returncode == code, result
    assert says.lower() in result.stderr.lower()
    assert "Traceback" not in result.stderr
    if arguments:
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1


def test_mistake_in_the_environment_names_the_flag() -> None:
    """A bad value in a Pod's environment could not be traced to its flag."""
    result = cli("run", "--manifests", ".", SPLICEWAY_TRIES="many")
    assert result.returncode == 2
    assert "--tries" in result.stderr


@pytest.mark.parametrize("command", ["status", "run", "check"])
def test_help_names_an_example_or_the_environment(command: str) -> None:
    """The help text would not help."""
    result = cli(command, "--help")
    assert result.returncode == 0
    assert "Usage: spliceway" in result.stdout


def test_closed_and_full_output(tmp_path: Path) -> None:
    """`spliceway check | head` would end in a traceback."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("---\nkind: Deployment\n" * 3000)
    command = [sys.executable, "-m", "spliceway", "check", str(bad)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert result.returncode == 1
    assert b"Traceback" not in result.stderr
    assert result.stderr.startswith(b"Error: ")
    closed = subprocess.run([*command], preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE, check=False, timeout=60)
    assert b"Traceback" not in closed.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], []])
def test_help_that_cannot_be_written(arguments: list[str]) -> None:
    """A full disk would look like a bug in spliceway."""
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "spliceway", *arguments]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert result.returncode == (1 if arguments else 2)
    assert b"Traceback" not in result.stderr
    assert result.stderr.startswith(b"Error: " if arguments else b"Usage: ")


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["--help"]])
def test_reader_that_has_had_enough_is_no_error(command: list[str], tmp_path: Path) -> None:
    """`set -o pipefail; spliceway status | head -1` would fail."""
    with EchoBackend() as backend:
        path = tmp_path / "shop.yaml"
        path.write_text(manifest(free_vip(), backend.address))
        with AgentProcess(tmp_path, "--manifests", str(path)) as agent:
            agent.wait_ready()
            unread, output = os.pipe()
            os.close(unread)
            environment = os.environ | {"SPLICEWAY_STATE_SOCKET": str(agent.socket)}
            whole = [sys.executable, "-m", "spliceway", *command]
            result = subprocess.run(
                whole, stdout=output, stderr=subprocess.PIPE, check=False, timeout=60, env=environment
            )
            os.close(output)
    assert (result.returncode, result.stderr) == (0, b"")


def test_another_users_agent() -> None:
    """Somebody who has to use sudo would be told that the option is wrong."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        Path(folder).chmod(0o755)
        path = Path(folder, "state.sock")
        listener.bind(str(path))
        listener.listen()
        path.chmod(0 if os.geteuid() else 0o600)
        said = run_child(
            f"""
import os
from click.testing import CliRunner
from spliceway.cli import cli
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
result = CliRunner().invoke(cli, ["status", "--state-socket", {str(path)!r}])
print(result.exit_code, result.output)
"""
        )
    expected = f"Error: No permission to ask the agent at {path}; run this as the agent's own user."
    assert said.split(maxsplit=1) == ["1", f"{expected}\n\n"]


def test_interrupt_while_starting_is_quiet(tmp_path: Path) -> None:
    """Ctrl-C right after the start would print a traceback."""
    path = tmp_path / "empty.yaml"
    path.write_text("")
    for module in ("click", "msgspec", "spliceway.cli.status", "trio", "spliceway.node"):
        # Says so when the import of a module begins, and gives the signal time to come.
        code = f"""
import runpy, sys, time
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            print("importing", flush=True)
            time.sleep({PATIENCE})
sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["run", "--manifests", {str(path)!r}, "--healthz-bind-address", "off"]
runpy.run_module("spliceway", run_name="__main__")
"""
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"importing\n"
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
            assert (module, process.wait(PATIENCE), said) == (module, 130, b"")
            assert time.monotonic() - began < PATIENCE
