"""A Kubernetes API server for three kinds, on loopback, over real HTTP, that misbehaves on request.

It serves lists in pages and watches as chunked streams with bookmarks, keeps a history and can forget it. `faults`
holds what goes wrong with the next requests, one fault a request: ``api.faults["watch"].append("cut")``.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

Object = dict[str, Any]

_CERTIFICATE = Path(__file__).with_suffix(".pem")

SERVICES = "/api/v1/services"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
NODES = "/api/v1/nodes"
#: what may happen to a request for a list; `500` and the like are HTTP status codes
LIST_FAULTS = ("500", "503", "429", "410", "401", "cut", "reset", "garbage", "stall")
#: and to one for a watch; the ones in the second row happen at the next event
WATCH_FAULTS = (
    *(
        "500",
        "429",
        "410",
        "401",
        "reset",
        "close",
        "gone",
        "error",
        "garbage",
        "unknown",
        "bookmark",
        "stall",
        "plain",
    ),
    *("cut", "duplicate", "swap", "dribble"),
)


class Change(NamedTuple):
    """One entry of the history."""

    version: int
    path: str
    type: str
    object: Object


class Request(NamedTuple):
    """A request that came in."""

    verb: str
    path: str
    query: dict[str, str]
    token: str


class FakeApi:
    """The server. Use it as a context manager; every method may be called from any thread."""

    def __init__(self, *, tls: bool = False) -> None:
        self.tls = tls
        self.faults: dict[str, deque[str]] = {"list": deque(), "watch": deque()}
        self.requests: list[Request] = []
        #: seconds of silence of the fault ``stall``
        self.stall = 0.5
        #: when not empty, other tokens are refused with 401
        self.token = ""
        #: paths of which every request is refused with 403
        self.forbidden: set[str] = set()
        self._version = 100
        self._forgotten = 0
        self._objects: dict[str, dict[tuple[str, str], Object]] = {SERVICES: {}, SLICES: {}, NODES: {}}
        self._history: list[Change] = []
        self._pages: dict[str, list[Object]] = {}
        self._changed = threading.Condition()
        self._sockets: set[socket.socket] = set()
        self._server: _Server | None = None
        self._port = 0
        self._closing = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the same port as before when it was stopped."""
        self._closing = False
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.api = self
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(_CERTIFICATE)
            self._server.tls = context
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening and cut every connection."""
        assert self._server is not None
        self._closing = True
        with self._changed:
            self._changed.notify_all()
        self.cut()
        self._server.shutdown()
        self._server.server_close()

    def cut(self) -> None:
        """Cut every connection."""
        with self._changed:
            sockets = list(self._sockets)
        for sock in sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def kubeconfig(self, folder: Path, token: str = "secret") -> Path:
        """Write a kubeconfig for this server."""
        path = folder / "kubeconfig"
        cluster: Object = {"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self._port}"}}
        if self.tls:
            server = {"server": f"https://127.0.0.1:{self._port}", "certificate-authority": str(_CERTIFICATE)}
            cluster["cluster"] = server
        user = {"name": "me", "user": {"token": token}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "me"}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "fake"}
        path.write_text(json.dumps({**config, "clusters": [cluster], "users": [user], "contexts": [context]}))
        return path

    def put(self, path: str, name: str, body: Object, namespace: str = "default", **metadata: Any) -> str:
        """Create or replace an object and return its resource version. A Node's ``namespace`` is ""."""
        with self._changed:
            self._version += 1
            place = {"namespace": namespace} if namespace else {}
            meta = {"name": name, **place, "resourceVersion": str(self._version), **metadata}
            made = {**body, "metadata": meta}
            known = (namespace, name) in self._objects[path]
            self._objects[path][namespace, name] = made
            self._history.append(Change(self._version, path, "MODIFIED" if known else "ADDED", made))
            self._changed.notify_all()
            return str(self._version)

    def delete(self, path: str, name: str, namespace: str = "default") -> None:
        """Delete an object, if there is such."""
        with self._changed:
            found = self._objects[path].pop((namespace, name), None)
            if found is not None:
                self._version += 1
                last = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self._version)}}
                self._history.append(Change(self._version, path, "DELETED", last))
                self._changed.notify_all()

    def forget(self) -> None:
        """Forget the history: watches from before are answered with 410, pages of lists under way as well."""
        with self._changed:
            self._version += 1
            self._forgotten = self._version
            self._history.clear()
            self._pages.clear()

    def versions(self, path: str) -> dict[str, str]:
        """The resource version of every object by its name: the truth."""
        with self._changed:
            return {name: made["metadata"]["resourceVersion"] for (_, name), made in self._objects[path].items()}

    def wait_for(
        self, verb: str, times: int, seconds: float = 10.0, paths: tuple[str, ...] = (SERVICES, SLICES)
    ) -> None:
        """Block until so many requests came in for each of ``paths``; `TimeoutError` after ``seconds``."""

        def came() -> bool:
            return min(self.count(verb, path) for path in paths) >= times

        with self._changed:
            if not self._changed.wait_for(came, seconds):
                raise TimeoutError(f"no {times} requests to {verb} within {seconds} s")

    def count(self, verb: str, path: str = SERVICES) -> int:
        """How many requests came in."""
        return sum(request.verb == verb and request.path == path for request in self.requests)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    api: FakeApi
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Speak TLS in the connection's own thread, so that a silent client holds up nobody."""
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with self.tls.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.api = self.server.api
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.api._changed:
            self.api._sockets.add(self.connection)

    def finish(self) -> None:
        with self.api._changed:
            self.api._sockets.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        verb = "watch" if query.get("watch") == "1" else "list"
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").removeprefix("bearer ")
        api = self.api
        with api._changed:
            api.requests.append(Request(verb, url.path, query, token))
            api._changed.notify_all()
        fault = "401" if api.token and token != api.token else "403" if url.path in api.forbidden else ""
        if not fault:
            with suppress(IndexError):
                fault = api.faults[verb].popleft()
        try:
            if fault.isdigit():
                self._status(int(fault))
            elif fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._hang_up()
            elif verb == "list":
                self._list(url.path, query, fault)
            else:
                self._watch(url.path, query, fault)
        except OSError:
            self.close_connection = True

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _status(self, code: int, message: str = "because of the test") -> None:
        body = json.dumps({"kind": "Status", "code": code, "message": message}).encode()
        self.send_response(code)
        if code == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _list(self, path: str, query: dict[str, str], fault: str) -> None:
        api = self.api
        limit = int(query.get("limit", "500"))
        with api._changed:
            version, _, offset = query.get("continue", f"{api._version}:0").partition(":")
            start = int(offset)
            everything = [made for made in api._objects[path].values() if _selected(made, query)]
            snapshot = api._pages.get(version + path) if start else everything
            if snapshot is not None:
                api._pages[version + path] = snapshot
        if snapshot is None:
            self._status(410, "the continue token is too old")
            return
        # items of a list say neither kind nor apiVersion
        items = [{name: part for name, part in one.items() if name not in ("kind", "apiVersion")} for one in snapshot]
        more = start + limit < len(items)
        metadata = {"resourceVersion": version, "continue": f"{version}:{start + limit}" if more else ""}
        body = json.dumps({"kind": "List", "metadata": metadata, "items": items[start : start + limit]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "garbage":
            body = b"<" * len(body)
        if fault in ("cut", "stall"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "stall":
                self._sleep()
            self._hang_up()
            return
        self.wfile.write(body)

    def _watch(self, path: str, query: dict[str, str], fault: str) -> None:
        api = self.api
        version = int(query["resourceVersion"])
        if version < api._forgotten:
            self._status(410, "too old resource version")
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        if self._fails_at_once(fault, version):
            return
        deadline = monotonic() + float(query["timeoutSeconds"])
        while monotonic() < deadline:
            with api._changed:
                news = [
                    change
                    for change in api._history
                    if change.version > version and change.path == path and _selected(change.object, query)
                ]
                if version < api._forgotten:
                    break
                if not news:
                    if api._closing:
                        break
                    api._changed.wait(deadline - monotonic())
                    continue
            if self._fails_at_event(fault, news):
                return
            version = news[-1].version
        self._chunk(b"")

    def _fails_at_once(self, fault: str, version: int) -> bool:
        """Play the faults that need no event; return whether the watch is over."""
        status = {"kind": "Status", "code": 410 if fault == "gone" else 500, "message": "because of the test"}
        if fault in ("gone", "error"):
            self._event("ERROR", status)
        elif fault == "garbage":
            self._chunk(b'{"type":"ADDED","object":{]\n')
        elif fault == "close":
            self._chunk(b"")
        elif fault == "unknown":
            self._event("SURPRISE", {"kind": "Service"})
            return False
        elif fault == "bookmark":
            self._event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})
            return False
        elif fault == "stall":
            self._sleep()
            self._hang_up()
        else:
            return False
        return True

    def _fails_at_event(self, fault: str, news: list[Change]) -> bool:
        """Send events, in the way that the fault asks for; return whether the watch is over."""
        if fault == "cut":
            line = _line(news[0].type, news[0].object)
            self._chunk(line[: len(line) // 2])
            self._hang_up()
            return True
        if fault == "swap":
            news = news[::-1]
        for change in news:
            line = _line(change.type, change.object)
            for piece in [line[n : n + 7] for n in range(0, len(line), 7)] if fault == "dribble" else [line]:
                self._chunk(piece)
        if fault == "duplicate":
            for change in [*news, *self.api._history[-5:]]:
                if change.path == news[0].path and change.version <= news[-1].version:
                    self._event(change.type, change.object)
        return False

    def _event(self, kind: str, body: Object) -> None:
        self._chunk(_line(kind, body))

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _sleep(self) -> None:
        """Be silent, but not longer than the server lives."""
        deadline = monotonic() + self.api.stall
        with self.api._changed:
            while not self.api._closing and monotonic() < deadline:
                self.api._changed.wait(deadline - monotonic())


def _selected(made: Object, query: dict[str, str]) -> bool:
    """Say whether a field selector on the name, which is the only one that counts here, lets an object pass."""
    name = query.get("fieldSelector", "").partition("metadata.name=")[2]
    return not name or made["metadata"]["name"] == name


def _line(kind: str, body: Object) -> bytes:
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


def service(port: int = 80, **spec: Any) -> Object:
    """The body of a Service."""
    spec = {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": port, "protocol": "TCP"}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "spec": spec}


def endpoint_slice(*addresses: str) -> Object:
    """The body of an EndpointSlice; give the label ``kubernetes.io/service-name`` as metadata."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


def node(*internal_ips: str, **spec: Any) -> Object:
    """The body of a Node."""
    addresses = [{"type": "InternalIP", "address": ip} for ip in internal_ips]
    return {"apiVersion": "v1", "kind": "Node", "spec": spec, "status": {"addresses": addresses}}
