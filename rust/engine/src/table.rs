//! What is published: one immutable table per generation, swapped whole.

use std::sync::Arc;

use spliceway_core::pool::Pool;

/// All pools of one generation by slot. A slot keeps its number while its pool's name is in use.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) generation: u64,
    slots: Vec<Option<Arc<Pool>>>,
}

impl Table {
    pub(crate) fn new(generation: u64, slots: Vec<Option<Arc<Pool>>>) -> Self {
        Self { generation, slots }
    }

    pub(crate) fn pool(&self, slot: u32) -> Option<&Arc<Pool>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.slots.iter().flatten()
    }

    pub(crate) fn slots(&self) -> &[Option<Arc<Pool>>] {
        &self.slots
    }
}
