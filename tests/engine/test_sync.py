"""The synchronous engine. A failure breaks programs that use threads or no concurrency at all."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from spliceway import Engine, EngineError, FrontendError, SettingsError
from spliceway.model import Address


@contextmanager
def backend(name: bytes) -> Iterator[str]:
    """A TCP backend in a thread that says its name and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.sendall(name)

        thread = threading.Thread(target=serve)
        thread.start()
        yield "{}:{}".format(*listener.getsockname())
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def ask(address: Address) -> bytes:
    with socket.create_connection(address, timeout=10) as client:
        return client.recv(100)


def test_serves_updates_drains_and_closes() -> None:
    with backend(b"a") as a, backend(b"b") as b, Engine(workers=1) as engine:
        service = engine.serve("127.0.0.1:0", [a], retry={"tries": 2})
        assert ask(service.address) == b"a"
        service.update([b])
        assert ask(service.address) == b"b"
        assert service.statistics().flows == 2
        assert engine.counters().listeners == 1
        service.drain(1.0)
        with pytest.raises(ConnectionRefusedError):
            ask(service.address)
        service.close()
        service.close()
        for call in (service.statistics, lambda: service.update([a])):
            with pytest.raises(EngineError, match="is not served any more"):
                call()


def test_it_may_be_used_from_many_threads() -> None:
    """A web server's threads change pools at the same time; none may get lost."""
    with backend(b"a") as a, Engine(workers=1) as engine:
        services = []

        def work() -> None:
            for _ in range(10):
                service = engine.serve("127.0.0.1:0", [])
                service.update([a])
                services.append(service)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [ask(service.address) for service in services] == [b"a"] * 80
        assert engine.counters().generation == 160


def test_of_many_threads_that_serve_one_name_one_does() -> None:
    barrier = threading.Barrier(8)
    outcomes: list[str] = []

    def work(engine: Engine) -> None:
        barrier.wait()
        try:
            outcomes.append(engine.serve("127.0.0.1:0", ["127.0.0.1:1"], name="web").pool)
        except SettingsError:
            outcomes.append("taken")

    with Engine(workers=1) as engine:
        threads = [threading.Thread(target=work, args=(engine,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["taken"] * 7 + ["web"]
        assert engine.counters().listeners == 1


def test_errors_name_what_is_wrong_and_leave_the_rest() -> None:
    with backend(b"a") as a, Engine(workers=1) as engine:
        service = engine.serve("127.0.0.1:0", [a], name="web")
        with pytest.raises(SettingsError, match="name: a pool named 'web' is served already"):
            engine.serve("127.0.0.1:0", [a], name="web")
        with pytest.raises(FrontendError, match="address already in use"):
            engine.serve(service.address, [a])
        with pytest.raises(SettingsError, match="balance: 'best'"):
            engine.serve("127.0.0.1:0", [a], balance="best")
        assert engine.counters().listeners == 1
        assert ask(service.address) == b"a"
        with pytest.raises(EngineError):
            engine.start()
    with pytest.raises(EngineError):
        engine.serve("127.0.0.1:0", [])
    with pytest.raises(EngineError, match="engine settings: "):
        Engine(workers=-1)


def test_importing_the_package_starts_and_loads_nothing() -> None:
    """A command-line tool that imports spliceway must not pay for Trio or the Kubernetes client."""
    script = (
        "import sys, threading, spliceway\n"
        "heavy = {'trio', 'kubernetes', 'yaml', 'msgspec', 'spliceway._engine'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert threading.active_count() == 1\n"
        "assert spliceway.Engine and 'kubernetes' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
