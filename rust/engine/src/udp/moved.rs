//! Which pools a new table takes from sessions, in whole or in part. Found where the table is made, off the data path.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use spliceway_core::pool::Pool;

use crate::engine::Batch;
use crate::routes::Transport;
use crate::table::Table;

/// The slots of pools that lost a backend from `old` to `new`, or that a route of `batch` led to.
pub(crate) fn moved(old: &Table, new: &Table, batch: &Batch) -> Vec<u32> {
    let lost = |slot: u32, before: &Arc<Pool>| match new.pool(slot) {
        None => true,
        Some(after) => !Arc::ptr_eq(before, after) && lost_backend(before, after),
    };
    let pools = (0..).zip(old.slots()).filter_map(|(slot, pool)| Some((slot, pool.as_ref()?)));
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
