"""Session affinity: a client, by its address, stays with its backend (rules A-01 to A-07)."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from spliceway._engine import Engine
from support.rig import PATIENCE, Address, Backend, closed_port, listening, named, record, rig, wait_until

#: long enough to stay during a test, and one that a test can wait for
LONG, SHORT = ("default/shop:http", 10_800.0), ("default/shop:http", 0.3)


def ask(address: Address, client: str = "127.0.0.1") -> str:
    """Who answers a new connection of this client."""
    with socket.create_connection(address, PATIENCE, (client, 0)) as sock:
        sock.sendall(b"who?")
        return sock.recv(10).decode()


@contextlib.contextmanager
def backends(count: int) -> Iterator[list[Backend]]:
    """Backends that answer with their number."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Backend(named(str(number).encode()))) for number in range(count)]


def test_a_client_stays_and_clients_are_spread() -> None:
    """A shop that keeps its baskets in memory must see a customer's every request; not one server all customers."""
    with backends(4) as made, rig([]) as r:
        r.apply([b.address for b in made], balance="maglev", affinity=LONG)
        found = {f"127.0.1.{n}": ask(r.address, f"127.0.1.{n}") for n in range(1, 41)}
        assert len(set(found.values())) == 4
        for _ in range(3):
            assert {client: ask(r.address, client) for client in found} == found
        counters = r.engine.counters()
        assert (counters.affinities, counters.affinity_limit_hits) == (40, 0)


def test_switching_affinity_on_and_off() -> None:
    """Without affinity one client's connections spread (A-07); when it is switched on they gather."""
    with backends(3) as made, rig([]) as r:
        addresses = [b.address for b in made]
        for balance in ("maglev", "random"):
            r.apply(addresses, balance=balance)
            assert len({ask(r.address) for _ in range(30)}) == 3
            r.apply(addresses, balance=balance, affinity=LONG)
            assert len({ask(r.address) for _ in range(15)}) == 1
        r.apply(addresses, balance="source-hash")
        assert len({ask(r.address) for _ in range(15)}) == 1
        assert len({ask(r.address, f"127.0.1.{n}") for n in range(1, 41)}) == 3
        wait_until(lambda: r.engine.counters().affinities == 0, "what nobody needs to be forgotten")


def test_the_time_counts_from_the_last_new_flow() -> None:
    """A client that stays away for its time is drawn anew; one that does not, however long it goes on, stays (A-02)."""
    with backends(5) as made, rig([]) as r:
        r.apply([b.address for b in made], balance="maglev", affinity=SHORT)
        first, began, renewed = ask(r.address), time.monotonic(), time.monotonic()
        while time.monotonic() - began < 4 * SHORT[1]:
            asked = time.monotonic()
            answer = ask(r.address)
            # A machine that stands still for the whole time has let the client expire: then it proves nothing.
            assert answer == first or time.monotonic() - renewed >= SHORT[1]
            first, renewed = answer, asked
        seen: set[str] = set()
        for _ in range(25):
            wait_until(lambda: r.engine.counters().affinities == 0, "the client to be forgotten")
            seen.add(ask(r.address))
            if len(seen) > 1:
                break
        assert len(seen) > 1, "an expired client must be drawn anew (A-06)"


def test_a_changed_time_takes_effect_at_once() -> None:
    """kube-proxy's userspace mode never changed it (U-13): a shortened time left clients where they were for hours."""
    with backends(2) as made, rig([]) as r:
        addresses = [b.address for b in made]
        r.apply(addresses, affinity=LONG)
        ask(r.address)
        assert r.engine.counters().affinities == 1
        r.apply(addresses, affinity=(LONG[0], 0.01))
        wait_until(lambda: r.engine.counters().affinities == 0, "the client to be forgotten")


def test_pools_of_one_group_share_what_is_remembered() -> None:
    """A Service's NodePort, its ClusterIP and their local and cluster pools are one to a client (A-01, A-03)."""
    with backends(6) as made, rig([]) as r:
        listener = listening()
        local: Address = listener.getsockname()
        r.engine.add_listener(listener.detach(), "p@local")
        everywhere, here = [b.address for b in made], [b.address for b in made[:2]]
        r.apply(everywhere, balance="maglev", affinity=LONG)
        r.engine.apply([record("p@local", here, balance="maglev", affinity=LONG)], [], 2)
        clients = [f"127.0.1.{n}" for n in range(1, 31)]
        for client in clients:
            from_here = ask(local, client)
            assert from_here in ("0", "1")
            assert ask(r.address, client) == from_here
        # A pin counts only where its backend is: the local pool draws anew, and the cluster pool follows.
        others = [f"127.0.2.{n}" for n in range(1, 31)]
        assert {ask(r.address, client) for client in others} > {"0", "1"}
        for client in others:
            assert ask(local, client) in ("0", "1")
            assert ask(r.address, client) in ("0", "1")
        r.engine.apply([], ["p"], 3)
        assert r.engine.counters().affinities == 60
        r.engine.apply([], ["p@local"], 4)
        assert r.engine.counters().affinities == 0


