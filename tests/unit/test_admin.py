"""The admin side over real sockets: right answers, and no client that can take them away from the others."""

from __future__ import annotations

import json
import logging
import re
import socket
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

from spliceway.errors import FrontendError, SettingsError
from spliceway.model import Address, Frontend, FrontendState, SourceStatistics
from spliceway.observe import listening
from spliceway.observe.admin import Admin, AdminAddresses, AdminContext, serve_admin
from spliceway.observe.http import MAX_HEAD, Request
from spliceway.observe.proxyhealth import ProxyHealth
from spliceway.observe.statesocket import state_socket
from spliceway.settings import AdminSettings, Settings, SourceSettings
from support.fakeobserved import KEY, POOL, VIP, FakeObserved, engine_counters, pool_counters

#: their metrics fill every buffer of a socket, and are quickly made
LONG_POOLS = tuple(pool_counters(f"default/{str(number) * 50_000}:http", flows=1) for number in range(10))
LOOPBACK = Address("127.0.0.1", 0)


@asynccontextmanager
async def serving(observed: FakeObserved, *, on_node: bool = False, **settings: Any) -> AsyncIterator[AdminAddresses]:
    admin = AdminSettings(**({"healthz": LOOPBACK, "metrics": LOOPBACK} | settings))
    context = AdminContext(ProxyHealth(observed, on_node=on_node), Settings(admin=admin))
    async with trio.open_nursery() as nursery:
        with trio.fail_after(30):
            yield await nursery.start(serve_admin, observed, admin, context)
        nursery.cancel_scope.cancel()


async def connect(where: Address | Path | None) -> trio.SocketStream:
    assert where is not None
    if isinstance(where, Address):
        return await trio.open_tcp_stream(where.host, where.port)
    return await trio.open_unix_socket(str(where))


