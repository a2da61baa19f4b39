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


def test_a_handle_acts_on_its_own_service_only() -> None:
    """Closing a service twice, as clean-up code does, must not cut off the one that has its address or name now."""
    with backend(b"a") as a, Engine(workers=1) as engine:
        old = engine.serve("127.0.0.1:0", [a])
        old.close()
        new = engine.serve(old.address, [a])
        assert new.pool == old.pool
        old.close()
        for call in (old.statistics, old.drain, lambda: old.update([])):
            with pytest.raises(EngineError, match="is not served any more"):
                call()
        assert ask(new.address) == b"a"
        assert new.statistics().flows == engine.pool_counters(new.pool).flows == 1


def test_a_drained_service_is_closed_without_its_successor() -> None:
    """The listener of a drained service is gone; closing it later must not hit a listener that came after it."""
    with backend(b"a") as a, Engine(workers=1) as engine:
        old = engine.serve("127.0.0.1:0", [a], name="old")
        old.drain(1.0)
        new = engine.serve("127.0.0.1:0", [a], name="new")
        old.close()
        assert ask(new.address) == b"a"


def test_closing_a_service_after_its_engine_does_nothing() -> None:
    """Handles are often closed last, by a stack of their own."""
    with Engine(workers=1) as engine:
        service = engine.serve("127.0.0.1:0", ["127.0.0.1:1"])
    service.close()
    with pytest.raises(EngineError):
        service.statistics()


def test_backends_that_lead_back_to_the_engine_are_refused() -> None:
    """One connection to such a loop would use up all file descriptors."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Engine(workers=1) as engine:
        with pytest.raises(SettingsError, match=r"backends\[0\]: 127.0.0.1:.* is a loop"):
            engine.serve(("127.0.0.1", port), [("127.0.0.1", port)])
        first = engine.serve("127.0.0.1:0", ["127.0.0.1:1"])
        second = engine.serve("0.0.0.0:0", ["127.0.0.1:1"])
        for call in (
            lambda: first.update([first.address]),
            lambda: second.update(["127.0.0.1:2", first.address]),
            lambda: first.update([("127.0.0.7", second.address.port)]),
            lambda: first.update([("::ffff:127.0.0.1", second.address.port)]),
            lambda: engine.serve("127.0.0.1:0", [first.address]),
        ):
            with pytest.raises(SettingsError, match="is a loop"):
                call()
        assert engine.counters().listeners == 2
        first.update([("192.0.2.1", second.address.port)])  # the same port of another machine


def test_wrong_arguments_are_named() -> None:
    with Engine(workers=1) as engine:
        service = engine.serve("127.0.0.1:0", [])
        for call in (
            lambda: service.drain(float("nan")),
            lambda: engine.drain(-1.0),
            lambda: engine.take_events(-1),
            lambda: engine.serve("127.0.0.1:0", [], drain=float("inf")),
            lambda: engine.serve("127.0.0.1:0", [], name="\udc80"),
            lambda: engine.serve("127.0.0.1:0", [], retry={"tries": 2**70}),
            lambda: engine.close(float("nan")),
        ):
            with pytest.raises(SettingsError):
                call()
        with pytest.raises(EngineError, match="pool nope is not served"):
            engine.drain(1.0, "nope")
        assert engine.counters().listeners == 1


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
