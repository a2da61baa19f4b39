"""What may go wrong with a list or a watch, said in one sentence each, and how long to wait after it."""

from __future__ import annotations

import random
from http import HTTPStatus
from http.client import responses

from spliceway.source.api import RefusedError
from spliceway.source.events import Failed
from spliceway.source.resource import Resource

#: seconds: the longest wait that an API server may ask for (Retry-After)
_LONGEST_RETRY_AFTER = 60.0
#: how much longer an overloaded API server is left alone
_PATIENCE = 6


class ExpiredError(Exception):
    """The API server has forgotten the resource version: only a new list can tell the state."""


class StreamError(Exception):
    """A list or watch failed for a reason that may pass. ``status`` is HTTP's, 0 when there was no answer."""

    def __init__(self, message: str, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.retry_after = retry_after

    @property
    def overloaded(self) -> bool:
        """The API server sheds load."""
        return self.status == HTTPStatus.TOO_MANY_REQUESTS


class Backoff:
    """Waits that double from ``first`` to ``limit`` seconds, each shortened at random by up to a half.

    A watch that resumes costs the API server little, so a short limit lets all agents be current soon after an outage.
    An API server that sheds load says so (429): then the limit is `_PATIENCE` times as long, so that thousands of
    agents do not keep it down.
    """

    def __init__(self, first: float, limit: float) -> None:
        self._first = first
        self._limit = limit
        self._failures = 0

    def reset(self) -> None:
        """It works again."""
        self._failures = 0

    def next(self, *, overloaded: bool = False) -> float:
        """Return how long to wait after this failure; ``overloaded``: the API server sheds load."""
        limit = self._limit * _PATIENCE if overloaded else self._limit
        wait = min(limit, self._first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return wait * random.uniform(0.5, 1.0)


def stream_error(error: Exception, resource: Resource, host: str) -> StreamError:
    """Say in one sentence what went wrong with the requests for ``resource``, and what to do."""
    if not isinstance(error, RefusedError):
        return StreamError(f"the API server {host} cannot be used ({error})")
    text = error.message.rstrip(".")
    said = f": {text}" if text and text != responses.get(error.status) else ""
    if error.status == HTTPStatus.UNAUTHORIZED:
        message = (
            f"the API server {host} does not accept the credentials (401 Unauthorized{said}); "
            "renew the token or client certificate"
        )
    elif error.status == HTTPStatus.FORBIDDEN:
        message = (
            f"the API server refuses to list and watch {resource.name} (403 Forbidden{said}); grant 'list' and "
            f"'watch' on {resource.name} to this account by a ClusterRole with the rule {{apiGroups: "
            f'["{resource.group}"], resources: [{resource.name}], verbs: [list, watch]}}, as system:node-proxier has'
        )
    else:
        message = f"the API server {host} answers with HTTP status {error.status}{said}"
    return StreamError(message, error.status, min(error.retry_after, _LONGEST_RETRY_AFTER))


def expired(failure: Exception) -> Exception:
    """Return `ExpiredError` for a refused request (410 Gone) that means just that, any other failure as it is."""
    if isinstance(failure, RefusedError) and failure.status == HTTPStatus.GONE:
        return ExpiredError(failure.message)
    return failure


def ended(event: Failed) -> Exception:
    """Return what an ERROR event in a watch means."""
    status = event.status
    if status.code == HTTPStatus.GONE or status.reason in ("Expired", "Gone"):
        return ExpiredError(status.message or "")
    said = status.message or status.reason or "no reason given"
    return StreamError(f"the API server ended the watch: {said}", status.code or HTTPStatus.INTERNAL_SERVER_ERROR)
