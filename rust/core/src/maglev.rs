//! Maglev lookup tables (Eisenbud et al., NSDI 2016): one load finds a backend, shares follow the weights, and a backend
//! that leaves moves few flows of the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use crate::filling::fill;
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
    /// Up to 16 members. Two slots in a byte, the even one in the low half; a size is odd, so the last half is of no slot.
    Halves(Box<[u8]>),
    Narrow(Box<[u8]>),
    Wide(Box<[u16]>),
}

impl Entries {
    fn new(slots: Vec<u16>, members: usize) -> Self {
        match members {
            0..=16 => {
                let pairs = slots.chunks_exact(2);
                let mut bytes = Vec::with_capacity(slots.len().div_ceil(2));
                let last = pairs.remainder();
                bytes.extend(pairs.map(|pair| pair[0] as u8 | (pair[1] as u8) << 4));
                bytes.extend(last.iter().map(|&index| index as u8));
                Self::Halves(bytes.into())
            }
            17..=256 => Self::Narrow(slots.iter().map(|&index| index as u8).collect()),
            _ => Self::Wide(slots.into()),
        }
    }

    #[inline]
    fn len(&self) -> usize {
        match self {
            Self::Halves(bytes) => 2 * bytes.len() - 1,
            Self::Narrow(bytes) => bytes.len(),
            Self::Wide(words) => words.len(),
        }
    }

    #[inline]
    fn at(&self, slot: usize) -> usize {
        match self {
            Self::Halves(bytes) => (bytes[slot / 2] >> (slot % 2 * 4) & 0xf).into(),
            Self::Narrow(bytes) => bytes[slot].into(),
            Self::Wide(words) => words[slot].into(),
        }
    }
}

impl Table {
    /// Builds the table of `members`, which are sorted by hash and 1 to [`MAX_BACKENDS`] in number.
    #[must_use]
    pub fn build(members: &[Member]) -> Self {
        Self { entries: Entries::new(fill(members, size_for(members)), members.len()) }
    }

    /// The member that `key`, a well-mixed hash, belongs to.
    #[inline]
    #[must_use]
    pub fn get(&self, key: u64) -> usize {
        self.entries.at(self.slot(key))
    }

    /// The number of slots.
    #[inline]
    #[must_use]
    pub fn size(&self) -> usize {
        self.entries.len()
    }

    /// The slot that `key` falls into.
    #[inline]
    #[must_use]
    pub fn slot(&self, key: u64) -> usize {
        fastrange(key, self.size())
    }

    /// The member in every slot.
    pub fn slots(&self) -> impl Iterator<Item = usize> {
        (0..self.size()).map(|slot| self.entries.at(slot))
    }
}

fn size_for(members: &[Member]) -> usize {
    let total: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    let lightest = members.iter().map(|m| u64::from(m.weight)).min().unwrap_or(1);
    let wanted = (members.len() * SLOTS).max((LIGHTEST_SLOTS * total / lightest) as usize);
    SIZES[SIZES.partition_point(|&size| size < wanted).min(SIZES.len() - 1)]
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
