"""Where healthCheckNodePorts answer (H-01)."""

from __future__ import annotations

import pytest

from spliceway.capture.tproxy import routing
from spliceway.model import Node, ObjectKey
from spliceway.node import healthhosts
from spliceway.node.healthhosts import HealthHosts
from spliceway.settings import CaptureSettings

NODE = Node(ObjectKey("", "n1"), addresses=("192.0.2.1", "fd00::1"))


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [("lo", "127.0.0.1"), ("eth0", "192.0.2.1"), ("eth1", "198.51.100.7"), ("eth0", "fd00::1")]
    monkeypatch.setattr(routing, "interface_addresses", lambda: addresses)
    monkeypatch.setattr(healthhosts, "has_ipv6", lambda: True)


def hosts(*accepted: str, node: Node | None = NODE) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = HealthHosts(CaptureSettings(node_port_addresses=accepted), lambda: node)
    return found(4), found(6)


def test_everywhere_unless_restricted() -> None:
    """A load balancer would find the port only on some addresses of the node."""
    assert hosts() == (("0.0.0.0",), ("::",))
    assert hosts("all") == (("0.0.0.0",), ("::",))


def test_only_where_node_ports_answer() -> None:
    """A port would be open towards a network that must not reach the node."""
    assert hosts("primary") == (("192.0.2.1",), ("fd00::1",))
    assert hosts("198.51.100.0/24") == (("198.51.100.7",), ("::",))  # a family without a CIDR is unrestricted (D-07)


def test_primary_waits_for_the_node() -> None:
    """Before the Node is known, the port would be open everywhere, and stay so."""
    known: list[Node] = []
    found = HealthHosts(CaptureSettings(node_port_addresses=("primary",)), lambda: known[0] if known else None)
    assert (found(4), found(6)) == ((), ())
    known.append(NODE)
    assert (found(4), found(6)) == (("192.0.2.1",), ("fd00::1",))


def test_no_ipv6_no_port_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without IPv6 would report a problem for each dual-stack Service."""
    monkeypatch.setattr(healthhosts, "has_ipv6", lambda: False)
    assert hosts() == (("0.0.0.0",), ())
    assert hosts("all") == (("0.0.0.0",), ())
