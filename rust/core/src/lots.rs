//! Drawing by weight.

use crate::hash::fastrange;
use crate::pool::Backend;
use crate::rng::Rng;

pub(crate) fn equal_weights(backends: &[Backend]) -> bool {
    backends.windows(2).all(|pair| pair[0].weight == pair[1].weight)
}

/// Lots that draw an index by weight in constant time (Walker's alias method).
#[derive(Debug)]
pub(crate) struct Lots(Box<[Lot]>);

/// Below `threshold` (of 2^32) the lot's own index, else `alias`.
#[derive(Clone, Copy, Debug)]
struct Lot {
    threshold: u32,
    alias: u16,
}

impl Lots {
    /// None: the weights are equal, so any index is as good.
    pub(crate) fn build(backends: &[Backend]) -> Option<Self> {
        if equal_weights(backends) {
            return None;
        }
        let count = backends.len() as u64;
        let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
        let mut share: Vec<u64> = backends.iter().map(|b| u64::from(b.weight) * count).collect();
        let mut lots: Vec<Lot> = (0..count).map(|index| Lot { threshold: u32::MAX, alias: index as u16 }).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..share.len()).partition(|&i| share[i] < total);
        // Each small share is filled up to the average from a large one.
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            lots[poor] = Lot { threshold: ((share[poor] << 32) / total) as u32, alias: rich as u16 };
            share[rich] -= total - share[poor];
            if share[rich] < total {
                large.pop();
                small.push(rich);
            }
        }
        Some(Self(lots.into()))
    }

    #[inline]
    pub(crate) fn draw(&self, rng: &mut Rng) -> usize {
        let random = rng.next_u64();
        let index = fastrange(random & !u64::from(u32::MAX), self.0.len());
        let lot = self.0[index];
        if (random as u32) < lot.threshold { index } else { lot.alias.into() }
    }
}
