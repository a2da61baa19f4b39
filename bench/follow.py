"""When things happen: the first connection that a Service answers, and the arrival of a watch event."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlencode, urlsplit

import msgspec
from processes import BenchError

#: a search ends by itself before that
_PATIENCE = 310.0


class Found(msgspec.Struct, frozen=True):
    """The first right answer: nanoseconds of `time.monotonic_ns` (``at`` 0: none came) and the connections made."""

    at: int
    dialled: int
    tries: int


class FirstAnswer:
    """The load tool's ``first`` in a client's place, as a context manager: one search at a time."""

    def __init__(self, command: Sequence[str]) -> None:
        """``command`` runs it where the client is."""
        self._command = command

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *self._command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def begin(self, target: str, server: str = "*", interval: float = 0.0005) -> None:
        """A new connection to ``target`` every ``interval`` seconds, until ``server`` answers (* is any)."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{target} {server} {round(interval * 1e6)}\n")
        self._process.stdin.flush()

    def result(self) -> Found:
        """Wait for the answer.

        Raises:
            BenchError: none came.
        """
        assert self._process.stdout is not None
        timer = threading.Timer(_PATIENCE, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            raise BenchError("the search for the first answer ended without a word")
        found = msgspec.json.decode(line, type=Found)
        if not found.at:
            raise BenchError(f"no right answer came, in {found.tries} connections")
        return found


class _Access(NamedTuple):
    host: str
    port: int
    token: str
    context: ssl.SSLContext


class Arrivals:
    """A watch of its own, beside that of the contestant: when the event of each version of an object has arrived.

    Use it as a context manager. It stays until it is closed, or the API server ends the watch (after an hour).
    """

    def __init__(self, kubeconfig: Path, path: str, **selection: str) -> None:
        """``path`` is that of a collection; ``selection`` as in a watch's query, ``fieldSelector`` for instance."""
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        server = urlsplit(cluster["server"])
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        token = config["users"][0]["user"]["token"]
        context = ssl.create_default_context(cadata=authority)
        self._access = _Access(server.hostname or "", server.port or 443, token, context)
        query = {"watch": "1", "timeoutSeconds": "3600", **selection}
        self._path = f"{path}?{urlencode(query)}"
        self._times: dict[str, int] = {}
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        access = self._access
        self._connection = http.client.HTTPSConnection(access.host, access.port, timeout=3700, context=access.context)
        self._connection.request("GET", self._path, headers={"Authorization": f"Bearer {access.token}"})
        self._response = self._connection.getresponse()
        if self._response.status != 200:
            raise BenchError(f"watching {self._path}: HTTP {self._response.status}")
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.sock.close()

    def at(self, version: str, patience: float = 10.0) -> int:
        """Nanoseconds of `time.monotonic_ns` at which the event with this resourceVersion had arrived.

        Raises:
            BenchError: it did not come.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: version in self._times, patience):
                raise BenchError(f"no watch event for version {version} within {patience:g} s")
            return self._times.pop(version)

    def _read(self) -> None:
        try:
            while line := self._response.readline():
                now = time.monotonic_ns()
                version = json.loads(line)["object"]["metadata"]["resourceVersion"]
                with self._changed:
                    self._times[version] = now
                    self._changed.notify_all()
        except (OSError, ValueError, AttributeError):
            return  # closed; whoever waits for an event is told that it did not come
