"""``/healthz`` and ``/livez`` as kube-proxy answers them (H-08 to H-13). Load balancers and probes ask them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from spliceway.observe.http import Response
from spliceway.observe.observed import Observed
from spliceway.observe.syncs import UNHEALTHY_AFTER

#: in the order in which kube-proxy tells them
_FAMILIES = ("IPv4", "IPv6")


class ProxyHealth:
    """The health of one agent, and how often it was asked.

    Args:
        observed: the pipeline.
        on_node: the agent is the service proxy of a Node, which must exist and be eligible for ``/healthz`` (H-09).
        holds: the kernel has what is wanted. What it has refused for a minute is like a change that waits.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        observed: Observed,
        *,
        on_node: bool,
        holds: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observed = observed
        self._on_node = on_node
        self._holds = holds
        self._clock = clock
        #: when somebody who asked for health met a refusal first
        self._refused_since: float | None = None
        #: answers by status code
        self.healthz_codes = Counter({200: 0, 503: 0})
        self.livez_codes = Counter({200: 0, 503: 0})

    @property
    def holds(self) -> bool:
        """The kernel has what is wanted at this moment."""
        return self._holds()

    @property
    def healthy(self) -> bool:
        """No change has waited for too long (H-08)."""
        if self._holds():
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = self._clock()
        refused = self._refused_since is not None and self._clock() - self._refused_since > UNHEALTHY_AFTER
        return self._observed.syncs.healthy and not refused

    @property
    def serving(self) -> bool:
        """It is healthy, and takes new clients: kube-proxy has no drain, so nobody would ask it any more then."""
        return self.healthy and not self._observed.draining()

    @property
    def eligible(self) -> bool:
        """Load balancers may use the Node: it is known, and nobody is about to delete it (H-09)."""
        if not self._on_node:
            return True
        node = self._observed.node()
        return node is not None and node.eligible

    def healthz(self) -> Response:
        """200: new clients may be sent to this node."""
        eligible = self.eligible
        response = self._answer(self.serving and eligible, {"nodeEligible": eligible})
        self.healthz_codes[response.status] += 1
        return response

    def livez(self) -> Response:
        """200: the proxy itself works; nothing is gained by restarting it."""
        response = self._answer(self.healthy, {})
        self.livez_codes[response.status] += 1
        return response

    def _answer(self, good: bool, more: dict[str, object]) -> Response:
        now = datetime.now(UTC)
        updated = datetime.fromtimestamp(self._observed.syncs.last_synced, UTC)
        healthy = self.healthy
        body: dict[str, object] = {"lastUpdated": _rfc3339(now if good else updated), "currentTime": _rfc3339(now)}
        body |= more
        body["healthy"] = healthy
        body["status"] = {family: {"lastUpdated": _rfc3339(updated), "healthy": healthy} for family in _FAMILIES}
        if self._observed.draining():
            body["draining"] = True
        return Response(200 if good else 503, "application/json", msgspec.json.encode(body))


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
