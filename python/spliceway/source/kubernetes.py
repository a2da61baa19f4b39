"""The Kubernetes source: what concerns a node, by list and watch, one independent stream for each kind of object."""

from __future__ import annotations

import logging

import trio

from spliceway.model import Fact, SourceStatistics
from spliceway.settings import NodeSettings, SourceSettings
from spliceway.source import resource
from spliceway.source.api import Access
from spliceway.source.watch import KindStream

log = logging.getLogger(__name__)

#: threads for each stream: one reads; two may still be ending the requests before, one connects
_THREADS = 4


class KubernetesSource:
    """Facts of a cluster: Services, EndpointSlices, and the Node that ``node`` names, if it names one.

    Its streams are synced when they have been listed once, also when there is no such Node; none is waited for with a
    limit (W-05). Construction blocks and raises `spliceway.errors.SourceError`; see `open_source`.
    """

    name: str = "kubernetes"
    synced_names: tuple[str, ...]

    def __init__(self, settings: SourceSettings, node: NodeSettings) -> None:
        access = Access(settings)
        self._host = access.host
        resources = [resource.services(node.proxy_name), resource.endpoint_slices()]
        if node.name is not None:
            resources.append(resource.node(node.name))
        limiter = trio.CapacityLimiter(_THREADS * len(resources))
        self._streams = tuple(KindStream(each, access, settings, limiter) for each in resources)
        self.synced_names = tuple(each.name for each in resources)

    def statistics(self) -> tuple[SourceStatistics, ...]:
        """Return one entry for each kind."""
        return tuple(stream.statistics() for stream in self._streams)

    async def run(self, facts: trio.MemorySendChannel[tuple[Fact, ...]]) -> None:
        """Send what the cluster says, then every change, until cancelled."""
        log.info("waiting for %s of %s", ", ".join(self.synced_names), self._host)
        async with trio.open_nursery() as nursery:
            for stream in self._streams:
                nursery.start_soon(stream.forever, facts)
