"""What a client and a backend see of each other through the engine: every byte, every end, every reset."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import random
import socket
import sys
import termios
import threading

import pytest

from support.rig import PATIENCE, Backend, echo, read_all, read_exactly, reset, rig, wait_until

MIB = 1 << 20


def test_half_close_keeps_the_slow_reply() -> None:
    """A client that shuts its sending side down (curl, nc, git) must still get the whole reply."""
    reply = random.Random(1).randbytes(8 * MIB)

    def slow(connection: socket.socket) -> None:
        request = read_all(connection)  # ends only when the half-close is passed on
        assert request == b"give me all"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for start in range(0, len(reply), 50_000):
            connection.sendall(reply[start : start + 50_000])

    with Backend(slow) as backend, rig([backend.address]) as r, r.connect() as client:
        client.sendall(b"give me all")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == reply
        r.wait_idle()
        assert r.counters().ended_closed == 1


def test_backend_half_close_keeps_the_upload() -> None:
    """A backend that ends its reply first must still get the rest of what the client sends."""
    received: list[bytes] = []

    def early(connection: socket.socket) -> None:
        connection.sendall(b"hi")
        connection.shutdown(socket.SHUT_WR)
        received.append(read_all(connection))

    upload = random.Random(2).randbytes(3 * MIB)
    with Backend(early) as backend, rig([backend.address]) as r, r.connect() as client:
        assert read_all(client) == b"hi"
        client.sendall(upload)
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: bool(received), "the backend to have all")
        assert received[0] == upload


@pytest.mark.parametrize("warm", [0, 1, 5 * MIB])
def test_backend_reset_reaches_the_client_as_reset(warm: int) -> None:
    """A crash of the backend must look like a crash, not like a complete reply."""
    begun = threading.Event()

    def crash(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(bytes(warm))
        begun.wait(PATIENCE)
        reset(connection)

    with Backend(crash) as backend, rig([backend.address]) as r, r.connect() as client:
        client.sendall(b"x")
        left = warm
        while left:
            left -= len(client.recv(min(left, MIB)))
        begun.set()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        r.wait_idle()
        assert r.counters().ended_backend_reset == 1


def test_client_reset_reaches_the_backend_as_reset() -> None:
    """A client that aborts must free the backend at once."""
    outcome: list[str] = []

    def watch(connection: socket.socket) -> None:
        connection.sendall(connection.recv(10))
        try:
            connection.recv(1)
            outcome.append("end")
        except ConnectionResetError:
            outcome.append("reset")

    with Backend(watch) as backend, rig([backend.address]) as r:
        client = r.connect()
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        reset(client)
        wait_until(lambda: bool(outcome), "the backend to see an end")
        assert outcome == ["reset"]
        r.wait_idle()
        assert r.counters().ended_client_reset == 1


def test_one_byte_at_a_time() -> None:
    """An interactive session (ssh, telnet) must not lose or wait for a byte."""
    with Backend(echo) as backend, rig([backend.address]) as r, r.connect() as client:
        for n in range(2000):
            byte = bytes([n % 256])
            client.sendall(byte)
            assert client.recv(1) == byte
    assert backend.accepted == 1


@pytest.mark.parametrize("flows", [1, 4])
def test_64_mib_both_ways_arrive_unchanged(flows: int) -> None:
    """Bulk data in both directions at once must arrive complete and in order, by copy and by splice."""
    size = 64 * MIB // flows
    with Backend(echo) as backend, rig([backend.address]) as r:

        def transfer(seed: int) -> None:
            block = random.Random(seed).randbytes(MIB)
            sent, got = hashlib.sha256(), hashlib.sha256()
            with r.connect() as client:

                def send() -> None:
                    for _ in range(size // MIB):
                        client.sendall(block)
                        sent.update(block)
                    client.shutdown(socket.SHUT_WR)

                sender = threading.Thread(target=send)
                sender.start()
                while chunk := client.recv(MIB):
                    got.update(chunk)
                sender.join()
            assert sent.digest() == got.digest()
            passed.append(seed)

        passed: list[int] = []
        threads = [threading.Thread(target=transfer, args=(seed,)) for seed in range(flows)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(passed) == list(range(flows))
        r.wait_idle()
        counters = r.counters()
        assert (counters.bytes_in, counters.bytes_out) == (size * flows, size * flows)


def wait_acknowledged(sock: socket.socket) -> None:
    """Until the other side's kernel has all that was sent, the end included."""

    def unacknowledged() -> int:
        return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    wait_until(lambda: unacknowledged() == 0, "all to be acknowledged")


