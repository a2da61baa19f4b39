//! Maglev lookup tables (Eisenbud et al., NSDI 2016): one load finds a backend, shares follow the weights, and a backend
//! that leaves moves few flows of the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use crate::hash::{fastrange, mix};

/// The most backends that a table, and so a pool, can have.
pub const MAX_BACKENDS: usize = 65_535;
/// Primes that roughly double: the size, and with it every slot, stays the same while a pool grows a little.
const SIZES: [usize; 10] = [127, 251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_537];
/// Slots for each backend on average: shares are off by 1 % at most, until the largest size is reached.
const SLOTS: usize = 100;
/// Slots for the lightest backend, until the largest size is reached.
const LIGHTEST_SLOTS: u64 = 50;

/// A backend as a table sees it: the [`address_hash`](crate::hash::address_hash) and the weight, which is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Hash of the backend's address.
    pub hash: u64,
    /// Relative share of keys, 1 or more.
    pub weight: u16,
}

/// Which member a key belongs to. Members are numbered in the order of their hashes, whatever order they came in.
#[derive(Debug)]
pub struct Table {
    entries: Entries,
}

/// As narrow as the number of members allows: tables are what a node with many pools spends its memory on.
#[derive(Debug)]
enum Entries {
    Narrow(Box<[u8]>),
    Wide(Box<[u16]>),
}

impl Table {
    /// Builds the table of `members`, which are sorted by hash and 1 to [`MAX_BACKENDS`] in number.
    #[must_use]
    pub fn build(members: &[Member]) -> Self {
        let size = size_for(members);
        let slots = fill(members, size);
        let entries = if members.len() <= 256 {
            Entries::Narrow(slots.iter().map(|&index| index as u8).collect())
        } else {
            Entries::Wide(slots.into())
        };
        Self { entries }
    }

    /// The member that `key`, a well-mixed hash, belongs to.
    #[inline]
    #[must_use]
    pub fn get(&self, key: u64) -> usize {
        match &self.entries {
            Entries::Narrow(entries) => entries[fastrange(key, entries.len())].into(),
            Entries::Wide(entries) => entries[fastrange(key, entries.len())].into(),
        }
    }

    /// The number of slots.
    #[must_use]
    pub fn size(&self) -> usize {
        match &self.entries {
            Entries::Narrow(entries) => entries.len(),
            Entries::Wide(entries) => entries.len(),
        }
    }

    /// The slot that `key` falls into.
    #[must_use]
    pub fn slot(&self, key: u64) -> usize {
        fastrange(key, self.size())
    }

    /// The member in every slot.
    pub fn slots(&self) -> impl Iterator<Item = usize> {
        let (narrow, wide): (&[u8], &[u16]) = match &self.entries {
            Entries::Narrow(entries) => (entries, &[]),
            Entries::Wide(entries) => (&[], entries),
        };
        narrow.iter().map(|&index| index.into()).chain(wide.iter().map(|&index| index.into()))
    }
}

fn size_for(members: &[Member]) -> usize {
    let total: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    let lightest = members.iter().map(|m| u64::from(m.weight)).min().unwrap_or(1);
    let wanted = (members.len() * SLOTS).max((LIGHTEST_SLOTS * total / lightest) as usize);
    SIZES[SIZES.partition_point(|&size| size < wanted).min(SIZES.len() - 1)]
}

/// How many of `size` slots each member gets: in proportion to its weight, but one at least.
///
/// The one is taken out first and the rest shared by what each deserves beyond it, rounded along the running sum so that
/// the total is exact.
fn quotas(members: &[Member], size: usize) -> Vec<u32> {
    let total: f64 = members.iter().map(|m| f64::from(m.weight)).sum();
    let beyond_one = |m: &Member| (size as f64 * f64::from(m.weight) / total - 1.0).max(0.0);
    let all_beyond: f64 = members.iter().map(beyond_one).sum();
    let rest = (size - members.len()) as f64;
    let (mut running, mut given) = (0.0, 0);
    members
        .iter()
        .map(|member| {
            running += beyond_one(member);
            let upto = (rest * (running / all_beyond)) as u32; // at the last one the quotient is exactly 1
            let quota = 1 + upto - given;
            given = upto;
            quota
        })
        .collect()
}

/// A member's walk through the slots in its own order of preference: a permutation, since the size is prime.
struct Walk {
    position: u32,
    step: u32,
    /// The step less one turn around the table.
    step_back: u32,
    /// Slots that it still gets.
    quota: u32,
    /// Turns due, in 1/2^16, and what each round adds.
    due: u32,
    per_round: u32,
}

impl Walk {
    fn new(member: &Member, quota: u32, rounds: u32, size: usize) -> Self {
        let step = 1 + fastrange(mix(member.hash, 2), size - 1) as u32;
        Self {
            position: fastrange(mix(member.hash, 1), size) as u32,
            step,
            step_back: size as u32 - step,
            quota,
            due: 0,
            per_round: (u64::from(quota) << 16).div_ceil(u64::from(rounds)) as u32,
        }
    }

