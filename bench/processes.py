"""Child processes that always end with the bench: stopped in order, and by the kernel if the bench itself is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn


class BenchError(Exception):
    """The bench cannot go on. The text is one clear sentence."""


def wait_for(condition: Callable[[], bool], what: str, deadline: float = 10.0, step: float = 0.01) -> float:
    """Wait until ``condition()``, looking every ``step`` seconds; return the seconds it took.

    Raises:
        BenchError: it did not come true within ``deadline`` seconds.
    """
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > deadline:
            raise BenchError(f"{what} did not happen within {deadline:g} s")
        time.sleep(step)
    return time.monotonic() - start


def output_of(command: Sequence[str], timeout: float = 60.0) -> str:
    """Run a command to its end and return its standard output.

    Raises:
        BenchError: it failed, is missing, or took longer than ``timeout`` seconds.
    """
    shown = " ".join(command)[:200]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{shown}: did not end within {timeout:g} s") from error
    except OSError as error:
        raise BenchError(f"{shown}: {error.strerror}") from error
    if done.returncode != 0:
        raise BenchError(f"{shown}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


class Child:
    """A daemon of the bench, in a session of its own so that Ctrl-C reaches it only through `stop`."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        self.started = time.monotonic()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check(self) -> None:
        """Raise `BenchError` with the end of its log if it has died."""
        if self.process.poll() is not None:
            tail = self.log.read_text(errors="replace").strip()[-800:]
            raise BenchError(f"{self.name} ended with code {self.process.returncode}: {tail or '(it said nothing)'}")

    def wait_until(self, condition: Callable[[], bool], what: str, deadline: float = 10.0, step: float = 0.01) -> float:
        """`wait_for` that also ends when the child dies."""

        def alive_and() -> bool:
            self.check()
            return condition()

        return wait_for(alive_and, f"{self.name}: {what}", deadline, step)

    def wait_end(self, deadline: float) -> None:
        """Wait for it to end by itself, and raise `BenchError` unless it succeeded within ``deadline`` seconds."""
        try:
            code = self.process.wait(deadline)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{self.name} did not end within {deadline:g} s") from error
        if code != 0:
            self.check()

    def kill(self) -> None:
        """SIGKILL for it and the processes that it has started, as a node's out-of-memory killer would."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, patience: float = 3.0) -> None:
        """Ask it to end, then make it."""
        if self.process.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.kill()

    def _signal(self, number: int) -> None:
        """Send a signal to all of its session: some daemons do their work in children, which might outlive them."""
        if self.process.poll() is None:  # its number is not another's yet
            os.killpg(self.pid, number)

    def cpu_seconds(self) -> float:
        """User and system time that it has used: all threads, and processes that it started, also for a moment."""
        return sum(map(_cpu_seconds, self._family()))

    def memory(self, *, alone: bool = False) -> dict[str, int]:
        """Resident memory in bytes, now (``VmRSS``) and at its highest (``VmHWM``), its processes together.

        ``alone``: without the processes that it has started, for one that only calls tools now and then.
        """
        totals = {"VmRSS": 0, "VmHWM": 0}
        for pid in [self.pid] if alone else self._family():
            for line in _facts(pid, "status").splitlines():
                key, _, value = line.partition(":")
                if key in totals:
                    totals[key] += int(value.split()[0]) * 1024
        return totals

    def proportional_memory(self) -> int:
        """Memory in bytes (PSS): what processes share counts in parts. Its processes together."""
        texts = (_facts(pid, "smaps_rollup") for pid in self._family())
        lines = (line for text in texts for line in text.splitlines() if line.startswith("Pss:"))
        return sum(int(line.split()[1]) * 1024 for line in lines)

    def _family(self) -> list[int]:
        """The process and its descendants: some daemons do their work in children."""
        pids = [self.pid]
        for pid in pids:  # grows meanwhile
            with suppress(FileNotFoundError, ProcessLookupError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    pids += map(int, _facts(pid, f"task/{task.name}/children").split())
        return pids


def _facts(pid: int, name: str) -> str:
    """A file of /proc/PID; empty when the process has ended meanwhile, as a tool that a daemon calls."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _cpu_seconds(pid: int) -> float:
    """Its own time and that of the children that have ended."""
    fields = _facts(pid, "stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def end_on_signals() -> None:
    """Make SIGTERM end the bench as Ctrl-C does, so that everything is cleaned up; Ctrl-C also in the background.

    The first signal counts. Another one follows when the parent, as ``run.py all``, was told as well: it would break
    off the cleaning up.
    """

    def interrupt(_number: int, _frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
