"""What nodes suffer besides changes of Services: lost rules, odd packets, much data, protocols that are not served."""

from __future__ import annotations

import json
import re
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.api import Api
from spliceway.capture.tproxy.routing import PROTOCOL
from support.nodes import Host, Rig
from support.rig import wait_until

from .agents import HEALTHZ_PORT, METRICS_PORT
from .expect import hold, served
from .flows import Sink, connect, exchange, listen
from .services import PORT, Services, Target, tcp

pytestmark = [pytest.mark.nodes]
SERVER_PORT = 8090
#: by each client of the measurement
VOLUME = 64 << 20
#: lost rules are back within 2 s; the rest is the probes' own time
RESTORED_SECONDS = 5.0
LOST_RULES = {
    "table": "nft delete table inet spliceway",
    "all rules": "nft flush ruleset",
    "elements": "nft flush map inet spliceway frontends4",
    "a chain": "nft flush chain inet spliceway prerouting",
    "ip rules": f"ip rule flush protocol {PROTOCOL}",
    "ip route": f"ip route flush table all protocol {PROTOCOL}",
}


def test_should_check_kube_proxy_urls(rig: Rig, services: Services) -> None:
    """Monitors that know kube-proxy's addresses would call every node sick (H-15)."""
    for node in rig.nodes:
        page = node.namespace.fetch("127.0.0.1", HEALTHZ_PORT, "/healthz")
        assert page.status == 200
        assert "lastUpdated" in page.body
        assert node.namespace.fetch("127.0.0.1", METRICS_PORT, "/proxyMode").status == 200


@pytest.mark.parametrize("lost", LOST_RULES.values(), ids=LOST_RULES.keys())
def test_should_recreate_its_rules_if_they_are_deleted(services: Services, rig: Rig, lost: str) -> None:
    """A firewall's reload, or a wrong command, would take all Services of a node away for long (W-20)."""
    node, backend = rig.node(1), rig.node(2).pod(1)
    service = services.create("restore-rules", type="NodePort")
    service.endpoints(backend)
    sentences = [
        served(client, target, backend)
        for client in (node.pod(1), node)
        for target in (service.cluster(), service.cluster("udp"))
    ]
    sentences += [served(rig.external, service.node_port(node, port), backend) for port in ("tcp", "udp")]
    hold(*sentences)
    with connect(node.pod(1), service.cluster()) as standing:
        exchange(standing)
        node.namespace.run(*lost.split())
        hold(*sentences, patience=RESTORED_SECONDS)
        assert exchange(standing) == backend.name


def test_should_set_tcp_close_wait_timeout(services: Services, rig: Rig) -> None:
    """Connections that are half closed would be forgotten after a minute, which is the kernel's default (P-06)."""
    node, server, client = rig.node(1), rig.node(2).pod(1), rig.node(1).pod(1)
    service = services.create("close-wait", tcp())
    service.endpoints(server, ports={"tcp": SERVER_PORT})
    with listen(server, SERVER_PORT) as listener:
        hold_open = _connect(listener, client, service.cluster())
        with hold_open[0] as near, hold_open[1]:
            near.shutdown(socket.SHUT_WR)
            pattern = rf"tcp\s+6 (\d+) CLOSE_WAIT src={re.escape(client.ipv4)} "

            def left() -> int:
                found = re.search(pattern, node.namespace.run("conntrack", "-L", "-p", "tcp"))
                return int(found[1]) if found else 0

            wait_until(lambda: left() > 0, "the node tracks the half-closed connection")
            assert 3540 <= left() <= 3600


def _connect(listener: socket.socket, client: Host, target: Target) -> tuple[socket.socket, socket.socket]:
    """Connect by the Service as soon as it serves, and return the client's and the server's end."""
    found: list[socket.socket] = []

    def connected() -> bool:
        try:
            found.append(connect(client, target, 0.5))
        except OSError:
            return False
        return True

    wait_until(connected, "the Service serves")
    return found[0], listener.accept()[0]


def test_should_not_be_vulnerable_to_the_invalid_conntrack_state_bug(services: Services, rig: Rig) -> None:
    """A stray packet of the server, far outside of the window, would reset its client's connection (M-11)."""
    server, client = rig.node(1).pod(1), rig.node(2).pod(1)
    service = services.create("invalid-state", tcp())
    service.endpoints(server, ports={"tcp": SERVER_PORT})
    with (
        listen(server, SERVER_PORT) as listener,
        server.namespace.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
    ):
        near, far = _connect(listener, client, service.cluster())
        with near, far:
            for sequence in (1, 100_000, 1 << 31, (1 << 32) - 100_000):
                raw.sendto(_stray(far, sequence), (client.ipv4, 0))
                for sender, reader in ((near, far), (far, near)):
                    sender.sendall(b"alive")
                    assert reader.recv(16) == b"alive"


