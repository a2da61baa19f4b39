//! The backends of one service port in one generation, and the state that outlives generations.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::affinity::{Affinities, Affinity};
use crate::explain::pin_reason;
use crate::hash::{address_hash, flow_key, name_hash, source_key};
use crate::maglev::TableCache;
use crate::retry::RetryPolicy;
use crate::rng::Rng;
use crate::select::Scheduler;
use crate::spec::check;
pub use crate::spec::{AffinitySpec, BackendSpec, Balance, PoolSpec, SpecError, UnknownBalance};
pub use crate::state::{BackendState, PoolState};

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
    pub(crate) affinity: Option<Box<Affinity>>,
    /// Those that take flows first, then those of weight 0. The order does not depend on that of the spec.
    pub backends: Box<[Backend]>,
    /// Removed in this generation or earlier, still with active flows.
    pub leaving: Box<[Arc<BackendState>]>,
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
    pub fn build(
        mut spec: PoolSpec,
        previous: Option<&Self>,
        tables: &mut TableCache,
        affinities: &Affinities,
    ) -> Result<Self, SpecError> {
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
            affinity: spec.affinity.map(|affinity| Box::new(affinities.join(&affinity))),
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

    /// The key by which a flow from `client` picks: of its address and port, or of the address alone with source-hash.
    /// Session affinity needs a key that differs when a client is drawn anew, so it always counts the port.
    #[inline]
    #[must_use]
    pub fn key(&self, client: SocketAddr) -> u64 {
        match self.balance {
            Balance::SourceHash if self.affinity.is_none() => source_key(client.ip(), self.seed),
            _ => flow_key(client, self.seed),
        }
    }

    /// Chooses the backend of a flow from `client` at `now` of the caller's monotonic clock: the one that session affinity
    /// remembers, or else as [`Pool::pick`], and then that one is remembered.
    #[inline]
    pub fn pick_for(&self, client: SocketAddr, tried: &[SocketAddr], now: Duration, rng: &mut Rng) -> Option<&Backend> {
        match &self.affinity {
            Some(affinity) => affinity.group.pick(self, client, tried, now, rng),
            None => self.pick(self.key(client), tried, rng),
        }
    }

    /// Whether clients stay with their backend.
    #[must_use]
    pub const fn has_affinity(&self) -> bool {
        self.affinity.is_some()
    }

    /// Index of the backend with this address, if it takes flows and no other one is to be preferred for its health.
    pub(crate) fn preferred(&self, address: SocketAddr) -> Option<usize> {
        let (usable, healthy) = (usize::from(self.usable), usize::from(self.healthy));
        // Sorted as `arrange` does it.
        let front = if self.balance.is_hashed() || healthy == 0 { usable } else { healthy };
        let place = (address_hash(address), address);
        let found = self.backends[..front].binary_search_by(|b| (address_hash(b.address), b.address).cmp(&place));
        found.ok().filter(|&index| self.backends[index].healthy || healthy == 0)
    }

    /// Chooses a backend that is not in `tried`: healthy ones before the others, all alike if none is healthy, those of
    /// weight 0 never. The only usable backend is chosen even if it was tried. None: nothing is left to try.
    ///
    /// With maglev the whole order follows from `key`; it needs no state, so that every node agrees.
    #[inline]
    pub fn pick(&self, key: u64, tried: &[SocketAddr], rng: &mut Rng) -> Option<&Backend> {
        let turn = || {
            // A retry takes no turn: else each flow that meets a dead backend would lead the next one to it again.
            let turn = &self.state.turn;
            if tried.is_empty() { turn.fetch_add(1, Relaxed) as usize } else { turn.load(Relaxed) as usize }
        };
        self.choose(key, tried, rng, turn).map(|index| &self.backends[index])
    }

    /// The order in which a flow from `client` would try the backends, then those that it would not try. Leaves no trace:
    /// no turn passes, no client is remembered. What is drawn at random is drawn from a copy of `rng`.
    #[must_use]
    pub fn preview(&self, client: SocketAddr, now: Duration, rng: &Rng) -> Vec<Preview> {
        let key = self.key(client);
        let pinned = self.affinity.as_ref().and_then(|affinity| affinity.group.peek(client.ip(), now));
        let mut pinned = pinned.and_then(|(address, left)| Some((self.preferred(address)?, left)));
        let mut rng = rng.clone();
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut order = Vec::with_capacity(self.backends.len());
        let mut seen = vec![false; self.backends.len()];
        // Who stays with a backend takes no turn.
        let turn = (self.state.turn.load(Relaxed) as usize).wrapping_sub(pinned.is_some().into());
        while tried.len() < self.retry.tries.into() {
            let pin = pinned.take();
            let chosen = || self.choose(key, &tried, &mut rng, || turn.wrapping_add(tried.len()));
            let Some(index) = pin.map(|(index, _)| index).or_else(chosen) else {
                break;
            };
            if std::mem::replace(&mut seen[index], true) {
                break; // the only one
            }
            tried.push(self.backends[index].address);
            let rank = tried.len() as u8;
            let reason = pin.map_or_else(|| self.reason(index, key, rank), |(_, left)| pin_reason(left));
            order.push(Preview { index, rank, reason });
        }
        let rest = (0..self.backends.len()).filter(|&index| !seen[index]);
        order.extend(rest.map(|index| Preview { index, rank: 0, reason: self.reason(index, key, 0) }));
        order
    }

    /// To be called when this pool takes the place of `previous`: sets the drain deadline of backends that left, and
    /// clears that of backends that are back.
    pub fn start_drains(&self, previous: Option<&Self>, now: Duration) {
        for backend in &self.backends {
            backend.stop_drain();
        }
        let Some(drain) = self.drain else { return };
        let deadline = now.saturating_add(drain);
        let was = previous.map_or(&[][..], |p| &p.backends);
        let mut stays: Vec<SocketAddr> = self.backends.iter().map(|b| b.address).collect();
        stays.sort_unstable();
        let left = was.iter().map(|b| &b.state).filter(|state| stays.binary_search(&state.address).is_err());
        for state in left.chain(&self.leaving) {
            state.start_drain(deadline);
        }
    }
}

/// Usable backends first. Maglev numbers them by hash, health aside, so that a flip of health leaves its table as it
/// is; the other schedulers choose from a front part, so there the healthy come first.
fn arrange(backends: &mut [Backend], balance: Balance) {
    backends.sort_by_cached_key(|b| {
        let unhealthy = !balance.is_hashed() && !b.healthy;
        (b.weight == 0, unhealthy, address_hash(b.address), b.address)
    });
}

/// States of the previous generation by address.
struct States<'a> {
    /// Each with whether it is taken over; sorted by address.
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

    fn left_behind(self) -> Box<[Arc<BackendState>]> {
        let left = self.known.into_iter().filter(|(state, taken)| !taken && state.active.load(Relaxed) > 0);
        left.map(|(state, _)| Arc::clone(state)).collect()
    }
}