def test_clients_of_a_dead_backend_get_another_one_and_keep_it() -> None:
    """A Pod that dies takes its sessions with it, but its clients must not meet it again with every connection."""
    with backends(3) as made, rig([]) as r:
        addresses = [b.address for b in made]
        r.apply(addresses, balance="maglev", affinity=LONG)
        clients = [f"127.0.1.{n}" for n in range(1, 31)]
        before = {client: ask(r.address, client) for client in clients}
        made[0].close()
        dead = [client for client in clients if before[client] == "0"]
        after = {client: ask(r.address, client) for client in clients}
        assert all(after[client] == before[client] for client in clients if client not in dead)
        assert "0" not in after.values()
        assert r.counters().retries == len(dead) == r.counters().saved
        assert {client: ask(r.address, client) for client in clients} == after
        assert r.counters().retries == len(dead), "the dead backend was tried again"
        # A backend that left takes its pins along, also when it comes back later.
        r.apply(addresses[2:], balance="maglev", affinity=LONG)
        assert {ask(r.address, client) for client in clients} == {"2"}
        r.apply(addresses, balance="maglev", affinity=LONG)
        assert {ask(r.address, client) for client in clients} == {"2"}


def test_parallel_first_connections_get_one_backend() -> None:
    """A browser opens six connections at once; each with a backend of its own would lose the session at once."""
    with backends(8) as made, rig([], workers=4) as r:
        r.apply([b.address for b in made], balance="random", affinity=LONG)
        for number in range(1, 21):
            seen: list[str] = []
            barrier = threading.Barrier(6)

            def connect(client: str, seen: list[str], barrier: threading.Barrier) -> None:
                barrier.wait(PATIENCE)
                seen.append(ask(r.address, client))

            client = f"127.0.3.{number}"
            threads = [threading.Thread(target=connect, args=(client, seen, barrier)) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            assert len(seen) == 6
            assert len(set(seen)) == 1, seen


def test_what_is_remembered_is_bounded() -> None:
    """An address scan through a Service with affinity must not use up the node's memory."""
    with backends(3) as made, rig([], max_affinities=10) as r:
        r.apply([b.address for b in made], affinity=LONG)
        for n in range(1, 31):
            ask(r.address, f"127.0.1.{n}")
            ask(r.address, "127.0.9.9")  # who is active is not forgotten
        counters = r.engine.counters()
        assert (counters.affinities, counters.affinity_limit_hits) == (10, 21)
        reasons = [r.engine.explain("p", client, 1).candidates[0].reason for client in ("127.0.9.9", "127.0.1.1")]
        assert ["pinned" in reason for reason in reasons] == [True, False]


def test_explain_tells_of_the_pin() -> None:
    """Whoever asks why one server is busy must be told that its clients are bound to it, and for how long."""
    with backends(3) as made, rig([]) as r:
        r.apply([*(b.address for b in made), closed_port()], balance="maglev", affinity=("g", 60.0))
        answer = ask(r.address)
        first = r.engine.explain("p", "127.0.0.1", 5).candidates[0]
        assert (first.host, first.port) == made[int(answer)].address
        assert first.reason in ("pinned by session affinity for 60 s more", "pinned by session affinity for 59 s more")


def test_an_engine_with_affinity_closes_while_clients_connect() -> None:
    """Closing must not wait for, or trip over, what is remembered."""
    with backends(2) as made:
        engine = Engine(workers=2)
        engine.start()
        engine.apply([record("p", [b.address for b in made], affinity=LONG)], [], 1)
        listener = listening()
        address: Address = listener.getsockname()
        engine.add_listener(listener.detach(), "p")
        ask(address)
        engine.close()
        assert engine.counters().worker_panics == 0


def test_a_group_passes_from_one_pool_to_another_in_one_batch() -> None:
    """A Service whose traffic policy changes gives its clients to another pool of the same group: they must stay with
    their backends, and new ones must be remembered."""
    with backends(3) as made, contextlib.closing(Engine(workers=1)) as engine:
        engine.start()
        addresses = [b.address for b in made]
        listener = listening()
        address = listener.getsockname()
        number = engine.add_listener(listener.detach(), "one")
        engine.apply([record("one", addresses, affinity=LONG)], [], 1)
        backend = ask(address)
        engine.apply([record("one", addresses), record("two", addresses, affinity=LONG)], [], 2)
        engine.retarget_listener(number, "two")
        assert {ask(address) for _ in range(6)} == {backend}
        assert len({ask(address, "127.0.0.2") for _ in range(6)}) == 1
        assert engine.counters().affinities == 2