def _stray(connection: socket.socket, sequence: int) -> bytes:
    """A packet of this connection's local end, whole with IP header, with any sequence number and ten bytes."""
    (source, source_port), (sink, sink_port) = connection.getsockname(), connection.getpeername()
    addresses = socket.inet_aton(source) + socket.inet_aton(sink)
    payload = b"out of it!"
    head = struct.pack("!HHIIBBHHH", source_port, sink_port, sequence, sequence, 5 << 4, 0x10, 1000, 0, 0)
    pseudo = addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(head) + len(payload))
    checksum = _checksum(pseudo + head + payload)
    head = head[:16] + struct.pack("!H", checksum) + head[18:]
    length = 20 + len(head) + len(payload)
    return struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses + head + payload


def _checksum(data: bytes) -> int:
    """RFC 1071; the length is even."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_should_transfer_much_data_through_a_service_from_every_node(services: Services, rig: Rig) -> None:
    """Great transfers would lose bytes or stop, as they fill every buffer on the way."""
    server = rig.node(1).pod(1)
    service = services.create("iperf", tcp())
    service.endpoints(server, ports={"tcp": SERVER_PORT})
    sink = Sink(server, SERVER_PORT)
    try:
        for node in rig.nodes:
            wait_until(lambda: _sent(node.pod(2), service.cluster(), 1) == 1, "the Service serves")  # noqa: B023
        with ThreadPoolExecutor() as pool:
            sent = pool.map(lambda node: _sent(node.pod(2), service.cluster(), VOLUME), rig.nodes)
            assert list(sent) == [VOLUME] * len(rig.nodes)
    finally:
        sink.close()


def _sent(client: Host, target: Target, volume: int) -> int:
    """Send so many bytes, and return how many the other side has got; 0: it was not reached."""
    piece = bytes(min(volume, 1 << 20))
    try:
        with connect(client, target, 30.0) as connection:
            for _ in range(volume // len(piece)):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            counted: str = connection.recv(64).decode()
            return int(counted or 0)
    except ConnectionError:
        return 0


def test_should_allow_creating_a_basic_sctp_service_with_pod_and_endpoints(
    services: Services, rig: Rig, api: Api
) -> None:
    """A protocol that is not served would be missed in silence, or take the Service's other ports with it (D-05)."""
    before = _has_sctp()
    sctp = {"name": "sctp", "protocol": "SCTP", "port": PORT}
    service = services.create("sctp-endpoint-test", tcp(), sctp)
    service.endpoints(rig.node(1).pod(1))
    hold(served(rig.node(2).pod(1), service.cluster(), rig.node(1).pod(1)))
    assert _has_sctp() == before
    wait_until(lambda: any("SCTP" in note for note in _notes(api, service.name)), "an Event tells of SCTP")


def _has_sctp() -> bool:
    """Whether the kernel has the protocol loaded."""
    return any(line.startswith("SCTP") for line in Path("/proc/net/protocols").read_text().splitlines())


def _notes(api: Api, name: str) -> list[str]:
    events = api.list_objects("Event", "default")
    return [event.get("note", "") for event in events if event.get("regarding", {}).get("name") == name]


def test_agents_tell_the_cluster_that_they_started(rig: Rig, services: Services, api: Api) -> None:
    """Somebody who looks at a node's Events would not see that its Services' proxy was restarted."""

    def told() -> set[str]:
        events = api.list_objects("Event", "default")
        return {event["regarding"]["name"] for event in events if event["reason"] == "Starting"}

    wait_until(lambda: told() >= {node.name for node in rig.nodes}, "an Event for each node")


def test_metrics_and_configuration_tell_what_is_served(services: Services, rig: Rig) -> None:
    """Somebody who looks for a fault on a node would be told of another state than the one that clients meet."""
    node, backend = rig.node(1), rig.node(1).pod(1)
    service = services.create("told")
    service.endpoints(backend)
    hold(served(node.pod(2), service.cluster(), backend), served(node.pod(2), service.cluster("udp"), backend))

    def metrics() -> str:
        return node.namespace.fetch("127.0.0.1", METRICS_PORT, "/metrics").body

    for port in ("tcp", "udp"):
        sample = f'spliceway_flows_total{{namespace="default",port="{port}",service="told"}} 5.0'
        wait_until(lambda: sample in metrics(), sample)  # noqa: B023
    assert "kubeproxy_sync_proxy_rules_last_timestamp_seconds" in metrics()
    config = json.loads(node.namespace.fetch("127.0.0.1", METRICS_PORT, "/configz").body)
    assert "tproxy" in json.dumps(config)
