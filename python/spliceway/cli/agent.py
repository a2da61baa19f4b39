"""Asks the running agent over its state socket. Blocking, with a time-out."""

from __future__ import annotations

import http.client
import os
import socket
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from spliceway.errors import AgentUnreachableError
from spliceway.model import Address, FrontendKey
from spliceway.observe.state import AgentState, ErrorState, ExplainState

#: seconds for each step of a request
_TIMEOUT = 10.0

_Answer = TypeVar("_Answer", AgentState, ExplainState)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("spliceway", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


def fetch_state(path: Path) -> AgentState:
    """The agent's state. Raises `AgentUnreachableError`."""
    return _ask(path, "/state", AgentState)


def fetch_explanation(path: Path, frontend: FrontendKey, client: Address) -> ExplainState:
    """What a flow from ``client`` to ``frontend`` would do.

    Raises:
        AgentUnreachableError: no agent answers, or it serves nothing there; the text says which.
    """
    query = urlencode({"frontend": str(frontend), "client": str(client)})
    return _ask(path, f"/explain?{query}", ExplainState)


def _ask(path: Path, target: str, answer: type[_Answer]) -> _Answer:
    connection = _UnixConnection(path)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        body = response.read()
    except PermissionError:
        message = f"no permission to ask the agent at {path}; run this as the agent's own user"
        raise AgentUnreachableError(message) from None
    except TimeoutError:
        raise AgentUnreachableError(f"the agent at {path} did not answer within {_TIMEOUT:g} s") from None
    except (OSError, http.client.HTTPException):
        message = f"no agent answers at {path}; is it running? Name another socket with --state-socket"
        raise AgentUnreachableError(message) from None
    finally:
        connection.close()
    try:
        if response.status == http.HTTPStatus.OK:
            return msgspec.json.decode(body, type=answer)
        reason = msgspec.json.decode(body, type=ErrorState).error
    except msgspec.DecodeError:
        reason = f"what answers at {path} is not an agent of this version"
    raise AgentUnreachableError(reason)
