"""What is no cell because it takes more than one client or more than one moment: affinity and health endpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from support.nodes import Host, Node, Rig, each
from support.probes import Page, Probe, Protocol

from .contestants import HEALTHZ_PORT, METRICS_PORT
from .objects import PORT, Objects
from .scenario import Config, Endpoint

#: Services with session affinity: for a time that no test reaches, and for one that a test can wait for
STICKY, BRIEF = "sticky", "sticky-brief"
BRIEF_SECONDS = 2
STICKY_ENDPOINTS = (Endpoint("node1-1"), Endpoint("node1-2"), Endpoint("node2-1"))
ATTEMPTS = 15
#: waits for another backend after affinity has ended; one of three backends is drawn each time: 1 in 59,000 fails
REDRAWS = 11


def names_at(place: Host, protocol: Protocol, host: str, port: int, count: int = 1) -> set[str]:
    """The backends that answer so many new flows, each of which must be answered."""
    (seen,) = place.namespace.probe([Probe(protocol, host, port, count, count)])
    assert sum(seen.answers.values()) == count, f"{place} {protocol} {host} {port}: {seen}"
    return set(seen.answers)


def sticky_addresses(rig: Rig, objects: Objects, protocol: Protocol, family: int) -> Iterator[tuple[str, int]]:
    """All addresses of the Service with affinity, of one protocol and family: they share what is remembered (A-01)."""
    service = objects.service(STICKY)
    yield service["spec"]["clusterIPs"][0 if family == 4 else 1], PORT
    yield rig.node(1).host(family), objects.node_port(STICKY, protocol)


def seconds_until_another(place: Host, host: str, backend: str) -> int:
    """Leave affinity alone until it has ended, again and again, and return how often until another backend answers."""
    for count in range(1, REDRAWS + 1):
        time.sleep(BRIEF_SECONDS + 0.5)  # the time that passes is what this is about
        if names_at(place, "TCP", host, PORT) != {backend}:
            return count
    return REDRAWS + 1


def health_node_port_pages(rig: Rig, objects: Objects, configs: list[Config]) -> dict[tuple[Config, str, int], Page]:
    """Answers of all Services' healthCheckNodePorts, by Service, node and family, as a load balancer sees them."""
    asked = [
        (config, node, family)
        for config in configs
        if config.external_local and config.reach == "all"
        for node in rig.nodes
        for family in (4, 6)
    ]

    def ask(question: tuple[Config, Node, int]) -> Page:
        config, node, family = question
        port = objects.service(config.name)["spec"]["healthCheckNodePort"]
        return rig.external.namespace.fetch(node.host(family), port)

    pages = each(asked, ask, at_once=8)
    return {(config, node.name, family): page for (config, node, family), page in zip(asked, pages, strict=True)}


def expected_page(config: Config, node: str) -> Page:
    """The answer of a healthCheckNodePort (H-02 to H-05): ready endpoints of the node count, each address once."""
    count = len({endpoint.place for endpoint in config.endpoints if endpoint.ready and endpoint.node == node})
    body = {
        "service": {"namespace": "default", "name": config.name},
        "localEndpoints": count,
        "serviceProxyHealthy": True,
    }
    headers = {
        "content-type": "application/json",
        "x-content-type-options": "nosniff",
        "x-load-balancing-endpoint-weight": str(count),
    }
    return Page(200 if count else 503, headers, json.dumps(body, indent="\t"))


def same_page(page: Page, expected: Page) -> bool:
    """Say whether status, body and the headers that matter are equal."""
    headers = {name: page.headers.get(name) for name in expected.headers}
    return (page.status, page.body, headers) == (expected.status, expected.body, expected.headers)


def health(rig: Rig, node: Node, path: str, family: int = 4) -> tuple[int, Any]:
    """Status and decoded body of the proxy's own health, asked from outside."""
    page = rig.external.namespace.fetch(node.host(family), HEALTHZ_PORT, path)
    return page.status, json.loads(page.body) if page.body.startswith("{") else page.body


def proxy_mode(node: Node) -> Page:
    """The answer of /proxyMode, asked on the node itself."""
    return node.namespace.fetch("127.0.0.1", METRICS_PORT, "/proxyMode")
