"""The HTTP side of the Kubernetes API: configuration, credentials, one request at a time. Blocking; used in threads.

The ``kubernetes`` package reads kubeconfigs and Pod credentials, refreshes tokens and configures TLS and proxies. Its
models and its watch are not used: requests return raw bytes. `Client.abort` ends a request that another thread waits
in, by shutting its socket down.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode
from weakref import WeakSet

import kubernetes.client
import kubernetes.config
import msgspec
import urllib3
import yaml
from kubernetes.client.rest import RESTClientObject
from urllib3.connection import HTTPConnection, HTTPSConnection

from spliceway.errors import SourceError
from spliceway.settings import SourceSettings
from spliceway.source import wire

_config: Any = kubernetes.config  # untyped

_HEADERS = {"Accept": "application/json", "User-Agent": "spliceway"}
#: seconds: packets to a server that is away are repeated after 1 and 3 s, then ever more seldom; a new attempt finds
#: one that came back sooner
_CONNECT = 5.0
#: a peer that vanished without a word is noticed after 10 + 3 * 5 seconds, however quiet the stream is; one that was
#: started anew meanwhile, after 10
_KEEPALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
_PIECE = 1 << 16
#: bytes of an answer's body that are read to find out why a request was refused
_EXPLANATION = 1 << 16
_FAILURES = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


class UnreachableError(Exception):
    """No answer, or one that ended in the middle."""


class RefusedError(Exception):
    """The API server answered with a status that is no success. ``retry_after`` in seconds, as it asked."""

    def __init__(self, status: int, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


class Access:
    """Where the API server is and who we are. Threads may share it. Raises `SourceError` when that cannot be known."""

    def __init__(self, settings: SourceSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._configuration = _load(settings)

    @property
    def host(self) -> str:
        """The API server's URL."""
        return str(self._configuration.host)

    def connect(self, *, renew: bool) -> Client:
        """Return a new client. ``renew``: read the credentials again first; `UnreachableError`: they are bad."""
        with self._lock:
            if renew:
                try:
                    self._configuration = _load(self._settings)
                except SourceError as error:
                    raise UnreachableError(str(error)) from error
            return Client(self._configuration, self._lock, self._settings.request_timeout)


class Client:
    """Connections of one stream of requests. One thread uses it at a time; any may `abort` it."""

    def __init__(self, configuration: Any, lock: threading.Lock, request_timeout: float) -> None:
        self._configuration = configuration
        self._lock = lock
        self._timeout = request_timeout
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._aborted = False
        self._pools: urllib3.PoolManager = RESTClientObject(configuration).pool_manager
        self._pools.pool_classes_by_scheme = _tracking_pools(self)

    def get(self, path: str, query: dict[str, str]) -> bytes:
        """Return the whole body. Raises `UnreachableError` and `RefusedError`."""
        response = self._open(path, query, self._timeout)
        try:
            body: bytes = response.read()
        except _FAILURES as error:
            raise UnreachableError(_reason(error)) from error
        finally:
            response.release_conn()
        return body

    def stream(self, path: str, query: dict[str, str], silence: float) -> Iterator[bytes]:
        """Yield an empty piece when the server has accepted, then the body piece by piece, as soon as it arrives.

        Ends with the body. Raises `UnreachableError` (also after ``silence`` seconds without a byte), `RefusedError`.
        """
        response = self._open(path, query, silence)
        try:
            yield b""
            yield from response.stream(_PIECE)
        except _FAILURES as error:
            raise UnreachableError(_reason(error)) from error
        finally:
            response.close()

    def send(self, method: str, path: str, body: bytes, content_type: str) -> None:
        """Write something. Raises `UnreachableError` and `RefusedError`."""
        self._open(path, {}, self._timeout, method, body, content_type).drain_conn()

    def abort(self) -> None:
        """End the request that is under way in another thread, and refuse all others."""
        self._aborted = True
        for sock in list(self._sockets):
            try:
                # not SSLSocket.shutdown, which would take the TLS state from under the reading thread
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                continue  # closed already

    def close(self) -> None:
        """Close idle connections."""
        self._pools.clear()

    def track(self, sock: Any) -> None:
        """Remember a connected socket for `abort`."""
        self._sockets.add(sock)
        if self._aborted:
            sock.close()
            raise OSError("aborted")

    def _open(
        self,
        path: str,
        query: dict[str, str],
        silence: float,
        method: str = "GET",
        body: bytes | None = None,
        content_type: str | None = None,
    ) -> urllib3.BaseHTTPResponse:
        url = f"{self._configuration.host}{path}"
        if query:
            url += f"?{urlencode(query)}"
        headers = {**_HEADERS, **self._credentials()}
        if content_type is not None:
            headers["Content-Type"] = content_type
        try:
            response = self._pools.request(
                method,
                url,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=min(self._timeout, _CONNECT), read=silence),
                retries=False,
                preload_content=False,
            )
        except _FAILURES as error:
            raise UnreachableError(_reason(error)) from error
        if response.status in (HTTPStatus.OK, HTTPStatus.CREATED):
            return response
        try:
            raise _refusal(response)
        finally:
            response.close()

    def _credentials(self) -> dict[str, str]:
        """The headers that say who we are; refreshes a token that is about to expire."""
        try:
            with self._lock:
                settings = self._configuration.auth_settings()
        except Exception as error:  # the package and its plugins raise anything
            raise UnreachableError(f"no credentials: {error}") from error
        # a token file may end with a line break, which no header may contain
        return {one["key"]: one["value"].strip() for one in settings.values() if one["in"] == "header" and one["value"]}


