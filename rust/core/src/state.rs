//! What outlives generations: counters, loads, the retry budget. Shared by all workers; relaxed atomics throughout, since
//! no counter says anything of another.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use crate::histogram::Histogram;
use crate::retry::{Budget, RetryPolicy};
use crate::session::End;

/// The unit of drain deadlines: fine enough for a drain, coarse enough for eight years in 32 bits.
const TICK_MILLIS: u64 = 64;

/// What is known of a backend of a pool for as long as it or one of its flows lives. Shared by all workers and
/// generations.
#[derive(Debug)]
pub struct BackendState {
    /// Where to dial; a v4-mapped address was made an IPv4 one.
    pub address: SocketAddr,
    /// Flows open now.
    pub active: AtomicU32,
    /// Failed dials since the last that succeeded.
    pub consecutive_failures: AtomicU32,
    /// Flows that were given to it.
    pub flows: AtomicU64,
    /// Payload bytes from clients.
    pub bytes_in: AtomicU64,
    /// Payload bytes to clients.
    pub bytes_out: AtomicU64,
    /// Failed dials.
    connect_failures: AtomicU32,
    /// When its flows are cut, in ticks of the engine's monotonic clock; 0: never.
    drain_at: AtomicU32,
}

// In an `Arc` it takes 88 bytes, which is what the allocator's chunk of 96 holds. A large cluster has 100,000 of them.
const _: () = assert!(size_of::<BackendState>() == 72);

impl BackendState {
    /// A backend that was never used.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            active: AtomicU32::new(0),
            consecutive_failures: AtomicU32::new(0),
            flows: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            connect_failures: AtomicU32::new(0),
            drain_at: AtomicU32::new(0),
        }
    }

    /// Failed dials, modulo 2^32.
    pub fn connect_failures(&self) -> u32 {
        self.connect_failures.load(Relaxed)
    }

    /// Count a failed dial; tells how many there were since the last that succeeded.
    pub fn count_connect_failure(&self) -> u32 {
        self.connect_failures.fetch_add(1, Relaxed);
        self.consecutive_failures.fetch_add(1, Relaxed).wrapping_add(1)
    }

    /// When its flows are cut, by the engine's clock; none: never.
    pub fn drain_deadline(&self) -> Option<Duration> {
        let ticks = self.drain_at.load(Relaxed);
        (ticks > 0).then(|| Duration::from_millis(u64::from(ticks) * TICK_MILLIS))
    }

    /// Cut its flows at `deadline`, rounded up by less than 64 ms (after eight years: down to these). A deadline that runs
    /// already is kept.
    pub fn start_drain(&self, deadline: Duration) {
        let ticks = deadline.as_millis().div_ceil(u128::from(TICK_MILLIS)).max(1);
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        let _ = self.drain_at.compare_exchange(0, ticks, Relaxed, Relaxed);
    }

    /// It is back: its flows run on.
    pub fn stop_drain(&self) {
        self.drain_at.store(0, Relaxed);
    }
}

/// Totals of a pool since it was first built, its retry budget and its place in the round.
#[derive(Debug)]
#[allow(missing_docs, reason = "named as the counters of the Python boundary, which documents them")]
pub struct PoolState {
    pub flows: AtomicU64,
    pub active: AtomicU32,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub tries: AtomicU64,
    pub retries: AtomicU64,
    pub saved: AtomicU64,
    pub failed: AtomicU64,
    pub replayed: AtomicU64,
    pub budget_exhausted: AtomicU64,
    pub no_backend: AtomicU64,
    pub source_not_kept: AtomicU64,
    pub ended_closed: AtomicU64,
    pub ended_client_reset: AtomicU64,
    pub ended_backend_reset: AtomicU64,
    pub ended_drained: AtomicU64,
    pub budget: Budget,
    /// Next turn of round-robin.
    pub(crate) turn: AtomicU32,
    connect_times: OnceLock<Box<Histogram>>,
}

impl PoolState {
    pub(crate) fn new(policy: &RetryPolicy) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            flows: zero(),
            active: AtomicU32::new(0),
            bytes_in: zero(),
            bytes_out: zero(),
            tries: zero(),
            retries: zero(),
            saved: zero(),
            failed: zero(),
            replayed: zero(),
            budget_exhausted: zero(),
            no_backend: zero(),
            source_not_kept: zero(),
            ended_closed: zero(),
            ended_client_reset: zero(),
            ended_backend_reset: zero(),
            ended_drained: zero(),
            budget: Budget::new(policy),
            turn: AtomicU32::new(0),
            connect_times: OnceLock::new(),
        }
    }

    /// Counts the end of a flow.
    pub fn count_end(&self, end: End) {
        let counter = match end {
            End::Closed => &self.ended_closed,
            End::ClientReset => &self.ended_client_reset,
            End::BackendReset => &self.ended_backend_reset,
            End::Drained => &self.ended_drained,
            End::NoBackend => return, // counted with its reason
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts the time that a successful dial took.
    pub fn observe_connect(&self, time: Duration) {
        self.connect_times.get_or_init(Box::default).observe(time);
    }

    /// Connect times; None before the first one, since most pools of a node are never used.
    #[must_use]
    pub fn connect_times(&self) -> Option<&Histogram> {
        self.connect_times.get().map(|histogram| &**histogram)
    }
}
