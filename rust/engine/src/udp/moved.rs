//! Which pools a new table takes from sessions, in whole or in part: found where the table is made, off the data path. And
//! what it has for these sessions.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use spliceway_core::pool::{BackendState, Pool};

use crate::engine::Batch;
use crate::routes::Transport;
use crate::table::Table;

/// The slots of pools that lost a backend from `old` to `new`, or that a route of `batch` led to.
pub(crate) fn moved(old: &Table, new: &Table, batch: &Batch) -> Vec<u32> {
    let lost = |slot: u32, before: &Arc<Pool>| match new.pool(slot) {
        None => true,
        Some(after) => !Arc::ptr_eq(before, after) && lost_backend(before, after),
    };
    let pools = (0..).zip(old.slots().iter()).filter_map(|(slot, pool)| Some((slot, pool.as_ref()?)));
    let mut slots: Vec<u32> = pools.filter(|(slot, pool)| lost(*slot, pool)).map(|(slot, _)| slot).collect();
    let changed = batch.unroutes.iter().chain(batch.routes.iter().map(|route| &route.key));
    let targets = changed.filter(|key| key.transport == Transport::Udp).filter_map(|key| old.routes().get(key));
    slots.extend(targets.flatten().flatten().map(|target| target.slot));
    slots.sort_unstable();
    slots.dedup();
    slots
}

fn lost_backend(before: &Pool, after: &Pool) -> bool {
    if !Arc::ptr_eq(&before.state, &after.state) {
        return true; // another pool has the slot
    }
    let same = before.backends.iter().map(|b| b.address).eq(after.backends.iter().map(|b| b.address));
    if same {
        return false; // the common change: only health or weights
    }
    let stays: HashSet<SocketAddr> = after.backends.iter().map(|b| b.address).collect();
    before.backends.iter().any(|b| !stays.contains(&b.address))
}

/// The backends of one table that sessions may go on with.
#[derive(Debug)]
pub(super) struct Homes<'t> {
    table: &'t Table,
    /// By slot and address, of pools that were asked for: one look at a pool serves all its sessions.
    backends: HashMap<u32, HashMap<SocketAddr, &'t Arc<BackendState>>>,
}

impl<'t> Homes<'t> {
    pub(super) fn new(table: &'t Table) -> Self {
        Self { table, backends: HashMap::new() }
    }

    pub(super) fn table(&self) -> &'t Table {
        self.table
    }

    /// What `pool`, which is in `slot`, keeps of the backend with this address.
    pub(super) fn backend(&mut self, slot: u32, pool: &'t Pool, address: SocketAddr) -> Option<&'t Arc<BackendState>> {
        let states = || pool.backends.iter().map(|backend| (backend.address, &backend.state)).collect();
        self.backends.entry(slot).or_insert_with(states).get(&address).copied()
    }
}
