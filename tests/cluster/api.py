"""A tiny client of the Kubernetes API for tests: plain dicts in, plain dicts out.

It is not the client that the agent uses, so a fault of that one cannot hide here. No watches and no retries: what the
API server answers is what the test sees.
"""

from __future__ import annotations

import base64
import json
import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

import urllib3

Object = dict[str, Any]

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0  # the API server under a load of 10,000 Services on 2 cores stays far below
POOLED_CONNECTIONS = 16  # kept open for as many threads; more threads work, with connections of their own

MERGE_PATCH = "application/merge-patch+json"


class ApiError(Exception):
    """The API server refused: HTTP `status`, `reason` (as AlreadyExists, "" if none was given) and its message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class ApiUnreachableError(Exception):
    """No HTTP answer came: nobody listens, the connection broke, or the time was up."""


class _Collection(NamedTuple):
    """Where the objects of a kind live."""

    api_version: str
    plural: str
    namespaced: bool


_COLLECTIONS = {
    "ClusterRole": _Collection("rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": _Collection("rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "ConfigMap": _Collection("v1", "configmaps", True),
    "EndpointSlice": _Collection("discovery.k8s.io/v1", "endpointslices", True),
    "Event": _Collection("events.k8s.io/v1", "events", True),
    "Lease": _Collection("coordination.k8s.io/v1", "leases", True),
    "Namespace": _Collection("v1", "namespaces", False),
    "Node": _Collection("v1", "nodes", False),
    "Pod": _Collection("v1", "pods", True),
    "Service": _Collection("v1", "services", True),
    "ServiceCIDR": _Collection("networking.k8s.io/v1", "servicecidrs", False),
}


class Api:
    """A client with the identity of a kubeconfig that ControlPlane wrote. Threads may share it.

    Every method raises ApiError when the server refuses and ApiUnreachableError when no answer comes.
    """

    def __init__(self, kubeconfig: Path) -> None:
        # ControlPlane writes JSON, which is YAML too, so that no YAML parser is needed here.
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        server = urlsplit(cluster["server"])
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._pool = urllib3.HTTPSConnectionPool(
            server.hostname or "",
            server.port,
            maxsize=POOLED_CONNECTIONS,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            retries=False,
            headers={"Authorization": f"Bearer {config['users'][0]['user']['token']}"},
            ssl_context=ssl.create_default_context(cadata=authority),
        )

    def create(self, body: Object) -> Object:
        """Create the object and return it as stored. `kind` and `metadata.name` are needed; the namespace defaults."""
        kind, _, namespace = _identity(body)
        return self.request("POST", _path(kind, namespace), _complete(body))

    def replace(self, body: Object) -> Object:
        """Replace the object of the same name whole and return it as stored."""
        kind, name, namespace = _identity(body)
        return self.request("PUT", _path(kind, namespace, name), _complete(body))

    def patch(self, kind: str, name: str, patch: Object, namespace: str = "default", subresource: str = "") -> Object:
        """Merge `patch` into the object (a list is replaced whole, None deletes) and return it as stored."""
        return self.request("PATCH", _path(kind, namespace, name, subresource), patch, MERGE_PATCH)

    def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        """Delete the object."""
        self.request("DELETE", _path(kind, namespace, name))

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        """Return the object."""
        return self.request("GET", _path(kind, namespace, name))

    def list_objects(self, kind: str, namespace: str | None = None) -> list[Object]:
        """Return all objects of the kind in the namespace, or in all namespaces for None."""
        items: list[Object] = self.request("GET", _path(kind, namespace))["items"]
        return items

    def may_list(self, kind: str) -> bool:
        """Say whether the API server lets this account list the kind."""
        try:
            self.list_objects(kind)
        except ApiError as error:
            if error.status == 403:
                return False
            raise
        return True

    def ready(self) -> bool:
        """Say whether the API server answers and says that it is ready."""
        try:
            return self._send("GET", "/readyz", None, {}).status == 200
        except ApiUnreachableError:
            return False

    def request(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json"
    ) -> Object:
        """Send one request and return the decoded answer: for paths that the other methods do not know."""
        text = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "Content-Type": content_type}
        response = self._send(method, path, text, headers)
        if response.status >= 400:
            raise _refusal(response)
        answer: Object = json.loads(response.data)
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """Send one request and return the answer, read whole. Raises ApiUnreachableError."""
        try:
            return self._pool.urlopen(method, path, body=body, headers={**self._pool.headers, **headers})
        except urllib3.exceptions.HTTPError as error:
            raise ApiUnreachableError(f"{method} {path}: {error}") from error


def _identity(body: Object) -> tuple[str, str, str]:
    """Return kind, name and namespace of an object. Raises KeyError."""
    metadata = body["metadata"]
    return body["kind"], metadata["name"], metadata.get("namespace", "default")


def _complete(body: Object) -> Object:
    """Return the object with its apiVersion, which tests may leave out."""
    return {"apiVersion": _COLLECTIONS[body["kind"]].api_version, **body}


def _path(kind: str, namespace: str | None, name: str = "", subresource: str = "") -> str:
    """Return the path of a collection (no name), an object or its subresource. Raises KeyError for an unknown kind."""
    collection = _COLLECTIONS[kind]
    parts = ["apis" if "/" in collection.api_version else "api", *collection.api_version.split("/")]
    if collection.namespaced and namespace is not None:
        parts += ["namespaces", namespace]
    parts += [part for part in (collection.plural, name, subresource) if part]
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _refusal(response: urllib3.BaseHTTPResponse) -> ApiError:
    """Return the error for an answer of 400 or above; its body is a Status object or, rarely, plain text."""
    try:
        status = json.loads(response.data)
        return ApiError(response.status, str(status.get("reason", "")), str(status.get("message", "")))
    except (ValueError, AttributeError):
        return ApiError(response.status, "", response.data.decode(errors="replace"))