async def exchange(stream: trio.SocketStream, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """One request and its response on a connection that may be used again."""
    client = h11.Connection(h11.CLIENT)
    await stream.send_all(client.send(h11.Request(method=method, target=path, headers=[("Host", "x")])) or b"")
    await stream.send_all(client.send(h11.EndOfMessage()) or b"")
    status, headers, body = 0, {}, b""
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            assert isinstance(event, h11.EndOfMessage)
            return status, headers, body


async def ask(where: Address | Path | None, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    async with await connect(where) as stream:
        return await exchange(stream, path, method)


async def until_closed(stream: trio.SocketStream) -> bytes:
    received = b""
    try:
        while data := await stream.receive_some():
            received += data
    except trio.BrokenResourceError:
        pass
    return received


async def test_ready_from_the_first_state_until_shutdown() -> None:
    """A rollout would send clients to an agent that serves nothing yet, or that is leaving."""
    observed = FakeObserved()
    observed.is_ready = False
    observed.source_list = (SourceStatistics("services", True, 0.0), SourceStatistics("endpointslices", False, 0.0))
    async with serving(observed) as addresses:
        status, _, body = await ask(addresses.healthz, "/readyz")
        assert status == 503
        assert json.loads(body) == {"ready": False, "reason": "waiting for endpointslices"}
        assert (await ask(addresses.healthz, "/livez"))[0] == 200
        observed.is_ready = True
        assert (await ask(addresses.healthz, "/readyz"))[0] == 200
        observed.is_draining = True
        status, _, body = await ask(addresses.healthz, "/readyz")
        assert (status, json.loads(body)["reason"]) == (503, "draining")
        assert (await ask(addresses.healthz, "/livez"))[0] == 200


async def test_not_ready_while_the_kernel_refuses_the_packet_rules() -> None:
    """A rollout would replace the agents of all nodes by such that capture nothing."""
    holds = [False]
    observed = FakeObserved()
    context = AdminContext(ProxyHealth(observed, on_node=True, holds=lambda: holds[0]), Settings())
    admin = Admin(observed, context)
    request = Request("GET", "/readyz", {}, "")
    refused = await admin.health(request)
    assert (refused.status, json.loads(refused.body)["reason"]) == (503, "the packet rules are not as they should be")
    holds[0] = True
    assert (await admin.health(request)).status == 200


async def test_metrics_address_answers_what_tools_ask() -> None:
    """Tests and tools of Kubernetes would not find out what proxy runs, or with which settings (H-14, H-15)."""
    async with serving(FakeObserved()) as addresses:
        status, headers, body = await ask(addresses.metrics, "/proxyMode")
        assert (status, body, headers["content-type"]) == (200, b"spliceway", "text/plain; charset=utf-8")
        status, _, body = await ask(addresses.metrics, "/healthz")
        assert (status, body) == (200, b"ok")
        status, headers, body = await ask(addresses.metrics, "/configz")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(body)["spliceway"]["capture"]["mode"] == "bind"
        assert (await ask(addresses.metrics, "/readyz"))[0] == 404
        assert (await ask(addresses.healthz, "/metrics"))[0] == 404


async def test_settings_with_paths_are_told(tmp_path: Path) -> None:
    """An agent with a kubeconfig could not tell its settings."""
    observed = FakeObserved()
    settings = Settings(source=SourceSettings(kubeconfig=tmp_path / "config"))
    admin = Admin(observed, AdminContext(ProxyHealth(observed, on_node=False), settings))
    response = await admin.metrics(Request("GET", "/configz", {}, ""))
    assert json.loads(response.body)["spliceway"]["source"]["kubeconfig"] == str(tmp_path / "config")


async def test_metrics_are_exposed() -> None:
    """Nothing could be graphed."""
    observed = FakeObserved()
    observed.engine = engine_counters(pools=(pool_counters(flows=5),))
    async with serving(observed) as addresses:
        status, headers, body = await ask(addresses.metrics, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert b'spliceway_flows_total{namespace="default",port="http",service="shop"} 5.0' in body


async def test_wrong_paths_and_methods() -> None:
    """A typo in a probe's path would look like health, or a crawler's POST would change something."""
    async with serving(FakeObserved()) as addresses:
        assert (await ask(addresses.healthz, "/healthy"))[0] == 404
        status, headers, _ = await ask(addresses.metrics, "/metrics", "DELETE")
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        status, headers, body = await ask(addresses.healthz, "/readyz", "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["content-length"]) > 0


async def test_connection_is_kept_for_the_next_scrape() -> None:
    """Each scrape would cost a connection."""
    async with serving(FakeObserved()) as addresses, await connect(addresses.healthz) as stream:
        for path, expected in (("/readyz", 200), ("/nothing", 404), ("/healthz", 200)):
            assert (await exchange(stream, path))[0] == expected


async def test_state_is_not_served_over_tcp(tmp_path: Path) -> None:
    """Anybody on the network would read the names and addresses of all Services."""
    path = tmp_path / "s.sock"
    async with serving(FakeObserved(), socket=path) as addresses:
        assert (await ask(addresses.healthz, "/state"))[0] == 404
        assert (await ask(addresses.healthz, f"/explain?frontend={VIP}&client=10.0.0.9:1"))[0] == 404
        status, _, body = await ask(path, "/state")
        assert status == 200
        state = json.loads(body)
        assert state["generation"] == 7
        assert state["services"][0]["pool"] == POOL
        assert state["services"][0]["frontends"] == [{"address": str(VIP), "state": "serving", "message": ""}]
        assert state["unhealthy"][0]["reason"] == "connection refused"
        assert (await ask(path, "/readyz"))[0] == 200


async def test_explain(tmp_path: Path) -> None:
    """Nobody could find out why a client went where it went."""
    observed = FakeObserved()
    path = tmp_path / "s.sock"
    async with serving(observed, socket=path, healthz=None, metrics=None) as addresses:
        assert addresses == AdminAddresses(None, None, path)
        status, _, body = await ask(path, f"/explain?frontend={VIP}&client=10.0.0.9:4711")
        answer = json.loads(body)
        assert (status, answer["pool"], answer["state"]) == (200, POOL, "serving")
        assert answer["candidates"][0]["address"] == "127.0.0.11:9001"
        assert observed.explained == [(KEY, Address("10.0.0.9", 4711))]

        status, _, body = await ask(path, "/explain?frontend=127.64.0.10:81&client=10.0.0.9:4711")
        assert status == 404
        assert json.loads(body)["error"] == f"Nothing is served at 127.64.0.10:81; near it: {VIP}."
        status, _, body = await ask(path, "/explain?frontend=shop&client=10.0.0.9:4711")
        assert (status, "'shop' is not ADDRESS:PORT" in json.loads(body)["error"]) == (400, True)
        status, _, body = await ask(path, f"/explain?frontend={VIP}&client=%5Bfe80::1%25lo%5D:1")
        assert (status, "fe80::1%lo" in json.loads(body)["error"]) == (400, True)

        observed.frontend_map = {KEY: FrontendState(Frontend(VIP, POOL), "failed", "in use")}
        status, _, body = await ask(path, f"/explain?frontend={VIP}&client=10.0.0.9:4711")
        assert (status, json.loads(body)["message"]) == (200, "in use")
        observed.frontend_map = {KEY: FrontendState(Frontend(VIP, POOL), "dropping", "no endpoint here")}
        answer = json.loads((await ask(path, f"/explain?frontend={VIP}&client=10.0.0.9:4711"))[2])
        assert (answer["state"], answer["message"], answer["client_class"]) == ("dropping", "no endpoint here", "EXT")
        assert (answer["pool"], answer["candidates"]) == (POOL, [])


async def test_slow_and_silent_clients_block_nobody() -> None:
    """One client that opens connections and says nothing would hide the agent from its probes."""
    async with serving(FakeObserved(), max_connections=4) as addresses:
        silent = [await connect(addresses.healthz) for _ in range(20)]
        for stream in silent[::2]:
            try:
                await stream.send_all(b"GET /metrics HTT")
            except trio.BrokenResourceError:
                continue
        for _ in range(5):
            assert (await ask(addresses.healthz, "/readyz"))[0] == 200
        _, _, body = await ask(addresses.metrics, "/metrics")
        dropped = [line for line in body.splitlines() if line.startswith(b"spliceway_admin_dropped_connections_total")]
        assert float(dropped[0].split()[1]) >= 16
        for stream in silent:
            await stream.aclose()


async def test_silent_connection_is_closed_after_the_timeout() -> None:
    """Forgotten connections would hold descriptors for ever."""
    async with serving(FakeObserved(), timeout=0.1) as addresses, await connect(addresses.healthz) as stream:
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nHos")
        assert await until_closed(stream) == b""


async def test_client_that_does_not_read_is_cut_off() -> None:
    """A stalled scraper would hold a big response in memory for ever."""
    observed = FakeObserved()
    observed.engine = engine_counters(pools=LONG_POOLS)
    async with serving(observed, timeout=1.0, max_connections=2) as addresses:
        stalled = await connect(addresses.metrics)
        stalled.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await stalled.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await ask(addresses.healthz, "/livez"))[0] == 200
        await trio.sleep(1.5)
        head, _, body = (await until_closed(stalled)).partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is None or len(body) < int(length[1])
        await stalled.aclose()
        assert (await ask(addresses.healthz, "/livez"))[0] == 200


async def test_clients_that_do_not_read_make_room_for_the_next() -> None:
    """A handful of stalled scrapers would hide the agent from its probes for 10 s, and get it restarted."""
    observed = FakeObserved()
    observed.engine = engine_counters(pools=LONG_POOLS)
    async with serving(observed, timeout=60.0, max_connections=2) as addresses:
        stalled = [await connect(addresses.metrics) for _ in range(2)]
        for stream in stalled:
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await stream.receive_some(9)) == b"HTTP/1.1 "
        with trio.fail_after(10):
            assert (await ask(addresses.metrics, "/healthz"))[0] == 200
        for stream in stalled:
            await stream.aclose()


async def test_answers_under_way_make_room_for_the_next() -> None:
    """Scrapers that ask for more than the agent can compute would keep its probes out."""
    observed = FakeObserved()
    asked = threading.Semaphore(0)
    goes_on = threading.Event()

    def slow_counters(*, all_pools: bool = True) -> Any:
        asked.release()
        goes_on.wait(20)
        return engine_counters()

    observed.counters = slow_counters  # type: ignore[method-assign]
    async with serving(observed, timeout=60.0, max_connections=2) as addresses:
        scrapers = [await connect(addresses.metrics) for _ in range(2)]
        try:
            for stream in scrapers:
                await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                await trio.to_thread.run_sync(asked.acquire)
            with trio.fail_after(10):
                assert (await ask(addresses.metrics, "/healthz"))[0] == 200
                assert await until_closed(scrapers[0]) == b""
        finally:
            goes_on.set()
        assert (await scrapers[1].receive_some(12)) == b"HTTP/1.1 200"
        for stream in scrapers:
            await stream.aclose()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * (MAX_HEAD * 4) + b"\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\nabc",
        b"POST /readyz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_garbage_is_refused_and_the_next_client_served(garbage: bytes) -> None:
    """Anybody could take the health endpoints down with one packet."""
    async with serving(FakeObserved()) as addresses:
        async with await connect(addresses.healthz) as stream:
            await stream.send_all(garbage)
            answer = await until_closed(stream)
        assert answer.startswith(b"HTTP/1.1 4")
        assert (await ask(addresses.healthz, "/readyz"))[0] == 200


async def test_failing_answer_is_a_500_and_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """One bug in a counter would end the whole agent."""
    observed = FakeObserved()
    observed.engine = None
    async with serving(observed) as addresses:
        with caplog.at_level(logging.CRITICAL + 1):
            assert (await ask(addresses.metrics, "/metrics"))[0] == 500
        assert (await ask(addresses.healthz, "/readyz"))[0] == 200


async def test_taken_port_is_tried_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An agent would exit, or stay invisible, because its predecessor took a moment to leave (H-11)."""
    monkeypatch.setattr(listening, "REBIND_INTERVAL", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = Address(*holder.getsockname())
        async with serving(FakeObserved(), healthz=address) as addresses:
            assert addresses.healthz is None
            assert "address already in use" in caplog.text
            holder.close()
            while True:
                try:
                    assert (await ask(address, "/livez"))[0] == 200
                    break
                except OSError:
                    await trio.sleep(0.01)
    assert caplog.text.count("already in use") == 1


async def test_ipv6_wildcard_answers_both_families() -> None:
    """A probe over IPv4 would fail on an agent that listens on [::] (H-11)."""
    async with serving(FakeObserved(), healthz=Address("::", 0)) as addresses:
        assert addresses.healthz is not None
        assert (await ask(Address("127.0.0.1", addresses.healthz.port), "/livez"))[0] == 200
        assert (await ask(Address("::1", addresses.healthz.port), "/livez"))[0] == 200


async def test_ipv4_wildcard_answers_both_families() -> None:
    """A load balancer would find no health check over IPv6 (H-11)."""
    async with serving(FakeObserved(), healthz=Address("0.0.0.0", 0)) as addresses:
        assert addresses.healthz is not None
        assert addresses.healthz.host == "0.0.0.0"
        assert (await ask(Address("127.0.0.1", addresses.healthz.port), "/livez"))[0] == 200
        assert (await ask(Address("::1", addresses.healthz.port), "/livez"))[0] == 200


async def test_taken_port_ends_the_agent_when_told_so() -> None:
    """An operator who wants a restart over a blind agent would get the blind agent (--bind-address-hard-fail)."""
    told: list[str] = []
    observed = FakeObserved()
    with socket.create_server(("127.0.0.1", 0)) as holder:
        admin = AdminSettings(healthz=None, metrics=Address(*holder.getsockname()), hard_fail=True)
        context = AdminContext(ProxyHealth(observed, on_node=False), Settings(), on_failure=told.append)
        with pytest.RaisesGroup(pytest.RaisesExc(FrontendError, match="cannot listen: address already in use")):
            await serve_admin(observed, admin, context)
    assert len(told) == 1


async def test_state_socket_is_private_and_removed(tmp_path: Path) -> None:
    """Other users of the machine would read the state, or a dead socket would stay behind."""
    path = tmp_path / "run" / "spliceway" / "state.sock"
    async with serving(FakeObserved(), socket=path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()


async def test_second_agent_is_refused(tmp_path: Path) -> None:
    """Two agents would fight for the same frontends, and `status` would ask the wrong one."""
    path = tmp_path / "s.sock"
    async with serving(FakeObserved(), socket=path):
        with pytest.raises(SettingsError, match="another agent answers there"), state_socket(path):
            pass
        assert (await ask(path, "/readyz"))[0] == 200
