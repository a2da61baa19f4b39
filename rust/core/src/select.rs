//! The schedulers: which of a pool's backends a new flow, or a retry, goes to.
//!
//! Usable backends come in a fixed order (see [`Pool::backends`]). Except with a hash the healthy ones are in front, and
//! the *front* is what is chosen from first: the healthy ones, or all if none is healthy. What is behind it is for
//! retries after the whole front was tried.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::hash::{address_hash, mix};
use crate::lots::{Lots, equal_weights};
use crate::maglev::{Member, Table, TableCache};
use crate::pool::{Backend, Balance, Pool};
use crate::rng::Rng;

/// How often a pick by hash looks again in the table, under derived keys, before it ranks all candidates.
const PROBES: u64 = 4;
/// The longest round of round-robin with unequal weights; heavier weights are scaled down to fit.
const LONGEST_ROUND: u64 = 4096;

/// What a pool prepares so that picking is cheap. `None` inside: all weights are equal, nothing needs preparing.
#[derive(Debug)]
pub(crate) enum Scheduler {
    /// By a table; which hash finds the slot is not decided here.
    Hashed(Option<Arc<Table>>),
    Random(Option<Lots>),
    RoundRobin(Option<Box<[u16]>>),
    /// Of equal weights: the fewest flows are the least load, and an idle backend is the first of them.
    Fewest,
    LeastLoaded,
    NeverQueue,
    P2c(Option<Lots>),
}

impl Scheduler {
    pub(crate) fn build(balance: Balance, usable: &[Backend], healthy: usize, tables: &mut TableCache) -> Self {
        let front = front(usable, healthy);
        match balance {
            Balance::Maglev | Balance::SourceHash => Self::Hashed((usable.len() > 1).then(|| {
                let member = |b: &Backend| Member { hash: address_hash(b.address), weight: b.weight };
                tables.table(&usable.iter().map(member).collect::<Vec<_>>())
            })),
            Balance::Random => Self::Random(Lots::build(front)),
            Balance::RoundRobin => Self::RoundRobin(round(front)),
            Balance::LeastConn | Balance::Sed | Balance::Nq if equal_weights(front) => Self::Fewest,
            Balance::LeastConn | Balance::Sed => Self::LeastLoaded,
            Balance::Nq => Self::NeverQueue,
            Balance::P2c => Self::P2c(Lots::build(front)),
        }
    }
}

#[inline]
fn front(usable: &[Backend], healthy: usize) -> &[Backend] {
    if healthy > 0 { &usable[..healthy] } else { usable }
}

#[inline]
fn untried(backend: &Backend, tried: &[SocketAddr]) -> bool {
    tried.is_empty() || !tried.contains(&backend.address)
}

impl Pool {
    /// Index of the backend for a flow with `key`; `turn` tells its turn with round-robin.
    #[inline]
    pub(crate) fn choose(
        &self,
        key: u64,
        tried: &[SocketAddr],
        rng: &mut Rng,
        turn: impl FnOnce() -> usize,
    ) -> Option<usize> {
        if let Scheduler::Hashed(Some(table)) = &self.scheduler {
            return self.by_hash(table, key, tried);
        }
        let usable = self.usable();
        if usable.len() <= 1 {
            return (!usable.is_empty()).then_some(0);
        }
        let front = front(usable, self.healthy.into());
        let chosen = match &self.scheduler {
            Scheduler::Hashed(_) => Some(0), // one backend
            Scheduler::Random(lots) => draw(front, lots.as_ref(), tried, rng),
            Scheduler::RoundRobin(round) => in_turn(front, round.as_deref(), tried, turn()),
            Scheduler::Fewest if tried.is_empty() => Some(fewest(front, rng)),
            Scheduler::Fewest | Scheduler::LeastLoaded => least(front, tried, rng, less_loaded),
            Scheduler::NeverQueue => least(front, tried, rng, idle_or_less_loaded),
            Scheduler::P2c(lots) => less_loaded_of_two(front, lots.as_ref(), tried, rng),
        };
        chosen.or_else(|| {
            let behind = draw(&usable[front.len()..], None, tried, rng)?;
            Some(front.len() + behind)
        })
    }

