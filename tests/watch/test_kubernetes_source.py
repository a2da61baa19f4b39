"""The Kubernetes source against an API server that misbehaves: what it tells must add up to what the server has."""

from __future__ import annotations

import datetime
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from kubernetes.config import incluster_config

from spliceway.model import EndpointSlice, Fact, Problems, Service
from spliceway.settings import SourceSettings
from spliceway.source import watch
from spliceway.source.api import Access, UnreachableError
from support import fakeapi
from support.fakeapi import LIST_FAULTS, SERVICES, SLICES, WATCH_FAULTS, FakeApi, endpoint_slice, service
from support.fold import Fold, folded
from support.watching import same, source_of, versions, watching

LABELS = {"kubernetes.io/service-name": "shop"}
SEEDS = range(12)
POD_ENVIRONMENT = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


async def test_lists_then_watches(any_api: FakeApi, tmp_path: Path) -> None:
    """Lost: everything that a cluster says."""
    api = any_api
    api.put(SERVICES, "shop", service())
    api.put(SLICES, "shop-1", endpoint_slice("10.0.0.1"), labels=LABELS)
    async with folded(source_of(api, tmp_path)) as fold:
        assert same(fold, api)
        assert {type(made) for made in fold.objects.values()} == {Service, EndpointSlice}
        await watching(api)
        api.put(SERVICES, "shop", service(81))
        api.put(SERVICES, "cart", service())
        api.delete(SLICES, "shop-1")
        await fold.until(lambda: same(fold, api))
        assert api.count("list") == 1
        assert fold.said() == []


async def test_what_is_asked_for(api: FakeApi, tmp_path: Path) -> None:
    """Lost: Services of another proxy (S-01), headless slices (S-02), bookmarks, or the server's memory (pages)."""
    async with folded(source_of(api, tmp_path)):
        await watching(api)
    for request in api.requests:
        if request.path == SERVICES:
            assert request.query["labelSelector"] == "!service.kubernetes.io/service-proxy-name"
            assert request.query["fieldSelector"] == "spec.clusterIP!=None"
        else:
            assert request.query["labelSelector"] == "!service.kubernetes.io/headless"
        assert request.token == "secret"
        if request.verb == "list":
            assert request.query["limit"] == "500"
        else:
            assert request.query["allowWatchBookmarks"] == "true"
            assert request.query["timeoutSeconds"] in ("4", "5", "6")


