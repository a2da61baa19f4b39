"""Events on the wire: what the API server of the tests receives is what a real one accepts."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from spliceway.settings import SourceSettings
from spliceway.source.eventrecord import EventRecord, EventWriteError
from spliceway.source.eventwriter import EventWriter

EVENT = EventRecord(
    kind="Service",
    namespace="default",
    name="shop",
    reason="NotServedAsAsked",
    action="Plan",
    note="port dns is SCTP",
    warning=True,
    first=1_700_000_000.25,
    last=1_700_000_000.25,
)
PATH = "/apis/events.k8s.io/v1/namespaces/default/events"


class EventsApi:
    """Answers writes with the statuses that the test lists, then 201."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str, dict[str, Any]]] = []
        self.answers: list[int] = []


@contextmanager
def serving(api: EventsApi) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _write(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            api.requests.append((self.command, self.path, self.headers["Content-Type"], body))
            status = api.answers.pop(0) if api.answers else 201
            answer = json.dumps({"kind": "Status", "message": f"says {status}"}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = _write  # noqa: N815
        do_PATCH = _write  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def api() -> EventsApi:
    return EventsApi()


@pytest.fixture
def writer(api: EventsApi, tmp_path: Path) -> Iterator[EventWriter]:
    with serving(api) as url:
        kubeconfig = tmp_path / "config"
        kubeconfig.write_text(
            json.dumps(
                {
                    "clusters": [{"name": "c", "cluster": {"server": url}}],
                    "users": [{"name": "u", "user": {"token": "secret"}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        writer = EventWriter(SourceSettings(kubeconfig=kubeconfig), "n1")
        yield writer
        writer.abort()


def test_a_new_event(api: EventsApi, writer: EventWriter) -> None:
    """A real API server refuses an Event that lacks one of these fields."""
    writer.write(EVENT)
    ((method, path, content_type, body),) = api.requests
    assert (method, path, content_type) == ("POST", PATH, "application/json")
    name = body["metadata"].pop("name")
    assert re.fullmatch(r"shop\.[0-9a-f]{16}", name)
    assert body == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": "default"},
        "eventTime": "2023-11-14T22:13:20.250000Z",
        "reportingController": "spliceway",
        "reportingInstance": "spliceway-n1",
        "action": "Plan",
        "reason": "NotServedAsAsked",
        "regarding": {
            "apiVersion": "v1",
            "kind": "Service",
            "namespace": "default",
            "name": "shop",
            "uid": "default/shop",
        },
        "note": "port dns is SCTP",
        "type": "Warning",
    }


def test_an_event_of_a_node_is_in_the_default_namespace(api: EventsApi, writer: EventWriter) -> None:
    """Objects without a namespace could have no Events."""
    writer.write(EVENT._replace(kind="Node", namespace="", name="n1", note="x" * 2000, warning=False))
    ((_, path, _, body),) = api.requests
    assert path == PATH
    assert body["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"}
    assert body["type"] == "Normal"
    assert len(body["note"]) == 1024


def test_a_series_changes_the_event_that_exists(api: EventsApi, writer: EventWriter) -> None:
    """Each repetition would be another Event."""
    writer.write(EVENT)
    api.answers = [200]
    writer.write(EVENT._replace(times=3, last=EVENT.first + 60))
    method, path, content_type, body = api.requests[1]
    assert (method, content_type) == ("PATCH", "application/merge-patch+json")
    assert path == f"{PATH}/{api.requests[0][3]['metadata']['name']}"
    assert body == {"series": {"count": 3, "lastObservedTime": "2023-11-14T22:14:20.250000Z"}}


def test_an_event_that_was_forgotten_is_made_again(api: EventsApi, writer: EventWriter) -> None:
    """Events live an hour: what goes on for longer would be told no more."""
    api.answers = [404]
    writer.write(EVENT._replace(times=2))
    assert [method for method, *_ in api.requests] == ["PATCH", "POST"]
    assert api.requests[1][3]["series"]["count"] == 2


def test_an_event_that_exists_is_written(api: EventsApi, writer: EventWriter) -> None:
    """An answer that was lost would be taken for a refusal."""
    api.answers = [409]
    writer.write(EVENT)


def test_what_every_node_says_is_one_event(api: EventsApi, writer: EventWriter) -> None:
    """A cluster of 1,000 nodes would write 1,000 Events about one bad Service."""
    shared = EVENT._replace(shared=True)
    writer.write(shared)
    api.answers = [409]
    writer.write(shared._replace(first=EVENT.first + 3, last=EVENT.first + 3))  # as another node's agent would
    names = [body["metadata"]["name"] for *_, body in api.requests]
    assert names[0] == names[1]
    assert re.fullmatch(r"shop\.[0-9a-f]{16}", names[0])
    for other in (shared._replace(note="port x is SCTP"), shared._replace(reason="Other"), shared._replace(name="b")):
        writer.write(other)
    assert len({body["metadata"]["name"] for *_, body in api.requests}) == 4
    writer.write(EVENT)
    assert api.requests[-1][3]["metadata"]["name"] != names[0], "what only one node says has a name of its own"


def test_the_count_of_a_shared_event_is_its_writers(api: EventsApi, writer: EventWriter) -> None:
    """Each node would overwrite the others' count, and after an hour nobody would write the Event again."""
    shared = EVENT._replace(shared=True)
    api.answers = [409, 409, 201]
    for times in (1, 2, 3, 4):
        writer.write(shared._replace(times=times))
    assert [method for method, *_ in api.requests] == ["POST", "POST", "POST", "PATCH"]


@pytest.mark.parametrize(
    ("status", "passing", "forbidden"),
    [(403, False, True), (422, False, False), (401, True, False), (429, True, False), (503, True, False)],
)
def test_refusals(api: EventsApi, writer: EventWriter, status: int, passing: bool, forbidden: bool) -> None:
    """A missing right would be tried for ever, or a busy API server given up at once."""
    api.answers = [status]
    with pytest.raises(EventWriteError, match=f"says {status}") as caught:
        writer.write(EVENT)
    assert (caught.value.passing, caught.value.forbidden) == (passing, forbidden)
    writer.write(EVENT)  # and the next one is written


def test_no_answer_is_passing(api: EventsApi, writer: EventWriter) -> None:
    """A lost connection would lose the Event."""
    writer.abort()
    with pytest.raises(EventWriteError) as caught:
        writer.write(EVENT)
    assert caught.value.passing
