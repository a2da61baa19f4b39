"""The demo that the README promises."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.agentprocess import PATIENCE, cli, free_vip

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop.yaml"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The example on addresses that a demo beside the tests does not use."""
    vip, backend = free_vip(), free_vip()
    text = EXAMPLE.read_text().replace("port: 8080", f"port: {vip.port}")
    text = text.replace("ort: 9001", f"ort: {backend.port}")
    assert str(vip.port) in text
    path = tmp_path / "shop.yaml"
    path.write_text(text)
    return path


def test_demo_shows_no_client_error(manifest: Path) -> None:
    """The first thing that a new user runs would fail."""
    result = cli("demo", "--manifest", str(manifest))
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 client-visible errors" in result.stdout
    table = {line.split("  ")[0].strip(): line for line in result.stdout.splitlines()}
    assert " 0% " in table["pod-1 killed"]
    assert table["pod-3 removed"].count(" 0% ") == 1
    assert result.stderr == ""


def test_taken_port_is_explained(manifest: Path) -> None:
    """Who runs something on that port would get a demo that fails without a reason."""
    port = int(manifest.read_text().split("targetPort: ")[1].split()[0])
    with socket.create_server(("127.0.0.12", port)):
        result = cli("demo", "--manifest", str(manifest))
    assert result.returncode == 1
    assert "pod-2 cannot listen on 127.0.0.12" in result.stderr
    assert "Traceback" not in result.stderr


def test_reader_that_leaves_ends_the_demo(manifest: Path) -> None:
    """`spliceway demo | head -1` would end in a traceback, or leave processes behind."""
    command = [sys.executable, "-m", "spliceway", "demo", "--manifest", str(manifest)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        agent = int(process.stdout.readline().split("agent pid ")[1].split()[0])
        process.stdout.close()
        process.wait(PATIENCE)
        assert process.stderr.read() == ""
    assert not Path(f"/proc/{agent}").exists()


def test_ctrl_c_leaves_nothing_behind(manifest: Path, tmp_path: Path) -> None:
    """An interrupted demo would keep its ports, and the next one would fail."""
    command = [sys.executable, "-m", "spliceway", "demo", "--manifest", str(manifest)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        agent = int(line.split("agent pid ")[1].split()[0])
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 1
        assert "Traceback" not in process.stderr.read()
    assert not Path(f"/proc/{agent}").exists()
    port = int(manifest.read_text().split("targetPort: ")[1].split()[0])
    for host in ("127.0.0.11", "127.0.0.12", "127.0.0.13"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port))
