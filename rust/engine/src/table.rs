//! What is published: one immutable table per generation, swapped whole.

use std::array;
use std::net::SocketAddr;
use std::sync::Arc;

use spliceway_core::pool::Pool;

use crate::routes::{ClientClass, Routes, Target, Transport};

/// Slots to a part: few enough to copy one for each change, and of 10,000 pools few enough parts.
const PART: usize = 64;

/// All pools of one generation by slot, and the routes to them. A slot keeps its number while its pool's name is in use.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) generation: u64,
    slots: Slots,
    routes: Arc<Routes>,
}

impl Table {
    pub(crate) fn new(generation: u64, slots: Slots, routes: Arc<Routes>) -> Self {
        Self { generation, slots, routes }
    }

    #[inline]
    pub(crate) fn pool(&self, slot: u32) -> Option<&Arc<Pool>> {
        let slot = slot as usize;
        self.slots.parts.get(slot / PART)?[slot % PART].as_ref()
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.slots.iter().flatten()
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    pub(crate) fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// What a client of `class` that dialled `destination` gets; `None`: nothing.
    pub(crate) fn route(&self, transport: Transport, destination: SocketAddr, class: ClientClass) -> Option<Target> {
        self.routes.find(transport, destination, class)
    }
}

type Part = [Option<Arc<Pool>>; PART];

/// Pools by slot. Generations share the parts in which nothing changed, so that the change of one pool among 10,000 does not
/// touch the counters of all the others, once to copy the table and once to drop it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    parts: Vec<Arc<Part>>,
}

impl Slots {
    /// The place of `slot`, in a part that is not shared any more.
    pub(crate) fn place(&mut self, slot: u32) -> &mut Option<Arc<Pool>> {
        let slot = slot as usize;
        if self.parts.len() <= slot / PART {
            self.parts.resize_with(slot / PART + 1, || Arc::new(array::from_fn(|_| None)));
        }
        &mut Arc::make_mut(&mut self.parts[slot / PART])[slot % PART]
    }

    /// In the order of the slots, those without a pool included.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Option<Arc<Pool>>> {
        self.parts.iter().flat_map(|part| part.iter())
    }
}

#[cfg(test)]
mod tests {
    use spliceway_core::affinity::Affinities;
    use spliceway_core::maglev::TableCache;
    use spliceway_core::pool::{Balance, PoolSpec};
    use spliceway_core::retry::RetryPolicy;

    use super::*;

    /// A change of one pool would change, or lose, what flows of an older generation are served by.
    #[test]
    fn a_change_leaves_older_generations_as_they_are_and_shares_the_rest_with_them() {
        let pool = || {
            let (name, balance, retry) = ("p".into(), Balance::Maglev, RetryPolicy::default());
            let spec = PoolSpec { name, balance, retry, drain: None, affinity: None, backends: Vec::new() };
            Some(Arc::new(Pool::build(spec, None, &mut TableCache::new(), &Affinities::new(1)).unwrap()))
        };
        let mut before = Slots::default();
        let many = 2 * PART as u32 + 1;
        (0..many).for_each(|slot| *before.place(slot) = pool());
        let mut after = before.clone();
        let changed = PART as u32 + 3;
        *after.place(changed) = pool();
        *after.place(many) = pool();
        let table = |slots: &Slots| Table::new(1, slots.clone(), Arc::default());
        let (old, new) = (table(&before), table(&after));
        for slot in 0..many {
            let same = old.pool(slot).zip(new.pool(slot)).map(|(old, new)| Arc::ptr_eq(old, new));
            assert_eq!(same, Some(slot != changed), "slot {slot}");
        }
        assert!(old.pool(many).is_none() && new.pool(many).is_some() && new.pool(u32::MAX).is_none());
        assert_eq!((old.pools().count(), new.pools().count()), (many as usize, many as usize + 1));
        let shared = before.parts.iter().zip(&after.parts).filter(|(old, new)| Arc::ptr_eq(old, new));
        assert_eq!(shared.count(), 1, "the part that lost nothing is shared");
    }
}