    #[inline]
    fn by_hash(&self, table: &Table, key: u64, tried: &[SocketAddr]) -> Option<usize> {
        let first = table.get(key);
        let owner = &self.usable()[first];
        if (owner.healthy || self.healthy == 0) && untried(owner, tried) {
            return Some(first);
        }
        self.by_another_hash(table, key, tried)
    }

    /// The owner of the slot is set aside, or was tried. Apart, so that what is common stays small.
    #[cold]
    fn by_another_hash(&self, table: &Table, key: u64, tried: &[SocketAddr]) -> Option<usize> {
        let usable = self.usable();
        let wants = |backend: &Backend| (backend.healthy || self.healthy == 0) && untried(backend, tried);
        (1..=PROBES)
            .map(|salt| table.get(mix(key, salt)))
            .find(|&index| wants(&usable[index]))
            .or_else(|| by_rendezvous(usable, key, wants))
            .or_else(|| by_rendezvous(usable, key, |backend| untried(backend, tried)))
    }
}

/// The wanted backend of the highest weighted rendezvous score: as consistent as a table, without one.
fn by_rendezvous(backends: &[Backend], key: u64, wants: impl Fn(&Backend) -> bool) -> Option<usize> {
    let score = |backend: &Backend| {
        let uniform = (mix(key, address_hash(backend.address)) >> 11) as f64 + 0.5; // of 2^53, never 0
        -f64::from(backend.weight) / (uniform / (1u64 << 53) as f64).ln()
    };
    let wanted = backends.iter().enumerate().filter(|(_, backend)| wants(backend));
    wanted.map(|(index, backend)| (index, score(backend))).max_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
}

/// Draws one at random by weight.
#[inline]
fn draw(backends: &[Backend], lots: Option<&Lots>, tried: &[SocketAddr], rng: &mut Rng) -> Option<usize> {
    if tried.is_empty() {
        return Some(draw_any(backends, lots, rng));
    }
    draw_where(backends, rng, |_, backend| untried(backend, tried))
}

#[inline]
fn draw_any(backends: &[Backend], lots: Option<&Lots>, rng: &mut Rng) -> usize {
    match lots {
        Some(lots) => lots.draw(rng),
        None => rng.below(backends.len() as u32) as usize,
    }
}

/// Draws by weight among the wanted ones, in two passes: for retries, which are few.
fn draw_where(backends: &[Backend], rng: &mut Rng, wants: impl Fn(usize, &Backend) -> bool) -> Option<usize> {
    let wanted = || backends.iter().enumerate().filter(|(index, backend)| wants(*index, backend));
    let total: u32 = wanted().map(|(_, backend)| u32::from(backend.weight)).sum();
    let mut lot = rng.below(total);
    wanted().find_map(|(index, backend)| match lot.checked_sub(backend.weight.into()) {
        Some(left) => {
            lot = left;
            None
        }
        None => Some(index),
    })
}

#[inline]
fn in_turn(backends: &[Backend], round: Option<&[u16]>, tried: &[SocketAddr], turn: usize) -> Option<usize> {
    let length = round.map_or(backends.len(), <[u16]>::len);
    let start = turn % length;
    let mut turns = (start..length).chain(0..start);
    let at = |turn: usize| round.map_or(turn, |round| round[turn].into());
    turns.find_map(|turn| Some(at(turn)).filter(|&index| untried(&backends[index], tried)))
}

/// Compares (active + 1) / weight, the load with the new flow included, without dividing.
#[inline]
fn less_loaded(a: (u32, u16), b: (u32, u16)) -> bool {
    (u64::from(a.0) + 1) * u64::from(b.1) < (u64::from(b.0) + 1) * u64::from(a.1)
}

#[inline]
fn load(backend: &Backend) -> (u32, u16) {
    (backend.active.load(Relaxed), backend.weight)
}

