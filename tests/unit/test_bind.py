"""Opening sockets. A failure leaves an address dead, or its owner without a word on why."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from spliceway.capture.bind import BindCapture
from spliceway.errors import FrontendError
from spliceway.model import Address, FrontendKey, Protocol


@pytest.fixture
def capture() -> Iterator[BindCapture]:
    made = BindCapture()
    yield made
    made.close()


def connects(address: Address) -> bool:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(5)
        return client.connect_ex(address) == 0


def test_a_reserved_port_refuses_clients_until_it_is_opened(capture: BindCapture) -> None:
    address = capture.reserve(Address("127.0.0.1", 0))
    assert address.port != 0
    assert not connects(address)
    fd = capture.open(address, Protocol.TCP)
    assert connects(address)
    assert not os.get_blocking(fd)
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert not connects(address)


def test_released_reservations_free_their_port(capture: BindCapture) -> None:
    address = capture.reserve(Address("127.0.0.1", 0))
    capture.release(FrontendKey(address, Protocol.TCP))
    capture.release(FrontendKey(address, Protocol.TCP))
    os.close(capture.open(address, Protocol.TCP))


def test_a_port_can_be_opened_again_right_after_its_connections(capture: BindCapture) -> None:
    """Without SO_REUSEADDR a restarted agent could not serve for a minute."""
    address = capture.reserve(Address("127.0.0.1", 0))
    with socket.socket(fileno=capture.open(address, Protocol.TCP)) as listener, socket.create_connection(address):
        listener.setblocking(True)
        listener.accept()[0].close()
    os.close(capture.open(address, Protocol.TCP))


def test_the_ipv6_wildcard_serves_both_families_and_an_ipv6_address_one(capture: BindCapture) -> None:
    wildcard = capture.reserve(Address("::", 0))
    fd = capture.open(wildcard, Protocol.TCP)
    assert connects(Address("127.0.0.1", wildcard.port))
    assert connects(Address("::1", wildcard.port))
    os.close(fd)
    loopback = capture.reserve(Address("::1", 0))
    fd = capture.open(loopback, Protocol.TCP)
    assert connects(loopback)
    assert not connects(Address("127.0.0.1", loopback.port))
    os.close(fd)


def test_a_udp_socket_is_bound_alone_and_takes_datagrams(capture: BindCapture) -> None:
    """A second socket that could share the port would get the datagrams, and one of the two would be deaf."""
    address = capture.reserve(Address("127.0.0.1", 0))
    with (
        socket.socket(fileno=capture.open(address, Protocol.UDP)) as bound,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        assert bound.type == socket.SOCK_DGRAM
        assert not os.get_blocking(bound.fileno())
        assert not connects(address), "the reservation of the TCP port still stands, unopened"
        client.sendto(b"hello", address)
        bound.settimeout(5)
        assert bound.recv(10) == b"hello"
        with pytest.raises(FrontendError, match="address already in use"):
            capture.open(address, Protocol.UDP)


def test_the_ipv6_wildcard_takes_datagrams_of_both_families(capture: BindCapture) -> None:
    with socket.socket(fileno=capture.open(Address("::", 0), Protocol.UDP)) as bound:
        bound.settimeout(5)
        port = bound.getsockname()[1]
        for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.sendto(host.encode(), (host, port))
                assert bound.recv(20) == host.encode()


def test_refusals_say_why_and_what_to_do(capture: BindCapture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(FrontendError) as caught:
        capture.open(Address(*taken.getsockname()), Protocol.TCP)
    assert str(caught.value).startswith("cannot listen: address already in use by another process;")
    with pytest.raises(FrontendError, match=r"not local to this machine; add it \(ip addr add 192.0.2.1 dev lo\)"):
        capture.open(Address("192.0.2.1", 80), Protocol.TCP)
    with pytest.raises(OSError, match="cannot listen"):
        capture.open(Address("192.0.2.1", 80), Protocol.TCP)
