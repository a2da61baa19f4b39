//! The backends of one service port in one generation, and the state that outlives generations.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::hash::{address_hash, name_hash};
use crate::histogram::Histogram;
use crate::maglev::{MAX_BACKENDS, TableCache};
use crate::retry::{Budget, RetryPolicy};
use crate::rng::Rng;
use crate::select::Scheduler;

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// By consistent hash of the client's address.
    #[default]
    Maglev,
    /// At random.
    Random,
    /// In turns.
    RoundRobin,
    /// The one with the fewest active flows.
    LeastConn,
    /// The less loaded of two drawn at random.
    P2c,
}

impl Balance {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Maglev, Self::Random, Self::RoundRobin, Self::LeastConn, Self::P2c];

    /// The name that users write.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::LeastConn => "least-conn",
            Self::P2c => "p2c",
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name is none of those in [`Balance::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("balance must be one of maglev, random, round-robin, least-conn, p2c, not {0:?}")]
pub struct UnknownBalance(pub String);

impl FromStr for Balance {
    type Err = UnknownBalance;

    fn from_str(name: &str) -> Result<Self, UnknownBalance> {
        let found = Self::ALL.into_iter().find(|balance| balance.as_str() == name);
        found.ok_or_else(|| UnknownBalance(name.to_owned()))
    }
}

/// A backend as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Where to dial.
    pub address: SocketAddr,
    /// Relative share of new flows; 0 takes none.
    pub weight: u16,
    /// False: use it only when nothing better is left.
    pub healthy: bool,
}

/// A pool as it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSpec {
    /// The service port, or the user's own name. Identifies the pool across generations.
    pub name: String,
    /// How a backend is chosen.
    pub balance: Balance,
    /// When another backend is tried.
    pub retry: RetryPolicy,
    /// How long flows to a removed backend may still run; None: until they end.
    pub drain: Option<Duration>,
    /// In any order.
    pub backends: Vec<BackendSpec>,
}

/// Why a pool cannot be built. Texts name the pool and the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A pool must have a name.
    #[error("a pool has an empty name; give it one")]
    NoName,
    /// The backend cannot be dialled.
    #[error("pool {pool}: backend {address}: {problem}")]
    Address {
        /// Name of the pool.
        pool: String,
        /// The backend.
        address: SocketAddr,
        /// What is wrong with the address.
        problem: &'static str,
    },
    /// One address is given twice with different weight or health.
    #[error("pool {pool}: backend {address} is given twice with different weight or health; keep one")]
    Conflict {
        /// Name of the pool.
        pool: String,
        /// The backend.
        address: SocketAddr,
    },
    /// More backends than a table can number.
    #[error("pool {pool}: {count} backends are more than {MAX_BACKENDS}; split the pool")]
    TooMany {
        /// Name of the pool.
        pool: String,
        /// How many were given.
        count: usize,
    },
    /// A value of the retry policy is out of range.
    #[error("pool {pool}: {problem}")]
    Retry {
        /// Name of the pool.
        pool: String,
        /// Names the field.
        problem: String,
    },
}

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
    pub connect_failures: AtomicU64,
    /// When its flows are cut, in milliseconds of the engine's monotonic clock; 0: never.
    pub drain_at: AtomicU64,
}

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
            connect_failures: AtomicU64::new(0),
            drain_at: AtomicU64::new(0),
        }
    }
}

/// A backend in one generation: what is said of it now, and its lasting state, to which it dereferences
/// (`backend.address`), so that the address is kept once.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Shared with other generations.
    pub state: Arc<BackendState>,
    /// Relative share of new flows; 0 takes none.
    pub weight: u16,
    /// False: used only when nothing better is left.
    pub healthy: bool,
}

impl Deref for Backend {
    type Target = BackendState;

    fn deref(&self) -> &BackendState {
        &self.state
    }
}

/// Totals of a pool since it was first built, its retry budget and its place in the round.
#[derive(Debug)]
#[allow(missing_docs, reason = "named as the counters of the Python boundary, which documents them")]
pub struct PoolState {
    pub flows: AtomicU64,
    pub active: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub tries: AtomicU64,
    pub retries: AtomicU64,
    pub saved: AtomicU64,
    pub failed: AtomicU64,
    pub replayed: AtomicU64,
    pub budget_exhausted: AtomicU64,
    pub no_backend: AtomicU64,
    pub ended_closed: AtomicU64,
    pub ended_client_reset: AtomicU64,
    pub ended_backend_reset: AtomicU64,
    pub ended_drained: AtomicU64,
    pub budget: Budget,
    /// Next turn of round-robin.
    pub(crate) turn: AtomicUsize,
    connect_times: OnceLock<Box<Histogram>>,
}

impl PoolState {
    fn new(policy: &RetryPolicy) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            flows: zero(),
            active: zero(),
            bytes_in: zero(),
            bytes_out: zero(),
            tries: zero(),
            retries: zero(),
            saved: zero(),
            failed: zero(),
            replayed: zero(),
            budget_exhausted: zero(),
            no_backend: zero(),
            ended_closed: zero(),
            ended_client_reset: zero(),
            ended_backend_reset: zero(),
            ended_drained: zero(),
            budget: Budget::new(policy),
            turn: AtomicUsize::new(0),
            connect_times: OnceLock::new(),
        }
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

/// One pool in one generation. Immutable but for the counters.
#[derive(Debug)]
pub struct Pool {
    /// Identifies it across generations.
    pub name: Arc<str>,
    /// The [`name_hash`], for [`flow_key`](crate::hash::flow_key).
    pub seed: u64,
    /// How a backend is chosen.
    pub balance: Balance,
    /// When another backend is tried.
    pub retry: RetryPolicy,
    /// How long flows to a removed backend may still run; None: until they end.
    pub drain: Option<Duration>,
    /// Those that take flows first, then those of weight 0. The order does not depend on that of the spec.
    pub backends: Box<[Backend]>,
    /// Removed in this generation or earlier, still with active flows.
    pub leaving: Vec<Arc<BackendState>>,
    /// Shared with other generations.
    pub state: Arc<PoolState>,
    pub(crate) scheduler: Scheduler,
    pub(crate) usable: u16,
    pub(crate) healthy: u16,
}

/// A backend's place in the order in which a flow would try the backends of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Index in [`Pool::backends`].
    pub index: usize,
    /// 1 for the first choice, 2 for the first retry, ...; 0: it would not be tried.
    pub rank: u8,
    /// Why, for people.
    pub reason: String,
}

impl Pool {
    /// Checks `spec` and builds the pool. `previous` is the same pool in the last generation: its counters, its budget
    /// and the states of backends that stay are carried over; backends that left go to [`Pool::leaving`] while they
    /// have active flows. Nothing of `previous` changes; see [`Pool::start_drains`]. Backends given twice alike are
    /// merged.
    ///
    /// # Errors
    /// The first thing that is wrong with `spec`.
    pub fn build(mut spec: PoolSpec, previous: Option<&Self>, tables: &mut TableCache) -> Result<Self, SpecError> {
        check(&mut spec)?;
        let mut known = States::of(previous);
        let mut backends: Box<[Backend]> = spec
            .backends
            .iter()
            .map(|b| Backend { state: known.take(b.address), weight: b.weight, healthy: b.healthy })
            .collect();
        arrange(&mut backends, spec.balance);
        let usable = backends.partition_point(|b| b.weight > 0);
        let healthy = backends[..usable].iter().filter(|b| b.healthy).count();
        Ok(Self {
            seed: name_hash(&spec.name),
            state: previous.map_or_else(|| Arc::new(PoolState::new(&spec.retry)), |p| Arc::clone(&p.state)),
            name: previous.map_or_else(|| spec.name.as_str().into(), |p| Arc::clone(&p.name)),
            balance: spec.balance,
            retry: spec.retry,
            drain: spec.drain,
            leaving: known.left_behind(),
            scheduler: Scheduler::build(spec.balance, &backends[..usable], healthy, tables),
            backends,
            usable: usable as u16,
            healthy: healthy as u16,
        })
    }

    /// The backends that take flows: those of weight 1 or more.
    #[inline]
    #[must_use]
    pub fn usable(&self) -> &[Backend] {
        &self.backends[..self.usable.into()]
    }

    /// Chooses a backend that is not in `tried`: healthy ones before the others, all alike if none is healthy, those of
    /// weight 0 never. The only usable backend is chosen even if it was tried. None: nothing is left to try.
    ///
    /// With maglev the whole order follows from `key`; it needs no state, so that every node agrees.
    #[inline]
    pub fn pick(&self, key: u64, tried: &[SocketAddr], rng: &mut Rng) -> Option<&Backend> {
        let turn = match self.balance {
            // A retry takes no turn: else each flow that meets a dead backend would lead the next one to it again.
            Balance::RoundRobin if tried.is_empty() => self.state.turn.fetch_add(1, Relaxed),
            Balance::RoundRobin => self.state.turn.load(Relaxed),
            _ => 0,
        };
        self.choose(key, tried, rng, turn).map(|index| &self.backends[index])
    }

    /// The order in which a flow with `key` would try the backends, then those that it would not try. Leaves no trace:
    /// no turn passes. What is drawn at random is drawn from a copy of `rng`.
    #[must_use]
    pub fn preview(&self, key: u64, rng: &Rng) -> Vec<Preview> {
        let mut rng = rng.clone();
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut order = Vec::with_capacity(self.backends.len());
        let mut seen = vec![false; self.backends.len()];
        let turn = self.state.turn.load(Relaxed);
        while tried.len() < self.retry.tries.into() {
            let Some(index) = self.choose(key, &tried, &mut rng, turn.wrapping_add(tried.len())) else {
                break;
            };
            if std::mem::replace(&mut seen[index], true) {
                break; // the only one
            }
            tried.push(self.backends[index].address);
            let rank = tried.len() as u8;
            order.push(Preview { index, rank, reason: self.reason(index, key, rank) });
        }
        let rest = (0..self.backends.len()).filter(|&index| !seen[index]);
        order.extend(rest.map(|index| Preview { index, rank: 0, reason: self.reason(index, key, 0) }));
        order
    }

    /// To be called when this pool takes the place of `previous`: sets the drain deadline of backends that left, and
    /// clears that of backends that are back.
    pub fn start_drains(&self, previous: Option<&Self>, now: Duration) {
        for backend in &self.backends {
            backend.drain_at.store(0, Relaxed);
        }
        let Some(drain) = self.drain else { return };
        let deadline = u64::try_from(now.saturating_add(drain).as_millis()).unwrap_or(u64::MAX).max(1);
        let was = previous.map_or(&[][..], |p| &p.backends);
        let mut stays: Vec<SocketAddr> = self.backends.iter().map(|b| b.address).collect();
        stays.sort_unstable();
        let left = was.iter().map(|b| &b.state).filter(|state| stays.binary_search(&state.address).is_err());
        for state in left.chain(&self.leaving) {
            // A deadline that runs already is kept.
            let _ = state.drain_at.compare_exchange(0, deadline, Relaxed, Relaxed);
        }
    }
}

/// Refuses what cannot work; canonicalizes addresses; merges backends given twice alike.
fn check(spec: &mut PoolSpec) -> Result<(), SpecError> {
    if spec.name.is_empty() {
        return Err(SpecError::NoName);
    }
    let pool = || spec.name.clone();
    spec.retry.validate().map_err(|problem| SpecError::Retry { pool: pool(), problem })?;
    for backend in &mut spec.backends {
        let address = backend.address;
        backend.address.set_ip(address.ip().to_canonical());
        if let Some(problem) = address_problem(backend.address) {
            return Err(SpecError::Address { pool: pool(), address, problem });
        }
    }
    spec.backends.sort_unstable_by_key(|b| b.address);
    spec.backends.dedup();
    let conflict = spec.backends.windows(2).find(|pair| pair[0].address == pair[1].address);
    if let Some([backend, _]) = conflict {
        return Err(SpecError::Conflict { pool: pool(), address: backend.address });
    }
    match spec.backends.len() {
        0..=MAX_BACKENDS => Ok(()),
        count => Err(SpecError::TooMany { pool: pool(), count }),
    }
}

fn address_problem(address: SocketAddr) -> Option<&'static str> {
    let ip = address.ip();
    if address.port() == 0 {
        Some("port must be 1 to 65535, not 0")
    } else if ip.is_unspecified() {
        Some("the unspecified address cannot be dialled; name a host")
    } else if ip.is_multicast() || ip == std::net::Ipv4Addr::BROADCAST {
        Some("multicast and broadcast addresses cannot be dialled; name a host")
    } else {
        None
    }
}

/// Usable backends first. Maglev numbers them by hash, health aside, so that a flip of health leaves its table as it
/// is; the other schedulers choose from a front part, so there the healthy come first.
fn arrange(backends: &mut [Backend], balance: Balance) {
    backends.sort_by_cached_key(|b| {
        let unhealthy = balance != Balance::Maglev && !b.healthy;
        (b.weight == 0, unhealthy, address_hash(b.address), b.address)
    });
}

/// States of the previous generation by address.
struct States<'a> {
    /// State, whether it is taken over, and whether it was leaving before; sorted by address.
    known: Vec<(&'a Arc<BackendState>, bool)>,
}

impl<'a> States<'a> {
    fn of(previous: Option<&'a Pool>) -> Self {
        let mut known: Vec<_> = previous
            .into_iter()
            .flat_map(|pool| pool.backends.iter().map(|b| &b.state).chain(&pool.leaving))
            .map(|state| (state, false))
            .collect();
        known.sort_unstable_by_key(|(state, _)| state.address);
        Self { known }
    }

    fn take(&mut self, address: SocketAddr) -> Arc<BackendState> {
        match self.known.binary_search_by_key(&address, |(state, _)| state.address) {
            Ok(found) => {
                self.known[found].1 = true;
                Arc::clone(self.known[found].0)
            }
            Err(_) => Arc::new(BackendState::new(address)),
        }
    }

    fn left_behind(self) -> Vec<Arc<BackendState>> {
        let left = self.known.into_iter().filter(|(state, taken)| !taken && state.active.load(Relaxed) > 0);
        left.map(|(state, _)| Arc::clone(state)).collect()
    }
}
