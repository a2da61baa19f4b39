"""The agents under test: one process on each node of the rig, as its DaemonSet would run it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from spliceway.cli.agent import fetch_state
from spliceway.errors import AgentUnreachableError
from spliceway.observe.state import AgentState
from support.nodes import CLUSTER_CIDRS, Node, Rig, each
from support.rig import wait_until

HEALTHZ_PORT, METRICS_PORT = 10256, 10249
STOP_SECONDS = 20.0
LOG_TAIL = 4000
#: long enough for a test that holds a connection open, short enough for one that leaves one behind
SHUTDOWN_SECONDS = 5
#: a namespace of the network cannot raise what the machine has
FLAGS = (
    f"--cluster-cidr={','.join(CLUSTER_CIDRS)}",
    "--localhost-nodeports",
    "--conntrack-max-per-core=0",
    f"--shutdown-deadline={SHUTDOWN_SECONDS}",
)


class Agent:
    """The agent of one node; it may be ended and started again. Its log goes on in one file."""

    def __init__(self, node: Node, kubeconfig: Path, folder: Path) -> None:
        self.node = node
        self.socket = folder / f"{node.name}.sock"
        self._kubeconfig = kubeconfig
        self._log = folder / f"agent-{node.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str) -> None:
        """Start it, with more flags than the usual ones."""
        assert not self.running, f"the agent of {self.node} runs already"
        command = [sys.executable, "-m", "spliceway", "run", "--capture=tproxy", *FLAGS, *flags]
        command += [f"--kubeconfig={self._kubeconfig}", f"--hostname-override={self.node.name}"]
        with self._log.open("ab") as log:
            self._process = self.node.namespace.popen(*command, f"--state-socket={self.socket}", log=log)

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """All that it has written, in all its lives."""
        return self._log.read_text(errors="replace")

    def check(self) -> None:
        """Fail with the end of its log when it has ended by itself, or when a part of it has."""
        assert self._process is None or self.running, f"the agent of {self.node} has ended: {self.log[-LOG_TAIL:]}"
        assert "Traceback" not in self.log, self.log[-LOG_TAIL:]

    def state(self) -> AgentState:
        """What `spliceway status` shows. Raises AgentUnreachableError."""
        return fetch_state(self.socket)

    def wait_ready(self) -> None:
        """Return when it says that all is in force."""
        wait_until(self._is_ready, f"the agent of {self.node} is ready")

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self.signal(signal.SIGKILL)
        self.wait_end()

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_end()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait_end(self) -> int:
        """Return its exit code when it has ended."""
        assert self._process is not None
        code = self._process.wait(STOP_SECONDS)
        self._process = None
        return code

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of spliceway on the node to its end."""
        command = self.node.namespace.command(sys.executable, "-m", "spliceway", *arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=STOP_SECONDS, check=False)

    def _is_ready(self) -> bool:
        self.check()
        try:
            return self.state().ready
        except AgentUnreachableError:
            return False


class Agents:
    """One for each node. Use it as a context manager."""

    def __init__(self, rig: Rig, kubeconfig: Path, folder: Path) -> None:
        self._agents = {node.name: Agent(node, kubeconfig, folder) for node in rig.nodes}

    def of(self, node: Node) -> Agent:
        """The agent of a node."""
        return self._agents[node.name]

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._agents.values())

    def ensure(self) -> None:
        """Start what does not run, and return when all are ready: a test may have failed while its agent was down."""
        for agent in self._agents.values():
            if not agent.running:
                agent.start()
        each(self._agents.values(), lambda agent: agent.wait_ready())

    def __enter__(self) -> Self:
        self.ensure()
        return self

    def __exit__(self, *_: object) -> None:
        running = [agent for agent in self._agents.values() if agent.running]
        for agent in running:
            agent.signal(signal.SIGTERM)
        for agent in running:
            try:
                agent.wait_end()
            except subprocess.TimeoutExpired:
                agent.kill()
