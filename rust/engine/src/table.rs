//! What is published: one immutable table per generation, swapped whole.

use std::net::SocketAddr;
use std::sync::Arc;

use spliceway_core::pool::Pool;

use crate::routes::{ClientClass, Routes, Target, Transport};

/// All pools of one generation by slot, and the routes to them. A slot keeps its number while its pool's name is in use.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) generation: u64,
    slots: Vec<Option<Arc<Pool>>>,
    routes: Arc<Routes>,
}

impl Table {
    pub(crate) fn new(generation: u64, slots: Vec<Option<Arc<Pool>>>, routes: Arc<Routes>) -> Self {
        Self { generation, slots, routes }
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

    pub(crate) fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// What a client of `class` that dialled `destination` gets; `None`: nothing.
    pub(crate) fn route(&self, transport: Transport, destination: SocketAddr, class: ClientClass) -> Option<Target> {
        self.routes.find(transport, destination, class)
    }
}
