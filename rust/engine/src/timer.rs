//! Deadlines of one worker: a heap that forgets lazily. A timer of a flow that is gone finds nobody and is ignored.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use spliceway_core::session::Side;

use crate::drains::Drain;
use crate::flow::FlowId;
use crate::udp::SessionId;

/// What is due.
#[derive(Clone, Debug)]
pub(crate) enum Due {
    /// The dial attempt number `attempt` of a flow has taken too long.
    DialTimeout { flow: FlowId, attempt: u32 },
    /// A flow that waits before its attempt number `attempt` may dial.
    DialNow { flow: FlowId, attempt: u32 },
    /// The last bytes of `side`, which has reset, have waited for the other side long enough.
    LastBytes { flow: FlowId, side: Side },
    /// Try to accept again.
    Unpark,
    /// Cut flows whose backend's drain deadline has passed.
    CutLeaving,
    /// Forget the last backends of emptied pools.
    ForgetEmptied,
    /// Cut the flows of a drain.
    CutDrain(Arc<Drain>),
    /// A UDP session that waits before its attempt number `attempt`.
    DialSession { session: SessionId, attempt: u32 },
    /// End the UDP sessions of a drain that are quiet.
    EndQuiet(Arc<Drain>),
}

#[derive(Debug)]
struct Entry {
    at: Duration,
    due: Due,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest, because `BinaryHeap` gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

/// Timers on the engine's clock.
#[derive(Debug, Default)]
pub(crate) struct Timers(BinaryHeap<Entry>);

impl Timers {
    pub(crate) fn add(&mut self, at: Duration, due: Due) {
        self.0.push(Entry { at, due });
    }

    /// How long to wait for the next one; `None` when there is none.
    pub(crate) fn wait(&self, now: Duration) -> Option<Duration> {
        self.0.peek().map(|entry| entry.at.saturating_sub(now))
    }

    /// The next one that is due at `now`.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Due> {
        if self.0.peek()?.at > now {
            return None;
        }
        self.0.pop().map(|entry| entry.due)
    }
}