def slow_client(address: tuple[str, int]) -> socket.socket:
    """One whose bytes wait in the engine until it reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(PATIENCE)
    client.connect(address)
    return client


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("size", [1, 48 << 10])
def test_a_reply_that_ended_before_a_reset_arrives_whole(size: int, writes: bool) -> None:
    """A backend that closes answers late bytes by a reset, as kernels do: the client must not lose the reply for it.

    ``writes``: the reset comes because the client goes on sending, else unasked.
    """
    reply = random.Random(size).randbytes(size)
    ended = threading.Event()

    def answers_and_is_gone(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(reply)
        connection.shutdown(socket.SHUT_WR)
        wait_acknowledged(connection)
        if writes:
            connection.close()
        else:
            reset(connection)
        ended.set()

    with Backend(answers_and_is_gone) as backend, rig([backend.address]) as r, slow_client(r.address) as client:
        client.sendall(b"x")
        assert ended.wait(PATIENCE)
        if writes:
            client.sendall(b"more")
            wait_until(lambda: r.counters().bytes_in == 5, "it to be passed on, and to be answered by a reset")
        assert read_all(client) == reply
        client.close()
        r.wait_idle()


def test_a_request_that_ended_before_its_client_was_gone_arrives_whole() -> None:
    """Who sends and closes wants no answer, and answers one by a reset: the backend must still get all of it."""
    request = random.Random(3).randbytes(48 << 10)
    received: list[bytes] = []
    gone, told = threading.Event(), threading.Event()

    def greets_and_reads(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert gone.wait(PATIENCE)
        connection.sendall(b"hello")
        assert told.wait(PATIENCE)
        received.append(read_all(connection))

    with Backend(greets_and_reads) as backend, rig([backend.address]) as r:
        client = r.connect()
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        wait_acknowledged(client)
        client.close()
        gone.set()
        wait_until(lambda: r.counters().bytes_out == 5, "the answer to be passed on, and to be answered by a reset")
        told.set()
        wait_until(lambda: bool(received), "the backend to have all")
        assert received[0] == request
        r.wait_idle()


def test_backend_that_accepts_and_closes() -> None:
    """A backend that closes at once ends the client's connection in order; the engine does not retry on its own."""
    with Backend(lambda connection: None) as backend, rig([backend.address]) as r, r.connect() as client:
        assert client.recv(1) == b""
        client.close()
        r.wait_idle()
        assert (backend.accepted, r.counters().retries) == (1, 0)


def test_a_stalled_reader_stops_the_writer_and_costs_nobody_else() -> None:
    """One client that does not read must neither fill the node's memory nor slow other clients down."""
    sent = [0]

    def pour(connection: socket.socket) -> None:
        connection.setblocking(True)
        connection.settimeout(PATIENCE)
        if connection.recv(1) == b"p":
            while True:
                sent[0] += connection.send(bytes(MIB))
        else:
            connection.sendall(b"ok")

    with Backend(pour) as backend, rig([backend.address], workers=1) as r:
        stalled = r.connect()
        stalled.sendall(b"p")
        level = -1

        def settled() -> bool:
            nonlocal level
            for _ in range(20):
                with r.connect() as other:
                    other.sendall(b"x")
                    assert other.recv(2) == b"ok"
            before, level = level, sent[0]
            return before == level > 0

        wait_until(settled, "the writer to be held back")
        assert sent[0] < 64 * MIB
        reset(stalled)
        r.wait_idle()


def fill(sock: socket.socket) -> int:
    """Write until nothing fits any more; returns how many bytes did."""
    sock.setblocking(False)
    written = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            written += sock.send(bytes(MIB))
    sock.settimeout(PATIENCE)
    return written


