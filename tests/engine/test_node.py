"""The agent in one process: signals, manifests, engine. A failure cuts clients at every restart of the agent."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import socket
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from spliceway.errors import SourceError
from spliceway.model import Address, Problem
from spliceway.node import filelimit, problemlog
from spliceway.node.agent import run_agent
from spliceway.node.filelimit import fit_to_files
from spliceway.pipeline import Pipeline
from spliceway.settings import AdminSettings, EngineSettings, Settings, SourceSettings


def manifest(vip: Address, pod: Address) -> str:
    """Service default/shop with one Pod."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "shop"},
        "spec": {"clusterIP": vip.host, "ports": [{"port": vip.port}]},
    }
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "shop-0", "labels": {"kubernetes.io/service-name": "shop"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": pod.port}],
        "endpoints": [{"addresses": [pod.host]}],
    }
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, piece]})


def settings(path: Path, shutdown: float = 60.0) -> Settings:
    return Settings(
        source=SourceSettings(manifests=(path,)), admin=AdminSettings(healthz=None, metrics=None), shutdown=shutdown
    )


@pytest.fixture
def vip() -> Address:
    with socket.create_server(("127.64.0.2", 0)) as free:
        return Address(*free.getsockname())


async def start(nursery: trio.Nursery, wanted: Settings) -> Pipeline:
    pipeline = await nursery.start(partial(run_agent, wanted))
    assert isinstance(pipeline, Pipeline)
    with trio.fail_after(10):
        await pipeline.wait_ready()
    return pipeline


async def test_sigterm_lets_flows_end_and_a_second_one_does_not(
    tmp_path: Path, vip: Address, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spliceway")
    path = tmp_path / "shop.json"
    with socket.create_server(("127.0.0.1", 0)) as pod:
        path.write_text(manifest(vip, Address(*pod.getsockname())))
        for second in (False, True):
            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    pipeline = await start(nursery, settings(path))
                    stream = await trio.open_tcp_stream(*vip)
                    backend, _ = await trio.to_thread.run_sync(pod.accept)
                    os.kill(os.getpid(), signal.SIGHUP)
                    os.kill(os.getpid(), signal.SIGTERM)
                    while pipeline.counters().listeners:
                        await trio.lowlevel.checkpoint()
                    assert pipeline.draining()
                    with pytest.raises(OSError, match="all attempts to connect"):
                        await trio.open_tcp_stream(*vip)
                    with backend:
                        backend.sendall(b"late")
                        assert await stream.receive_some(4) == b"late"
                        if second:
                            os.kill(os.getpid(), signal.SIGINT)
                            with pytest.raises(trio.BrokenResourceError):
                                await stream.receive_some(1)
                    await stream.aclose()
    lines = caplog.text
    for expected in (
        f"Frontend {vip} (default/shop) serves",
        "ready: generation 1, 1 of 1 frontends serve",
        "SIGHUP: nothing to do",
        "SIGTERM: no new connections; open connections have 60 s to end",
        "SIGINT again: ending at once",
        "stopped",
    ):
        assert expected in lines


async def test_problems_are_logged_when_they_come_and_go(
    tmp_path: Path, vip: Address, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who reads only the log must learn that a port is taken, and when it is not any more."""
    caplog.set_level(logging.INFO, "spliceway")
    monkeypatch.setattr(problemlog, "LOG_INTERVAL", 0.001)
    path = tmp_path / "shop.json"
    path.write_text(manifest(vip, Address("127.0.0.1", 1)))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            with socket.create_server(vip):
                pipeline = await start(nursery, msgspec.structs.replace(settings(path), rebind_interval=0.01))
            subject = f"Frontend {vip} (default/shop): cannot listen"
            while f"resolved: {subject}" not in caplog.text:
                await trio.lowlevel.checkpoint()
            assert f"{subject}: address already in use" in caplog.text
            assert pipeline.problems() == ()
            os.kill(os.getpid(), signal.SIGTERM)


def test_thousands_of_problems_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    problemlog.log_problems([Problem("Service default/shop", f"problem {number}") for number in range(1000)], "")
    assert len(caplog.records) == problemlog.LOG_LINES + 1
    assert "and 980 more problems" in caplog.records[-1].message


async def test_a_source_that_cannot_be_opened_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        await run_agent(settings(tmp_path / "none.yaml"))


def test_the_file_limit_is_raised() -> None:
    """The default soft limit of 1024 would end at about 500 flows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        assert filelimit.raise_file_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("files", [8, 64, 256, 1024, 20_000, 1_048_576])
def test_flows_leave_files_for_everything_else(files: int, caplog: pytest.LogCaptureFixture) -> None:
    """At the limit of open files, `status` and probes would time out, and no new frontend could be opened."""
    caplog.set_level(logging.INFO, "spliceway")
    fitted = fit_to_files(EngineSettings(max_flows=10_000_000), files)
    left = files - 2 * fitted.max_flows - fitted.max_sessions - 2 * fitted.max_pipes
    assert fitted.max_flows >= files // 7
    assert fitted.max_sessions >= files // 7
    assert left >= min(files * 3 // 8, filelimit.RESERVED_FILES * 3 // 4)
    assert [record.message for record in caplog.records] == [
        f"the limit of {files} open files allows {fitted.max_flows} connections at once, not 10000000",
        f"the limit of {files} open files allows {fitted.max_sessions} UDP sessions at once, not 1000000",
    ]


def test_flows_that_fit_are_not_bounded_further(caplog: pytest.LogCaptureFixture) -> None:
    """A bound that the user chose would change, or the log would warn of nothing."""
    caplog.set_level(logging.INFO, "spliceway")
    chosen = EngineSettings(max_flows=1000, max_sessions=1000)
    assert fit_to_files(chosen, 1_048_576) == chosen
    assert fit_to_files(chosen, resource.RLIM_INFINITY) == chosen
    assert not caplog.records
