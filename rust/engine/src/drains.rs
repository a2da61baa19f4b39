//! Drains under way: of one pool, or of the whole engine.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use spliceway_core::pool::PoolState;

use crate::events::{Event, EventKind, EventRing};

/// One drain: which flows, and how many had to be cut.
#[derive(Debug)]
pub(crate) struct Drain {
    /// The pool's state and name; none is every flow.
    pool: Option<(Arc<PoolState>, Arc<str>)>,
    cut: AtomicU64,
    expired: AtomicBool,
    over: AtomicBool,
}

impl Drain {
    pub(crate) fn new(pool: Option<(Arc<PoolState>, Arc<str>)>) -> Arc<Self> {
        Arc::new(Self { pool, cut: AtomicU64::new(0), expired: AtomicBool::new(false), over: AtomicBool::new(false) })
    }

    pub(crate) fn concerns(&self, pool: &Arc<PoolState>) -> bool {
        self.pool.as_ref().is_none_or(|(own, _)| Arc::ptr_eq(own, pool))
    }

    /// The deadline has come, and `cut` flows more are cut.
    pub(crate) fn expire(&self, cut: u64) {
        self.cut.fetch_add(cut, Relaxed);
        self.expired.store(true, SeqCst);
    }

    fn empty(&self, all_flows: usize) -> bool {
        self.pool.as_ref().map_or(all_flows == 0, |(state, _)| state.active.load(SeqCst) == 0)
    }
}

/// The drains that are not over yet.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    count: AtomicUsize,
    list: Mutex<Vec<Arc<Drain>>>,
}

impl Drains {
    pub(crate) fn begin(&self, drain: Arc<Drain>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(drain);
        self.count.store(list.len(), SeqCst);
    }

    /// The drain whose deadline has passed for flows of `pool`, if there is one: a connection that comes late is cut.
    pub(crate) fn expired(&self, pool: &Arc<PoolState>) -> Option<Arc<Drain>> {
        if self.count.load(SeqCst) == 0 {
            return None;
        }
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().find(|drain| drain.expired.load(SeqCst) && drain.concerns(pool)).cloned()
    }

    /// Report every drain that has no flow left. Costs one load while there is none.
    pub(crate) fn check(&self, all_flows: usize, events: &EventRing) {
        if self.count.load(SeqCst) == 0 {
            return;
        }
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|drain| {
            let over = drain.empty(all_flows);
            if over && !drain.over.swap(true, Relaxed) {
                let event = Event::new(EventKind::Drained, "no flow is left").times(drain.cut.load(Relaxed));
                events.push(match &drain.pool {
                    Some((_, name)) => event.of(name, None),
                    None => event,
                });
            }
            !over
        });
        self.count.store(list.len(), SeqCst);
    }
}
