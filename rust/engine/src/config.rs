//! Sizes of an engine, and everything that it can refuse.

use std::io;
use std::time::Duration;

use spliceway_core::pool::SpecError;

/// Most worker threads that are ever useful on one node.
pub const MAX_WORKERS: usize = 64;
/// Workers that are started when the number is left to us.
const DEFAULT_WORKERS: usize = 16;
/// Timers are not finer.
const LEAST_TIMEOUT: Duration = Duration::from_millis(1);
/// The longest time that an idle UDP session may be kept.
const MOST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Sizes of an engine. Every bound is counted when it bites.
#[derive(Clone, Debug)]
pub struct Config {
    /// Worker threads; 0 is one for each CPU that this process may use, at most 16.
    pub workers: usize,
    /// Flows open at once; beyond it, accepting pauses.
    pub max_flows: usize,
    /// Pipes for splicing at once; beyond it, bytes are copied.
    pub max_pipes: usize,
    /// Events that wait to be taken; beyond it, new ones are dropped.
    pub event_capacity: usize,
    /// UDP sessions at once; beyond it, the one that was idle longest makes room.
    pub max_sessions: usize,
    /// How long a UDP session without an answer waits for a datagram.
    pub udp_timeout: Duration,
    /// The same once the backend has answered.
    pub udp_stream_timeout: Duration,
    /// Clients that session affinity remembers; beyond it, the one that was idle longest is forgotten.
    pub max_affinities: usize,
    /// Mark of upstream sockets; 0: none. Another one needs CAP_NET_ADMIN.
    pub mark: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 0,
            max_flows: 1_000_000,
            max_pipes: 1024,
            event_capacity: 4096,
            max_sessions: 1_000_000,
            udp_timeout: Duration::from_secs(30),
            udp_stream_timeout: Duration::from_secs(120),
            max_affinities: 262_144,
            mark: 0,
        }
    }
}

impl Config {
    /// # Errors
    /// [`EngineError::Config`] names the first field that is out of range.
    pub fn validate(&self) -> Result<(), EngineError> {
        let bad = |field, least: usize, most: usize, value: usize| {
            (value < least || value > most)
                .then(|| EngineError::Config(format!("{field} must be {least} to {most}, not {value}")))
        };
        let bad_time = |field, value: Duration| {
            let seconds = value.as_secs_f64();
            (value < LEAST_TIMEOUT || value > MOST_TIMEOUT)
                .then(|| EngineError::Config(format!("{field} must be 0.001 to 86400 seconds, not {seconds}")))
        };
        [
            bad("workers", 0, MAX_WORKERS, self.workers),
            bad("max_flows", 1, 1 << 26, self.max_flows),
            bad("max_pipes", 0, 1 << 20, self.max_pipes),
            bad("event_capacity", 1, 1 << 24, self.event_capacity),
            bad("max_sessions", 1, 1 << 26, self.max_sessions),
            bad("max_affinities", 1, 1 << 26, self.max_affinities),
            bad_time("udp_timeout", self.udp_timeout),
            bad_time("udp_stream_timeout", self.udp_stream_timeout),
        ]
        .into_iter()
        .flatten()
        .next()
        .map_or(Ok(()), Err)
    }

    /// The number of workers to start.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(DEFAULT_WORKERS),
            n => n,
        }
    }
}

/// What the engine refuses. The text is one sentence for a person.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A size is out of range.
    #[error("{0}")]
    Config(String),
    /// The engine is not running (any more).
    #[error("the engine is not running: it was closed, or start() was not called")]
    Closed,
    /// `start` was called a second time.
    #[error("the engine was started before")]
    AlreadyStarted,
    /// A pool cannot be built.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// No listener has this number.
    #[error("no listener {0}")]
    UnknownListener(usize),
    /// No pool has this name.
    #[error("no pool {0}")]
    UnknownPool(String),
    /// The kernel refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}
