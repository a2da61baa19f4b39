"""The demo's processes: one agent and its backends, none of which outlives it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from spliceway.cli.agent import fetch_state
from spliceway.errors import AgentUnreachableError, SplicewayError
from spliceway.model import Address
from spliceway.observe.state import AgentState

#: seconds in which a process must be ready, or the agent must have noticed a change
PATIENCE = 10.0
#: seconds that a process may take to leave before it is killed
_FAREWELL = 3.0
_POLL = 0.02


class DemoError(SplicewayError):
    """The demo cannot go on; the text says why."""


@asynccontextmanager
async def running(process: trio.Process) -> AsyncGenerator[trio.Process]:
    """End ``process`` at the end, whatever happens."""
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.terminate()
            with trio.move_on_after(_FAREWELL):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()


async def start_backend(address: Address, name: str) -> trio.Process:
    """Start a backend and wait until it listens. Raises `DemoError` when it cannot."""
    command = [sys.executable, "-m", "spliceway.cli.demo.backend", address.host, str(address.port), name]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    answer = b""
    with trio.move_on_after(PATIENCE):
        async for data in process.stdout:
            answer += data
            if answer.endswith(b"\n"):
                break
    said = answer.decode(errors="replace").strip()
    if said != "ready":
        async with running(process):
            raise DemoError(f"Backend {name} {said or 'did not start'}; stop what listens there and try again")
    return process


class Agent:
    """The real agent, and what it says of itself."""

    def __init__(self, process: trio.Process, socket: Path, log: Path) -> None:
        self.process = process
        self._socket = socket
        self._log = log

    @classmethod
    async def start(cls, manifests: Path, folder: Path) -> Agent:
        """Start an agent that keeps its socket and its log in ``folder``."""
        socket, log = folder / "state.sock", folder / "agent.log"
        command = [sys.executable, "-m", "spliceway", "run", "--manifests", str(manifests)]
        command += ["--state-socket", str(socket), "--healthz-bind-address", "off", "--metrics-bind-address", "off"]
        with log.open("wb") as output:
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        return cls(process, socket, log)

    async def state(self) -> AgentState:
        """Ask it. Raises `AgentUnreachableError`."""
        return await trio.to_thread.run_sync(fetch_state, self._socket)

    async def wait(self, condition: Callable[[AgentState], bool], what: str) -> AgentState:
        """Wait until its state fulfils ``condition``. Raises `DemoError` that names ``what`` did not happen."""
        with trio.move_on_after(PATIENCE):
            while self.process.poll() is None:
                try:
                    state = await self.state()
                except AgentUnreachableError:
                    await trio.sleep(_POLL)
                    continue
                failed = [row for service in state.services for row in service.frontends if row.state == "failed"]
                if failed:
                    raise DemoError(f"Frontend {failed[0].address}: {failed[0].message}")
                if condition(state):
                    return state
                await trio.sleep(_POLL)
        raise DemoError(f"{what} did not happen; the agent's last words: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "none"
