"""What `examples/` says works as it says."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from spliceway.model import Address
from support.agentprocess import PATIENCE, EchoBackend, cli, free_vip, round_trip

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_examples_are_without_fault() -> None:
    """Users would copy a broken manifest."""
    result = cli("check", str(EXAMPLES))
    assert result.returncode == 0, result.stdout
    assert "0 errors, 0 warnings" in result.stdout
    assert "1 Service, 3 endpoints, 1 frontend" in result.stdout


def test_gateway_balances_and_drains() -> None:
    """The first program that a user writes after the example would not work."""
    with EchoBackend() as backend:
        vip = free_vip()
        dead = Address("127.0.0.2", backend.address.port)
        command = [sys.executable, str(EXAMPLES / "gateway.py"), str(vip), str(backend.address), str(dead)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"serving {vip}\n"
            for _ in range(10):
                assert round_trip(vip) == b"ping"
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert "10 flows, " in output
    assert errors == ""


def test_gateway_explains_a_mistake() -> None:
    """The example would teach tracebacks."""
    command = [sys.executable, str(EXAMPLES / "gateway.py"), "127.0.0.1:99999", "127.0.0.1:1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert "99999" in result.stderr
