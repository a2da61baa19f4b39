//! Names to slots, and the making of tables, off the data path.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use spliceway_core::pool::Pool;

use crate::engine::Batch;
use crate::routes::{Routes, Target, TargetSpec};
use crate::table::Table;

#[derive(Debug)]
struct Slot {
    name: Arc<str>,
    /// Listeners and routes that name this pool: they keep the slot while the pool comes and goes.
    holders: usize,
    used: bool,
}

/// A pool before and after.
pub(crate) type Replaced = (Option<Arc<Pool>>, Option<Arc<Pool>>);

/// What changed when a table was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) table: Table,
    /// The earliest drain deadline of backends that left.
    pub(crate) drain: Option<Duration>,
    /// Pools with session affinity that came in the place of others, or went.
    pub(crate) with_affinity: Vec<Replaced>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    by_name: HashMap<Arc<str>, u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Registry {
    pub(crate) fn slot(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// A listener or route names `name`, which need not be a pool yet.
    pub(crate) fn attach(&mut self, name: &str) -> u32 {
        let slot = self.slot_for(name);
        self.slots[slot as usize].holders += 1;
        slot
    }

    /// A listener or route does not name the pool in `slot` any more.
    pub(crate) fn detach(&mut self, slot: u32) {
        self.slots[slot as usize].holders -= 1;
        self.release(slot);
    }

    /// Make the table that follows `current`, in which nothing has changed since `pools`, those of `batch`, were built.
    pub(crate) fn make(&mut self, current: &Table, pools: Vec<Pool>, batch: &Batch, now: Duration) -> Made {
        let mut slots = current.slots().clone();
        let (mut drain, mut with_affinity) = (None, Vec::new());
        let concerned = |pool: &Option<Arc<Pool>>| pool.as_ref().is_some_and(|pool| pool.has_affinity());
        for pool in pools {
            let slot = self.slot_for(&pool.name);
            self.slots[slot as usize].used = true;
            let place = slots.place(slot);
            let previous = place.take();
            pool.start_drains(previous.as_deref(), now);
            let was = previous.iter().flat_map(|p| p.backends.iter().map(|b| &b.state));
            drain = earliest(drain, was.chain(&pool.leaving).filter_map(|state| state.drain_deadline()).min());
            let replaced = (previous, place.insert(Arc::new(pool)).clone().into());
            with_affinity.extend(Some(replaced).filter(|(old, new)| concerned(old) || concerned(new)));
        }
        for name in &batch.removes {
            let Some(slot) = self.slot(name) else {
                continue;
            };
            if let Some(pool) = slots.place(slot).take() {
                drain = earliest(drain, remove(&pool, now));
                with_affinity.extend(Some((Some(pool), None)).filter(|(old, _)| concerned(old)));
            }
            self.slots[slot as usize].used = false;
            self.release(slot);
        }
        let routes = self.change_routes(current.routes(), batch);
        Made { table: Table::new(batch.generation, slots, routes), drain, with_affinity }
    }

    /// The routes that follow `current`: the same ones, if nothing changes.
    fn change_routes(&mut self, current: &Arc<Routes>, batch: &Batch) -> Arc<Routes> {
        if batch.routes.is_empty() && batch.unroutes.is_empty() {
            return Arc::clone(current);
        }
        let mut routes = Routes::clone(current);
        let mut left: Vec<Target> = Vec::new();
        for key in &batch.unroutes {
            left.extend(routes.remove(key).into_iter().flatten().flatten());
        }
        for route in &batch.routes {
            let targets = route.targets.each_ref().map(|target| {
                let TargetSpec { pool, keep_source } = target.as_ref()?;
                Some(Target { slot: self.attach(pool), keep_source: *keep_source })
            });
            left.extend(routes.insert(route.key, targets).into_iter().flatten().flatten());
        }
        // At the end, so that a slot that is still named keeps its number.
        left.iter().for_each(|target| self.detach(target.slot));
        Arc::new(routes)
    }

    fn slot_for(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.slot(name) {
            return slot;
        }
        let name: Arc<str> = name.into();
        let entry = Slot { name: Arc::clone(&name), holders: 0, used: false };
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = entry;
            slot
        } else {
            self.slots.push(entry);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        };
        self.by_name.insert(name, slot);
        slot
    }

    fn release(&mut self, slot: u32) {
        let entry = &self.slots[slot as usize];
        if !entry.used && entry.holders == 0 {
            self.by_name.remove(&entry.name);
            self.free.push(slot);
        }
    }
}

/// Start the drain of all backends of a pool that is removed; tells when the first one ends.
fn remove(pool: &Pool, now: Duration) -> Option<Duration> {
    let deadline = now.saturating_add(pool.drain?);
    let states = pool.backends.iter().map(|b| &b.state).chain(&pool.leaving);
    states.inspect(|state| state.start_drain(deadline)).filter_map(|state| state.drain_deadline()).min()
}

fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
