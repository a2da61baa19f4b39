"""Clients that open new flows all the time, by TCP and UDP, and remember everything that they saw."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Self

from support.nodes import Host
from support.probes import Observed, Probe

from .services import Target

#: new flows of a client to each target, one after the other, before it begins anew
ROUND = 5
#: between two rounds
PAUSE_SECONDS = 0.02
#: observations with a failure that are kept for the message
_KEPT = 20


class Traffic:
    """Each client on its own, its targets all at once. Use it as a context manager."""

    def __init__(self, flows: Iterable[tuple[Host, Target]], timeout: float) -> None:
        """``timeout``: seconds that a client waits for an answer."""
        #: attempts by how they ended: served, refused, dropped, or a fault's name
        self.seen: Counter[str] = Counter()
        #: what was seen besides answers
        self.failures: list[str] = []
        self._ended = threading.Event()
        self._lock = threading.Lock()
        by_client: dict[str, tuple[Host, list[Probe]]] = {}
        for client, target in flows:
            _, probes = by_client.setdefault(client.name, (client, []))
            probes.append(Probe(*target, ROUND, ROUND, timeout=timeout))
        self._threads = [threading.Thread(target=self._run, args=each, daemon=True) for each in by_client.values()]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client: Host, probes: list[Probe]) -> None:
        while not self._ended.wait(PAUSE_SECONDS):
            for probe, seen in zip(probes, client.namespace.probe(probes), strict=True):
                self._count(client, probe, seen)

    def _count(self, client: Host, probe: Probe, seen: Observed) -> None:
        with self._lock:
            self.seen.update(served=sum(seen.answers.values()), refused=seen.refused, dropped=seen.dropped)
            self.seen.update(seen.faults)
            if seen.refused or seen.dropped or seen.faults:
                self.failures[_KEPT:] = [f"{client} -> {probe.protocol} [{probe.host}]:{probe.port}: {seen}"]
