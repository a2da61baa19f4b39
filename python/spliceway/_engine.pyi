"""The compiled engine: worker threads that accept, pick, dial, retry and relay, off the GIL.

Only `spliceway.engine` imports this module. Plain data crosses: tuples, ints, floats in seconds, strings. Every call
returns at once, except `Engine.apply` (milliseconds; it builds tables with the GIL released) and `Engine.close`.
An `Engine` may be used from any thread. In a forked child every method raises `EngineForkedError`.
"""

from typing import Final, NamedTuple, final

__all__ = [
    "CONNECT_BUCKETS",
    "BackendCounters",
    "Candidate",
    "Engine",
    "EngineCounters",
    "Event",
    "Explanation",
    "PoolCounters",
    "__version__",
]

__version__: Final[str]

class PoolCounters(NamedTuple):
    """Running totals of one pool since it was first applied. Bytes count payload, not headers.

    A UDP session counts as a flow, and each pick of a backend as a try. It ends ``closed`` when it was idle,
    ``backend_reset`` when its backend refused it, ``drained`` when its backend left.
    """

    name: str
    #: flows accepted, and flows open now; a UDP session that goes on in another pool is a flow of both
    flows: int
    active: int
    #: client to backend, backend to client
    bytes_in: int
    bytes_out: int
    #: dial attempts; attempts after the first of a flow (without second dials for the source's sake, see
    #: ``source_not_kept``); flows served by a retry; flows that got no backend
    tries: int
    retries: int
    saved: int
    failed: int
    #: flows whose held bytes were sent to another backend after a reset or close without an answer
    replayed: int
    #: retries refused because the retry budget was empty
    budget_exhausted: int
    #: flows refused because the pool had no backend
    no_backend: int
    #: flows whose backend saw this machine's address although the route says ``keep_source``, because it answers the
    #: client's address by a way past this machine
    source_not_kept: int
    #: flows ended by: both sides closed in order, client reset, backend reset, drain deadline
    ended_closed: int
    ended_client_reset: int
    ended_backend_reset: int
    ended_drained: int
    #: sum of connect times of successful dials in seconds, and counts per bucket of `CONNECT_BUCKETS` (not cumulative,
    #: the last one is +Inf)
    connect_seconds: float
    connect_buckets: tuple[int, ...]
    backends: tuple[BackendCounters, ...]

class BackendCounters(NamedTuple):
    """Running totals of one backend of a pool. ``draining``: it left the pool but still has flows."""

    host: str
    port: int
    weight: int
    healthy: bool
    draining: bool
    active: int
    flows: int
    bytes_in: int
    bytes_out: int
    connect_failures: int
    #: failures since the last successful connect
    consecutive_failures: int

class EngineCounters(NamedTuple):
    """State of the engine as a whole."""

    generation: int
    workers: int
    listeners: int
    flows: int
    #: how often each bound bit
    flow_limit_hits: int
    fd_limit_hits: int
    pipe_limit_hits: int
    events_dropped: int
    worker_panics: int
    accept_errors: int
    #: UDP sessions now; how often the oldest had to make room; ended because their backend left its pool; datagrams
    #: that could not be relayed (no route, no backend, no memory, refused by the kernel); trains of equal datagrams
    #: that the kernel refused, and that left one by one
    sessions: int
    session_limit_hits: int
    sessions_moved: int
    datagrams_dropped: int
    trains_refused: int
    #: clients that session affinity remembers now; how many were forgotten for lack of room
    affinities: int
    affinity_limit_hits: int
    #: pairs of client and backend IP whose answers are taken to bypass this machine; how many were forgotten for lack
    #: of room
    bypasses: int
    bypass_limit_hits: int
    #: connections for which there was no route
    unrouted: int
    #: True while accepting is paused at the fd or flow limit
    paused: bool
    pools: tuple[PoolCounters, ...]

class Event(NamedTuple):
    """Something that happened in a worker.

    ``kind`` is one of ``connect-failed`` (``backend`` refused, timed out, was unreachable or reset; ``count`` is its
    number of failures in a row), ``connect-recovered`` (first success after failures), ``no-backend`` (a flow was
    refused because every try failed), ``backend-aborted`` (closed or reset before its first byte although the client
    had sent some), ``paused`` and ``resumed`` (fd or flow limit), ``drained`` (``count`` flows were cut at the
    deadline), ``worker-died``, ``not-permitted`` (told once: without CAP_NET_ADMIN, flows that need a mark or the
    client's address on their upstream socket fail).
    """

    kind: str
    #: seconds since the Unix epoch
    time: float
    pool: str
    #: ``host:port`` in canonical form, empty when the event has no backend
    backend: str
    reason: str
    # hides tuple.count, which nobody needs of an event
    count: int  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]

class Candidate(NamedTuple):
    """One backend in the order in which a flow would try it."""

    host: str
    port: int
    weight: int
    healthy: bool
    active: int
    consecutive_failures: int
    #: 1 for the first choice, 2 for the first retry, ... ; 0: it would not be tried
    rank: int
    reason: str

class Explanation(NamedTuple):
    """What the selection code would do for a flow from this client, without side effects on it."""

    pool: str
    balance: str
    generation: int
    candidates: tuple[Candidate, ...]