/// Idle ones before all others, the heaviest of them first; else as [`less_loaded`].
#[inline]
fn idle_or_less_loaded(a: (u32, u16), b: (u32, u16)) -> bool {
    match (a.0 == 0, b.0 == 0) {
        (true, false) => true,
        (false, true) => false,
        _ => less_loaded(a, b),
    }
}

/// The one with the fewest flows; as [`least`] among equal weights with nothing tried, but with no branch to foretell: the
/// load and the place in the scan are compared as one number. Places before the start wrap around to large ones.
#[inline]
fn fewest(backends: &[Backend], rng: &mut Rng) -> usize {
    let start = rng.below(backends.len() as u32);
    let rank = |(index, backend): (u32, &Backend)| {
        u64::from(backend.active.load(Relaxed)) << 32 | u64::from(index.wrapping_sub(start))
    };
    let least = (0..).zip(backends).map(rank).fold(u64::MAX, u64::min);
    (least as u32).wrapping_add(start) as usize
}

/// The one with the least load as `less` compares; the scan starts anywhere, so that equals take turns.
#[inline]
fn least(
    backends: &[Backend],
    tried: &[SocketAddr],
    rng: &mut Rng,
    less: impl Fn((u32, u16), (u32, u16)) -> bool,
) -> Option<usize> {
    let (before, after) = backends.split_at(rng.below(backends.len() as u32) as usize);
    let start = before.len();
    let mut best = None;
    let mut consider = |index: usize, backend: &Backend| {
        let load = load(backend);
        if best.is_none_or(|(_, least)| less(load, least)) && untried(backend, tried) {
            best = Some((index, load));
        }
    };
    after.iter().enumerate().for_each(|(index, backend)| consider(start + index, backend));
    before.iter().enumerate().for_each(|(index, backend)| consider(index, backend));
    best.map(|(index, _)| index)
}

/// The less loaded of two different ones drawn by weight.
#[inline]
fn less_loaded_of_two(backends: &[Backend], lots: Option<&Lots>, tried: &[SocketAddr], rng: &mut Rng) -> Option<usize> {
    let first = draw(backends, lots, tried, rng)?;
    let second = match lots {
        None if tried.is_empty() && backends.len() > 1 => {
            let other = rng.below(backends.len() as u32 - 1) as usize;
            Some(other + usize::from(other >= first))
        }
        Some(lots) if tried.is_empty() => {
            let other = lots.draw(rng);
            // Rarely the same one again, unless one is much heavier than the rest.
            if other == first { draw_where(backends, rng, |index, _| index != first) } else { Some(other) }
        }
        _ => draw_where(backends, rng, |index, backend| index != first && untried(backend, tried)),
    };
    let second = second.unwrap_or(first);
    Some(if less_loaded(load(&backends[second]), load(&backends[first])) { second } else { first })
}

/// One round of turns with unequal weights, each backend's own spread evenly over the round.
fn round(backends: &[Backend]) -> Option<Box<[u16]>> {
    if equal_weights(backends) {
        return None;
    }
    let weights: Vec<u64> = backends.iter().map(|b| b.weight.into()).collect();
    let turns = round_turns(&weights);
    // Turn k of t is due at (k + 1/2) / t of the round.
    let due = |index: usize, turn: u64| (((2 * turn + 1) << 32) / (2 * turns[index]), index as u16);
    let mut order: Vec<(u64, u16)> =
        (0..turns.len()).flat_map(|index| (0..turns[index]).map(move |turn| due(index, turn))).collect();
    order.sort_unstable();
    Some(order.into_iter().map(|(_, index)| index).collect())
}

/// Weights in their lowest terms, scaled down if a round would be too long, but never to 0.
fn round_turns(weights: &[u64]) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, gcd);
    let total: u64 = weights.iter().sum::<u64>() / divisor;
    let longest = LONGEST_ROUND.max(4 * weights.len() as u64);
    let scale = |weight: u64| {
        if total <= longest { weight } else { (weight * longest / total).max(1) }
    };
    weights.iter().map(|weight| scale(weight / divisor)).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