def _tracking_pools(client: Client) -> dict[str, Any]:
    """Connection pools whose connections tell ``client`` of their sockets."""

    class Connection(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            client.track(self.sock)

    class TlsConnection(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            client.track(self.sock)

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls: Any = Connection

    class TlsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls: Any = TlsConnection

    return {"http": Pool, "https": TlsPool}


def _load(settings: SourceSettings) -> Any:
    """Return the package's configuration. Raises `SourceError`."""
    configuration = kubernetes.client.Configuration()
    configuration.socket_options = _KEEPALIVE
    if settings.server is None:
        return _credentials_of(settings, configuration)
    if settings.kubeconfig is not None or settings.context is not None:
        _credentials_of(settings, configuration)
    try:
        configuration.host = settings.server.rstrip("/")  # without a kubeconfig, nobody in particular asks
    except ValueError as error:
        raise SourceError(f"the URL of the API server, {settings.server!r}, is unusable: {_sentence(error)}") from error
    return configuration


def _credentials_of(settings: SourceSettings, configuration: Any) -> Any:
    """Fill in what the kubeconfig, or else the Pod's own account says. Raises `SourceError`."""
    if settings.kubeconfig is None and settings.context is None:
        try:
            _config.load_incluster_config(configuration)
        except (kubernetes.config.ConfigException, OSError) as error:
            raise SourceError(
                f"not in a Kubernetes cluster ({_sentence(error)}): give --manifests or --kubeconfig"
            ) from error
        return configuration
    name = str(settings.kubeconfig) if settings.kubeconfig else kubernetes.config.KUBE_CONFIG_DEFAULT_LOCATION
    try:
        if settings.kubeconfig is not None:
            with settings.kubeconfig.open("rb"):
                pass
        _check_context(name, settings.context)
        _config.load_kube_config(name, settings.context, configuration, persist_config=False)
    except OSError as error:
        raise SourceError(f"kubeconfig {name} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SourceError(f"kubeconfig {name} is not YAML: {_sentence(error)}") from error
    except SourceError:
        raise
    except Exception as error:  # the package raises KeyError, TypeError and more for odd files
        raise SourceError(f"kubeconfig {name} is unusable: {_sentence(error)}") from error
    return configuration


def _check_context(name: str, context: str | None) -> None:
    contexts, _ = _config.list_kube_config_contexts(name)
    names = [str(entry["name"]) for entry in contexts]
    if context is not None and context not in names:
        raise SourceError(f"kubeconfig {name} has no context {context!r}; it has {', '.join(names) or 'none'}")


def _refusal(response: urllib3.BaseHTTPResponse) -> RefusedError:
    """The error for an answer that is no success; its body is a Status object or, rarely, plain text."""
    try:
        body = response.read(_EXPLANATION)
    except _FAILURES:
        body = b""
    try:
        message = msgspec.json.decode(body, type=wire.Status).message or ""
    except (ValueError, RecursionError):
        message = body[:200].decode(errors="replace").strip()
    after = response.headers.get("Retry-After", "")
    return RefusedError(response.status, message, float(after) if after.isascii() and after.isdigit() else 0.0)


def _reason(error: Exception) -> str:
    """The innermost reason of a failed request in a few words."""
    inner: Any = getattr(error, "reason", None)
    inner = inner if isinstance(inner, Exception) else error
    while isinstance(inner.__cause__, OSError):
        inner = inner.__cause__
    if isinstance(inner, TimeoutError | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror.lower()
    return _sentence(inner)


def _sentence(error: BaseException) -> str:
    """The first line of an error's text, without the full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
