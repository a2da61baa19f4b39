"""Real backends as processes, and clients that count every error."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

from spliceway.model import Address
from support.rig import wait_until

#: seconds that a client waits for anything before that counts as an error
CLIENT_SECONDS = 10.0
#: what one stream sends at most
STREAM_SECONDS = 90.0
STREAM_REQUESTS = 50_000


class Backend:
    """A process that answers lines with its name. It runs from the start on; `kill` and `start` may alternate."""

    def __init__(self, name: str, host: str, port: int = 8080, *, seconds: float = 0.0) -> None:
        self.name = name
        self.host = host
        self.port = port
        script = str(Path(__file__).with_name("backend.py"))
        self._command = [sys.executable, "-I", "-S", script, name, host, str(port), str(seconds)]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> Address:
        return Address(self.host, self.port)

    def start(self) -> None:
        """Start the process and return when it listens."""
        assert self._process is None
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"listening\n", f"backend {self.name} does not listen"

    def kill(self) -> None:
        """End it with SIGKILL, with the requests that it holds; it is gone on return."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate(timeout=CLIENT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Flow:
    """One client's connection, which stays open. Raises OSError as the socket does."""

    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection(address, CLIENT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self._socket.makefile("rb")

    def ask(self, line: str = "hello") -> str:
        """Send a line and return the name of the backend that answered it."""
        self._socket.sendall(line.encode() + b"\n")
        answer = self._lines.readline().decode()
        name, _, echoed = answer.partition(" ")
        if echoed != line + "\n":
            raise ConnectionError(f"{line!r} was answered with {answer!r}")
        return name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()


def ask(address: Address) -> str:
    """Return the name of the backend that answers a new connection."""
    with Flow(address) as flow:
        return flow.ask()


def ask_many(address: Address, count: int = 80) -> set[str]:
    """Return the names of all backends that answer new connections; with three, 80 ask each for all but 1 in 10^13."""
    return {ask(address) for _ in range(count)}


def refused(address: Address) -> bool:
    """Say whether a new connection is refused at once (ECONNREFUSED); any other fault is raised."""
    try:
        with Flow(address):
            return False
    except ConnectionRefusedError:
        return True


def wait_refused(address: Address) -> None:
    wait_until(lambda: refused(address), f"{address} refuses clients")


class Stream:
    """New connections without end, from a few clients at once, until the block ends; `errors` lists all that failed."""

    def __init__(self, address: Address, *, clients: int = 4, pause: float = 0.01) -> None:
        self.address = address
        self.errors: list[str] = []
        self.answers: Counter[str] = Counter()
        self._pause = pause
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._begun = time.monotonic()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def wait_for_more(self, count: int = 50) -> None:
        """Return when so many more connections were answered. Fails at the first error."""
        goal = self.answers.total() + count
        self._wait(lambda: self.answers.total() >= goal, f"{count} more answers")

    def wait_for_answer_of(self, name: str) -> None:
        """Return when the backend has answered once more. Fails at the first error."""
        goal = self.answers[name] + 1
        self._wait(lambda: self.answers[name] >= goal, f"an answer of {name}")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(lambda: bool(self.errors) or condition(), what)
        assert not self.errors, f"{len(self.errors)} clients saw an error: {self.errors[:5]}"

    def _ask(self) -> None:
        while not self._done.wait(self._pause):
            number = next(self._numbers)
            if number >= STREAM_REQUESTS or time.monotonic() - self._begun > STREAM_SECONDS:
                return
            started = time.monotonic()
            try:
                with Flow(self.address) as flow:
                    name = flow.ask(f"request {number}")
            except OSError as error:
                with self._lock:
                    self.errors.append(f"{started - self._begun:.2f} s: request {number}: {error!r}")
            else:
                with self._lock:
                    self.answers[name] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(2 * CLIENT_SECONDS)