#: upper bounds in seconds of the connect-time histogram, without +Inf
CONNECT_BUCKETS: Final[tuple[float, ...]]

@final
class Engine:
    """Inert until `start`. ``workers`` 0 means one for each CPU that this process may use, at most 16.

    Raises:
        ValueError: a number is out of range; the text names the argument.
    """

    def __new__(
        cls,
        *,
        workers: int = 0,
        max_flows: int = 1_000_000,
        max_pipes: int = 1024,
        event_capacity: int = 4096,
        max_sessions: int = 1_000_000,
        udp_timeout: float = 30.0,
        udp_stream_timeout: float = 120.0,
        max_affinities: int = 262_144,
        mark: int = 0,
    ) -> Engine: ...
    def start(self) -> None:
        """Start the worker threads. Raises `EngineError` when called twice, `OSError` when the kernel refuses."""

    def apply(
        self,
        upserts: list[
            tuple[
                str,
                str,
                tuple[int, float, float, float, int, bool],
                float | None,
                tuple[str, float] | None,
                tuple[tuple[str, int, int, bool], ...],
            ]
        ],
        removes: list[str],
        generation: int,
        routes: list[
            tuple[
                str,
                str,
                int,
                tuple[tuple[str, bool] | None, tuple[str, bool] | None, tuple[str, bool] | None],
            ]
        ] = ...,
        unroutes: list[tuple[str, str, int]] = ...,
    ) -> None:
        """Create, replace and remove pools and routes in one swap, and publish ``generation``.

        An upsert is ``(name, balance, (tries, connect_timeout, deadline, budget_ratio, budget_reserve, replay), drain,
        affinity, ((host, port, weight, healthy), ...))``; affinity is ``(group, timeout in seconds)`` or None.

        A route is ``(protocol, host, port, (pod, node, ext))``: what transparent listeners do with clients that dialled
        ``host:port`` (``0.0.0.0`` and ``::``: any address of the family that has no route of its own), for each class
        of client ``(pool, keep_source)`` or None (the client is reset, a datagram ignored). ``protocol`` is ``tcp`` or
        ``udp``. An unroute is ``(protocol, host, port)``. The pool of a route need not exist.

        ``keep_source``: the backend sees the client's address, as far as the network lets its answers come back here. A
        connection that gets none within two fifths of ``connect_timeout`` is dialled again from this machine's address;
        if the same backend answers that, flows of this pair of client and backend IP use it at once for 10 s; for 60 s
        when that comes twice.

        UDP sessions whose backend is no longer in their pool end with this call: their next datagram picks again
        (C-08). Those on a backend of weight 0 stay. Counters of backends that stay are kept. Flows of a removed pool or
        backend run on until ``drain`` seconds have passed (None: until they end). Nothing is changed if any value is
        bad.

        Raises:
            ValueError: a bad address, port, weight, balance or policy; the text names the pool and the field.
        """

    def add_listener(self, fd: int, pool: str) -> int:
        """Serve ``fd``, a listening TCP socket or a bound UDP socket, for ``pool``; return the listener's number.

        The engine owns ``fd`` from the moment of the call, also when it raises. The pool need not exist yet or any
        more; then clients are reset.
        """

    def add_transparent_listener(self, fd: int, client_class: str) -> int:
        """Serve ``fd``, a socket with ``IP_TRANSPARENT``, by the routes; return the listener's number.

        The original destination is the accepted socket's own name, or (UDP) the datagram's ``IP_ORIGDSTADDR``, which
        the engine enables. ``client_class`` is ``pod``, ``node`` or ``ext``. A UDP socket is served by one worker: give
        one for each, bound alike with ``SO_REUSEPORT``. The engine owns ``fd`` from the moment of the call.
        """

    def retarget_listener(self, listener: int, pool: str) -> None:
        """New flows of ``listener`` go to ``pool``. Raises `KeyError` for an unknown listener."""

    def remove_listener(self, listener: int) -> None:
        """Close the listener before returning: its address can be bound again. Established flows run on.

        Raises `KeyError` for an unknown listener.
        """

    def drain(self, deadline: float, pool: str | None = None) -> None:
        """Close the listeners of ``pool`` (None: all of them) and reset what still runs after ``deadline`` seconds.

        Returns at once; a ``drained`` event tells when nothing is left.
        """

    def explain(self, pool: str, host: str, port: int) -> Explanation:
        """Tell which backends a flow from client ``host:port`` would try. Raises `KeyError` for an unknown pool."""

    def counters(self, *, all_pools: bool = True) -> EngineCounters:
        """Read all counters. ``all_pools=False`` leaves out pools that never had a flow."""

    def pool_counters(self, pool: str) -> PoolCounters:
        """Read one pool's counters. Raises `KeyError` for an unknown pool."""

    def take_events(self, limit: int = 1024) -> list[Event]:
        """Take up to ``limit`` events, oldest first, and clear the readiness of `wake_fd` when none is left."""

    @property
    def wake_fd(self) -> int:
        """An eventfd that is readable while events wait. It belongs to the engine; do not close it."""

    @property
    def generation(self) -> int:
        """The number of the last published generation, 0 before the first."""

    def close(self, deadline: float = 5.0) -> None:
        """Stop accepting, cut the flows that are left, and join the workers within ``deadline`` seconds.

        Releases the GIL. A second call does nothing.
        """