def test_a_client_that_resets_frees_a_backend_that_does_not_read() -> None:
    """A hung backend and clients that give up must not eat the node's descriptors."""
    release = threading.Event()
    outcomes: list[str] = []

    def hung(connection: socket.socket) -> None:
        release.wait(PATIENCE)
        try:
            read_all(connection)
            outcomes.append("end")
        except ConnectionResetError:
            outcomes.append("reset")

    with Backend(hung) as backend, rig([backend.address]) as r:
        for _ in range(5):
            client = r.connect()
            assert fill(client) > 0
            wait_until(lambda: r.counters().active > 0, "the flow")
            reset(client)
        r.wait_idle()
        assert r.counters().ended_client_reset == 5
        release.set()
        wait_until(lambda: len(outcomes) == 5, "the backend to see the ends")
        assert outcomes == ["reset"] * 5


def test_a_backend_that_resets_frees_a_client_that_does_not_read() -> None:
    """The same the other way round: a stalled client must not keep a dead backend's flow."""

    def pours_then_crashes(connection: socket.socket) -> None:
        connection.recv(1)
        fill(connection)
        reset(connection)

    with Backend(pours_then_crashes) as backend, rig([backend.address]) as r, r.connect() as client:
        client.sendall(b"x")
        wait_until(lambda: r.counters().bytes_out > 0, "the flow")
        r.wait_idle()
        assert r.counters().ended_backend_reset == 1
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_bytes_of_an_aborted_flow_never_reach_another_client() -> None:
    """A reader that stalls and resets must not leave its bytes where the next client gets them."""

    def pour(connection: socket.socket) -> None:
        tag = connection.recv(1)
        for _ in range(64 * MIB if tag == b"A" else 8 * MIB, 0, -MIB):
            connection.sendall(tag * MIB)

    with Backend(pour) as backend, rig([backend.address], workers=1) as r:
        for _ in range(3):
            with socket.socket() as stalled:
                stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                stalled.settimeout(PATIENCE)
                stalled.connect(r.address)
                stalled.sendall(b"A")
                stalled.shutdown(socket.SHUT_WR)
                read_exactly(stalled, 12 * MIB)  # enough for splicing to have begun
                level = [-1]

                def held_back(level: list[int] = level) -> bool:
                    before, level[0] = level[0], r.counters().bytes_out
                    return before == level[0]

                wait_until(held_back, "bytes to wait in the engine")
                reset(stalled)
            r.wait_idle()
            with r.connect() as client:
                client.sendall(b"B")
                client.shutdown(socket.SHUT_WR)
                assert read_all(client) == b"B" * 8 * MIB


@pytest.mark.parametrize("ends", [False, True])
def test_an_urgent_byte_neither_stalls_nor_truncates(ends: bool) -> None:
    """One urgent byte in a long upload must not spin a worker, and the rest must arrive."""
    received = [0, 0]

    def sink(connection: socket.socket) -> None:
        while chunk := connection.recv(MIB):
            received[0] += len(chunk)
        received[1] = 1

    with Backend(sink) as backend, rig([backend.address], workers=1) as r, r.connect() as client:
        client.sendall(bytes(16 * MIB))
        client.send(b"!", socket.MSG_OOB)
        client.sendall(bytes(MIB))
        if ends:
            client.shutdown(socket.SHUT_WR)
        # The urgent byte itself is out of band: a relay may drop it, as any program that only reads does.
        wait_until(lambda: received[0] >= 17 * MIB and received[1] == ends, "the whole upload")


def test_garbage_and_sudden_ends_never_stop_a_worker() -> None:
    """Nothing that a client or a backend sends, or fails to send, may crash or stall the engine."""
    random_source = random.Random(7)

    def erratic(connection: socket.socket) -> None:
        choice = random_source.random()
        if choice < 0.3:
            return reset(connection)
        connection.recv(random_source.choice([1, 100, MIB]))
        if choice < 0.6:
            connection.sendall(random_source.randbytes(random_source.choice([1, 70_000])))
        if choice < 0.8:
            connection.shutdown(socket.SHUT_WR)
        return None

    with Backend(erratic) as bad, Backend(echo) as good, rig([bad.address]) as r:
        for _ in range(400):
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                client = stack.enter_context(r.connect())
                client.sendall(random_source.randbytes(random_source.choice([0, 1, 50_000])))
                if random_source.random() < 0.5:
                    client.shutdown(socket.SHUT_WR)
                    client.recv(10)
                reset(client) if random_source.random() < 0.5 else client.close()
        r.wait_idle()
        r.apply([good.address])
        with r.connect() as client:
            client.sendall(b"still here")
            assert client.recv(20) == b"still here"
