"""The Kubernetes source: Services and EndpointSlices by list and watch, one independent stream for each kind."""

from __future__ import annotations

import logging

import trio

from spliceway.model import Fact, SourceStatistics
from spliceway.settings import SourceSettings
from spliceway.source.api import Access
from spliceway.source.resource import ENDPOINT_SLICES, SERVICES
from spliceway.source.watch import KindStream

log = logging.getLogger(__name__)

#: threads: two read, two may still be ending the request before
_THREADS = 8


class KubernetesSource:
    """Facts of a cluster. Construction blocks and raises `spliceway.errors.SourceError`; see `open_source`."""

    name: str = "kubernetes"
    synced_names: tuple[str, ...] = (SERVICES.name, ENDPOINT_SLICES.name)

    def __init__(self, settings: SourceSettings) -> None:
        access = Access(settings)
        self._host = access.host
        limiter = trio.CapacityLimiter(_THREADS)
        self._streams = tuple(
            KindStream(resource, access, settings, limiter) for resource in (SERVICES, ENDPOINT_SLICES)
        )

    def statistics(self) -> tuple[SourceStatistics, ...]:
        """Return one entry for each kind."""
        return tuple(stream.statistics() for stream in self._streams)

    async def run(self, facts: trio.MemorySendChannel[tuple[Fact, ...]]) -> None:
        """Send what the cluster says, then every change, until cancelled."""
        log.info("waiting for Services and EndpointSlices of %s", self._host)
        async with trio.open_nursery() as nursery:
            for stream in self._streams:
                nursery.start_soon(stream.forever, facts)