    /// How many steps from its position `slot` is.
    fn distance(&self, slot: u32, inverse: u64, size: u32) -> u64 {
        u64::from(slot + size - self.position) * inverse % u64::from(size)
    }
}

/// The slots that no member has yet.
struct FreeSlots {
    /// By slot, not 0: some member has it.
    taken: Vec<u8>,
    size: u32,
    left: u32,
    /// When only so many are left, walking to one takes longer than asking which of them comes first.
    few: u32,
    /// The last few.
    last: Vec<u32>,
}

impl FreeSlots {
    fn new(size: usize) -> Self {
        let few = (size / 4).isqrt(); // about where both ways cost the same
        Self { taken: vec![0; size], size: size as u32, left: size as u32, few: few as u32, last: Vec::new() }
    }

    /// Takes the free slot that comes first in the order of `walk`.
    #[inline]
    fn take(&mut self, walk: &mut Walk) -> usize {
        if self.left <= self.few {
            return self.take_of_last(walk);
        }
        self.left -= 1;
        let mut position = walk.position;
        loop {
            let taken = &mut self.taken[position as usize];
            let slot = position;
            position = if slot < walk.step_back { slot + walk.step } else { slot - walk.step_back };
            if *taken == 0 {
                *taken = 1;
                walk.position = position;
                return slot as usize;
            }
        }
    }

    fn take_of_last(&mut self, walk: &Walk) -> usize {
        if self.last.is_empty() {
            let free = |slot: &u32| self.taken[*slot as usize] == 0;
            self.last = (0..self.size).filter(free).collect();
        }
        let inverse = inverse(walk.step, self.size);
        let distance = |&index: &usize| walk.distance(self.last[index], inverse, self.size);
        let nearest = (0..self.last.len()).min_by_key(distance).unwrap_or(0);
        self.last.swap_remove(nearest) as usize
    }
}

/// What multiplied by `step` is 1 modulo the prime `size`, by the extended Euclidean algorithm.
fn inverse(step: u32, size: u32) -> u64 {
    let (mut rest, mut next_rest) = (size as i32, step as i32);
    let (mut factor, mut next_factor) = (0, 1);
    while next_rest != 0 {
        let quotient = rest / next_rest;
        (rest, next_rest) = (next_rest, rest - quotient * next_rest);
        (factor, next_factor) = (next_factor, factor - quotient * next_factor);
    }
    factor.rem_euclid(size as i32) as u64
}

/// Members take turns, in rounds, at taking the slot they prefer most among those left, until each has its quota.
fn fill(members: &[Member], size: usize) -> Vec<u16> {
    let rounds = (size / members.len()) as u32;
    let quotas = quotas(members, size);
    let mut walks: Vec<Walk> =
        members.iter().zip(quotas).map(|(member, quota)| Walk::new(member, quota, rounds, size)).collect();
    let mut free = FreeSlots::new(size);
    let mut slots = vec![0; size];
    for _ in 0..rounds {
        for (index, walk) in walks.iter_mut().enumerate() {
            walk.due += walk.per_round;
            while walk.due >= 1 << 16 && walk.quota > 0 {
                walk.due -= 1 << 16;
                walk.quota -= 1;
                slots[free.take(walk)] = index as u16;
            }
        }
    }
    slots
}

type Fingerprint = (usize, u64, u64);

/// Tables in use, so that pools with equal backends (the ports of a Service, say) share one.
#[derive(Debug, Default)]
pub struct TableCache {
    tables: BTreeMap<Fingerprint, Weak<Table>>,
    /// Sweep out the dead ones when there are this many.
    sweep_at: usize,
}

impl TableCache {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The table of `members` (as for [`Table::build`]), built unless an equal one is in use.
    pub fn table(&mut self, members: &[Member]) -> Arc<Table> {
        let key = fingerprint(members);
        if let Some(table) = self.tables.get(&key).and_then(Weak::upgrade) {
            return table;
        }
        if self.tables.len() >= self.sweep_at {
            self.tables.retain(|_, table| table.strong_count() > 0);
            self.sweep_at = 2 * self.tables.len() + 64;
        }
        let table = Arc::new(Table::build(members));
        self.tables.insert(key, Arc::downgrade(&table));
        table
    }

    /// Entries, of which some may be dead until the next sweep.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.len()
    }

    /// Whether nothing was built yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}

/// The number of members, and 128 bits over their hashes and weights: equal ones mean equal tables for all practical
/// purposes, and even a forced collision cannot give a pool an index beyond its backends.
fn fingerprint(members: &[Member]) -> Fingerprint {
    let (a, b) = members.iter().fold((0, !0), |(a, b): (u64, u64), m| {
        let weight = u64::from(m.weight);
        (mix(a ^ m.hash, weight), mix(b.rotate_left(17) ^ m.hash, !weight))
    });
    (members.len(), a, b)
}
