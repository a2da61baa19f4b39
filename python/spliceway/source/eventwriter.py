"""Writes Kubernetes Events (events.k8s.io/v1), in the form in which kube-proxy writes them. Blocking: for threads."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus

import msgspec

from spliceway.settings import SourceSettings
from spliceway.source.api import Access, RefusedError, UnreachableError
from spliceway.source.eventrecord import EventRecord, EventWriteError

#: what the API allows of a note, in bytes
_NOTE_LIMIT = 1024
_PASSING = (HTTPStatus.UNAUTHORIZED, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
#: Events of objects without a namespace, such as Nodes, are here
_DEFAULT_NAMESPACE = "default"
_CONTROLLER = "spliceway"
_PATCH = "application/merge-patch+json"
#: Events of others that are remembered as such
_MEMORY_LIMIT = 4096
#: API groups of the kinds that Events are about, where it is not the core group
_VERSIONS = {"EndpointSlice": "discovery.k8s.io/v1"}


class EventWriter:
    """Construction blocks and raises `spliceway.errors.SourceError` when there is no API server to write to.

    Args:
        settings: where the API server is.
        instance: who writes: the name of the Node.
    """

    def __init__(self, settings: SourceSettings, instance: str) -> None:
        self._access = Access(settings)
        self._client = self._access.connect(renew=False)
        self._instance = f"{_CONTROLLER}-{instance}"[:128]
        #: names of shared Events that were there before ours: their writers count how often they happen
        self._others: set[str] = set()

    def write(self, record: EventRecord) -> None:
        """Create the Event, or when it happened more than once, tell so in the Event that exists.

        A shared Event that another node's agent has written counts as written, and is left as it is.

        Raises:
            EventWriteError: no answer, no permission, or a bad Event.
        """
        try:
            self._write(record)
        except UnreachableError as error:
            raise EventWriteError(str(error), passing=True) from error
        except RefusedError as error:
            if error.status == HTTPStatus.UNAUTHORIZED:
                self._renew()
            raise EventWriteError(
                f"{error.message or 'no reason given'} ({error.status})",
                passing=error.status in _PASSING or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR,
                forbidden=error.status == HTTPStatus.FORBIDDEN,
            ) from error

    def _write(self, record: EventRecord) -> None:
        namespace = record.namespace or _DEFAULT_NAMESPACE
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        name = _name(record)
        if record.times > 1 and name not in self._others:
            body = msgspec.json.encode({"series": _series(record)})
            try:
                self._client.send("PATCH", f"{path}/{name}", body, _PATCH)
            except RefusedError as error:
                if error.status != HTTPStatus.NOT_FOUND:  # Events live an hour
                    raise
            else:
                return
        body = msgspec.json.encode(self._event(record, namespace))
        try:
            self._client.send("POST", path, body, "application/json")
        except RefusedError as error:
            if error.status != HTTPStatus.CONFLICT:  # written: by another agent, or by us and the answer was lost
                raise
            if record.shared:
                if len(self._others) >= _MEMORY_LIMIT:
                    self._others.clear()
                self._others.add(name)
        else:
            self._others.discard(name)  # that of the other one was forgotten

    def _renew(self) -> None:
        """Read the credentials again; when they are bad, the next write says so."""
        with suppress(UnreachableError):
            self._client = self._access.connect(renew=True)

    def abort(self) -> None:
        """End what another thread writes, and refuse everything after it."""
        self._client.abort()

    def _event(self, record: EventRecord, namespace: str) -> dict[str, object]:
        kind, name = record.kind, record.name
        regarding = {"kind": kind, "name": name, "apiVersion": _VERSIONS.get(kind, "v1")}
        # the object's uid is not known here; kube-proxy writes the name as well
        regarding["uid"] = f"{record.namespace}/{name}" if record.namespace else name
        if record.namespace:
            regarding["namespace"] = record.namespace
        event: dict[str, object] = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": _name(record), "namespace": namespace},
            "eventTime": _micro_time(record.first),
            "reportingController": _CONTROLLER,
            "reportingInstance": self._instance,
            "action": record.action,
            "reason": record.reason,
            "regarding": regarding,
            "note": _cut(record.note),
            "type": "Warning" if record.warning else "Normal",
        }
        if record.times > 1:
            event["series"] = _series(record)
        return event


def _series(record: EventRecord) -> dict[str, object]:
    return {"count": record.times, "lastObservedTime": _micro_time(record.last)}


def _name(record: EventRecord) -> str:
    """The same each time it is written; unique for each object and moment, or (shared) for what is said of it."""
    if record.shared:
        said = hashlib.sha256(f"{record.kind}\0{record.reason}\0{record.note}".encode()).hexdigest()
        return f"{record.name[:236]}.{said[:16]}"
    return f"{record.name[:236]}.{int(record.first * 1e9):x}"


def _micro_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _cut(note: str) -> str:
    return note.encode()[:_NOTE_LIMIT].decode(errors="ignore")