async def test_many_pages(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: all but the first 500 objects."""
    monkeypatch.setattr(watch, "PAGE", 7)
    for n in range(50):
        api.put(SERVICES, f"s{n}", service())
    async with folded(source_of(api, tmp_path)) as fold:
        assert same(fold, api)
        assert api.count("list") == 8


async def test_page_token_that_expired(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: a list that takes too long would never be completed."""
    monkeypatch.setattr(watch, "PAGE", 7)
    for n in range(20):
        api.put(SERVICES, f"s{n}", service())
    api.faults["list"].extend(["", "", "410", "", "410"])
    async with folded(source_of(api, tmp_path)) as fold:
        assert same(fold, api)


@pytest.mark.parametrize("fault", WATCH_FAULTS)
async def test_one_fault_of_a_watch(api: FakeApi, tmp_path: Path, fault: str) -> None:
    """Lost: after this fault, changes would not arrive any more, or arrive wrong."""
    api.put(SERVICES, "shop", service())
    api.faults["watch"].extend([fault] * 4)
    async with folded(source_of(api, tmp_path)) as fold:
        for port in range(81, 90):
            api.put(SERVICES, "shop", service(port))
            api.put(SLICES, "shop-1", endpoint_slice(f"10.0.0.{port}"), labels=LABELS)
            await fold.until(lambda: same(fold, api))
        api.delete(SERVICES, "shop")
        await fold.until(lambda: same(fold, api))


@pytest.mark.parametrize("fault", LIST_FAULTS)
async def test_one_fault_of_a_list(api: FakeApi, tmp_path: Path, fault: str) -> None:
    """Lost: the agent would not start because the API server was busy for a moment."""
    api.put(SERVICES, "shop", service())
    api.faults["list"].extend([fault] * 4)
    async with folded(source_of(api, tmp_path)) as fold:
        assert same(fold, api)
        await fold.until(lambda: fold.said() == [])


@pytest.mark.parametrize("seed", SEEDS)
async def test_any_sequence_of_faults(api: FakeApi, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: traffic to Pods that are gone, after some rare order of faults."""
    choose = random.Random(seed)
    monkeypatch.setattr(watch, "PAGE", 5)
    api.stall = 0.1
    async with folded(source_of(api, tmp_path, watch_timeout=1.0), wait=False) as fold:
        for _ in range(60):
            path = choose.choice([SERVICES, SLICES])
            name = f"n{choose.randrange(12)}"
            action = choose.random()
            if action < 0.45:
                body = service(choose.randrange(1, 65536)) if path == SERVICES else endpoint_slice("10.0.0.1")
                api.put(path, name, body, labels=LABELS)
            elif action < 0.6:
                api.delete(path, name)
            elif action < 0.8:
                api.faults["watch"].append(choose.choice(WATCH_FAULTS))
            elif action < 0.9:
                api.faults["list"].append(choose.choice(LIST_FAULTS))
            elif action < 0.95:
                api.cut()
            else:
                api.forget()
            await trio.sleep(choose.choice([0, 0, 0.005, 0.02]))
        await fold.until(lambda: same(fold, api) and len(fold.synced) == 2, 30)
        api.put(SERVICES, "last", service())  # and it still listens
        await fold.until(lambda: same(fold, api), 30)


async def test_only_a_forgotten_version_makes_a_new_list(api: FakeApi, tmp_path: Path) -> None:
    """Lost: after every hiccup, 10,000 agents would list everything at once."""
    api.put(SERVICES, "shop", service())
    api.faults["watch"].extend(["reset", "error", "500", "garbage"] * 2)
    async with folded(source_of(api, tmp_path)) as fold:
        await watching(api, 4)
        api.put(SERVICES, "cart", service())
        await fold.until(lambda: same(fold, api))
        assert api.count("list") == 1
        lists = fold.lists
        api.forget()
        api.put(SERVICES, "late", service())
        api.cut()
        await fold.until(lambda: same(fold, api) and fold.lists == lists + 2)
        assert api.count("list") == 2


async def test_vanished_while_away(api: FakeApi, tmp_path: Path) -> None:
    """Lost: objects deleted while the API server was away would be served for ever."""
    for name in ("a", "b", "c"):
        api.put(SERVICES, name, service())
    source = source_of(api, tmp_path)
    async with folded(source) as fold:
        await watching(api)
        await trio.to_thread.run_sync(api.stop)
        api.delete(SERVICES, "b")
        api.forget()
        await fold.until(lambda: sum("cannot be used" in said for said in fold.said()) == 2)
        assert fold.names() == {"a", "b", "c"}, "silence keeps the last state"
        statistics = source.statistics()[0]
        await trio.sleep(0.05)
        assert source.statistics()[0].staleness >= statistics.staleness + 0.04
        assert source.statistics()[0].errors > 0
        api.start()
        await fold.until(lambda: same(fold, api) and not fold.said())
        assert source.statistics()[0].staleness < 5
        assert source.statistics()[0].restarts > 0


async def test_bookmarks_move_on(api: FakeApi, tmp_path: Path) -> None:
    """Lost: a quiet kind's version would expire, and every reconnect would be a list."""
    api.put(SERVICES, "shop", service())
    async with folded(source_of(api, tmp_path)) as fold:
        await watching(api)
        version = api.put(SLICES, "shop-1", endpoint_slice("10.0.0.1"), labels=LABELS)
        await fold.until(lambda: same(fold, api))
        api.faults["watch"].append("bookmark")
        api.cut()
        await watching(api, 2)
        api.cut()
        await watching(api, 3)
        assert api.requests[-1].query["resourceVersion"] <= version
        assert api.count("list") == 1


@pytest.mark.parametrize(
    ("status", "said"), [("401", "renew the token"), ("403", "grant 'list' and 'watch' on services")]
)
async def test_refused_credentials_are_said_and_tried_again(
    api: FakeApi, tmp_path: Path, status: str, said: str
) -> None:
    """Lost: an agent without rights would just sit there, or give up before the rights come."""
    api.put(SERVICES, "shop", service())
    api.faults["list"].extend([status] * 10)
    async with folded(source_of(api, tmp_path), wait=False) as fold:
        await fold.until(lambda: bool(fold.problems.get("api:services")))
        (problem,) = fold.problems["api:services"]
        assert said in problem.message
        assert f"({status} " in problem.message
        assert "because of the test" in problem.message
        assert not problem.warning
        await fold.until(lambda: len(fold.synced) == 2 and not fold.said())
        assert same(fold, api)


async def test_new_token_is_read(api: FakeApi, tmp_path: Path) -> None:
    """Lost: after the token in the kubeconfig was replaced, the agent would be locked out until it is restarted."""
    api.token = "secret"
    async with folded(source_of(api, tmp_path)) as fold:
        await watching(api)
        api.token = "other"
        api.cut()
        await fold.until(lambda: any("401" in said for said in fold.said()))
        api.kubeconfig(tmp_path, "other")
        await fold.until(lambda: not fold.said())
        api.put(SERVICES, "shop", service())
        await fold.until(lambda: same(fold, api))


async def test_bad_object_is_named_and_keeps_its_last_state(api: FakeApi, tmp_path: Path) -> None:
    """Lost: one odd object would stop the stream, or nobody would hear of it."""
    version = api.put(SERVICES, "shop", service())
    async with folded(source_of(api, tmp_path)) as fold:
        await watching(api)
        api.put(SERVICES, "shop", service(type="Wrong"))
        api.put(SERVICES, "cart", service())
        await fold.until(lambda: "cart" in fold.names())
        assert versions(fold)["shop"] == version
        await fold.until(
            lambda: any("Service default/shop: spec.type: 'Wrong' is none" in said for said in fold.said())
        )
        api.put(SERVICES, "shop", service(82))
        await fold.until(lambda: same(fold, api) and not fold.said())


async def test_bad_object_keeps_its_last_state_in_a_new_list(api: FakeApi, tmp_path: Path) -> None:
    """Lost: a Service or its endpoints, when they are unreadable at the moment at which everything is listed again."""
    good = {SERVICES: api.put(SERVICES, "shop", service())}
    good[SLICES] = api.put(SLICES, "shop-1", endpoint_slice("10.0.0.1"), labels=LABELS)
    async with folded(source_of(api, tmp_path)) as fold:
        await watching(api)
        api.forget()
        api.put(SERVICES, "shop", service(type="Wrong"))
        api.put(SERVICES, "new", service(type="Wrong"))
        api.put(SLICES, "shop-1", {**endpoint_slice(), "addressType": "IPX"}, labels=LABELS)
        api.forget()
        api.cut()
        await fold.until(lambda: fold.lists == 4 and len(fold.said()) == 3)
        assert versions(fold) == {"shop": good[SERVICES]}
        assert fold.names() == {"shop", "shop-1"}
        assert any("Service default/shop: spec.type: 'Wrong' is none" in said for said in fold.said())
        api.delete(SERVICES, "shop")
        api.delete(SERVICES, "new")
        api.put(SLICES, "shop-1", endpoint_slice("10.0.0.2"), labels=LABELS)
        await fold.until(lambda: same(fold, api) and not fold.said())


async def test_e12_label_taken_away(api: FakeApi, tmp_path: Path) -> None:
    """Lost: the endpoints of a slice that left its Service would stay with it for ever."""
    api.put(SLICES, "shop-1", endpoint_slice("10.0.0.1"), labels=LABELS)
    async with folded(source_of(api, tmp_path)) as fold:
        assert fold.names() == {"shop-1"}
        await watching(api)
        api.put(SLICES, "shop-1", endpoint_slice("10.0.0.1"))
        await fold.until(lambda: fold.names() == set())


async def test_half_open_connection_is_noticed(api: FakeApi, tmp_path: Path) -> None:
    """Lost: after a silent loss of the connection, no change would be seen until the kernel gives up."""
    api.stall = 60
    api.faults["watch"].extend(["stall", "stall"])
    async with folded(source_of(api, tmp_path, watch_timeout=1.0)) as fold:
        api.put(SERVICES, "shop", service())
        api.put(SLICES, "shop-1", endpoint_slice("10.0.0.1"), labels=LABELS)
        await fold.until(lambda: same(fold, api))


async def test_event_is_told_at_once(api: FakeApi, tmp_path: Path) -> None:
    """Lost: the milliseconds between an endpoint's death and the end of its traffic."""
    async with folded(source_of(api, tmp_path)) as fold:
        await watching(api)
        delays: list[float] = []
        for n in range(50):
            begun = trio.current_time()
            api.put(SLICES, "shop-1", endpoint_slice(f"10.0.0.{n + 1}"), labels=LABELS)
            await fold.until(lambda: same(fold, api))
            delays.append(trio.current_time() - begun)
        assert sorted(delays)[25] < 0.05  # 1 ms on a free machine, the fake server's share included


async def test_slow_receiver_loses_nothing(api: FakeApi, tmp_path: Path) -> None:
    """Lost: events, whenever the pipeline is busy for longer than a buffer lasts."""
    fold = Fold()
    send, receive = trio.open_memory_channel[tuple[Fact, ...]](0)
    largest = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source_of(api, tmp_path).run, send)
        while len(fold.synced) < 2:
            fold.take(await receive.receive())
        await watching(api)
        for n in range(3000):
            api.put(SERVICES, f"s{n % 1500}", service(n % 1000 + 1))
        with trio.fail_after(30):
            while not same(fold, api):
                await trio.sleep(0.01)
                facts = await receive.receive()
                largest = max(largest, len(facts))
                fold.take(facts)
        nursery.cancel_scope.cancel()
    assert largest > 1, "a burst is told in batches"


@pytest.mark.parametrize("state", ["watching", "list stalls", "watch stalls", "backing off"])
async def test_cancel_ends_it_at_once_and_no_thread_is_left(any_api: FakeApi, tmp_path: Path, state: str) -> None:
    """Lost: shutdown would wait for the API server; an embedding program would gather threads."""
    api = any_api
    api.stall = 60
    if state.endswith("stalls"):
        api.faults[state.split()[0]].extend(["stall", "stall"])
    source = source_of(api, tmp_path, request_timeout=60.0, watch_timeout=300.0, backoff=60.0, backoff_limit=60.0)
    if state == "backing off":
        api.faults["list"].extend(["500", "500"])
    verb = "list" if state in ("list stalls", "backing off") else "watch"
    limiter: trio.CapacityLimiter = source._streams[0]._limiter
    async with folded(source, wait=False):
        await trio.to_thread.run_sync(api.wait_for, verb, 1)
        begun = trio.current_time()
    assert trio.current_time() - begun < 1.0
    for _ in range(1000):
        if not limiter.borrowed_tokens:
            break
        await trio.sleep(0.005)
    assert limiter.borrowed_tokens == 0, "a thread is left"


async def test_problems_are_said_once(api: FakeApi, tmp_path: Path) -> None:
    """Lost: a log that repeats itself twice a second while the API server is away."""
    api.faults["list"].extend(["500"] * 12)
    said: list[Problems] = []
    take = Fold._take

    class Counting(Fold):
        def _take(self, fact: Fact) -> None:
            if isinstance(fact, Problems):
                said.append(fact)
            take(self, fact)

    fold = Counting()
    send, receive = trio.open_memory_channel[tuple[Fact, ...]](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source_of(api, tmp_path).run, send)
        while len(fold.synced) < 2:
            fold.take(await receive.receive())
        nursery.cancel_scope.cancel()
    assert len(said) == 4  # for each kind: that it fails, and that it works


def test_package_is_imported_only_when_needed() -> None:
    """Lost: the start of every command that needs no cluster (300 ms)."""
    code = "import sys, spliceway.source.manifest, spliceway.source.file; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_pod_credentials_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: a Pod's token is replaced every hour; with the old one the agent would be locked out."""
    config = incluster_config
    monkeypatch.setattr(config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    loader = config.InClusterConfigLoader
    monkeypatch.setattr(config, "InClusterConfigLoader", partial(loader, environ=POD_ENVIRONMENT))
    (tmp_path / "token").write_text("first")
    (tmp_path / "ca.crt").write_text((Path(fakeapi.__file__).with_suffix(".pem")).read_text())
    access = Access(SourceSettings())
    assert access.host == "https://10.96.0.1:443"
    client = access.connect(renew=False)
    assert client._credentials() == {"authorization": "bearer first"}
    (tmp_path / "token").write_text("second")
    assert access.connect(renew=True)._credentials() == {"authorization": "bearer second"}
    expired = datetime.datetime.now() - datetime.timedelta(seconds=1)
    for cell in client._configuration.refresh_api_key_hook.__closure__:
        if isinstance(cell.cell_contents, loader):
            cell.cell_contents.token_expires_at = expired
    assert client._credentials() == {"authorization": "bearer second"}
    (tmp_path / "token").unlink()
    with pytest.raises(UnreachableError, match="not in a Kubernetes cluster"):
        access.connect(renew=True)
