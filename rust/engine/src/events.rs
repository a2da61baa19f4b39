//! A bounded ring of things that happened, with an eventfd that is readable while some wait.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use spliceway_io::waker::Waker;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A dial failed; `count` is the backend's number of failures in a row.
    ConnectFailed,
    /// The first success of a backend after failures.
    ConnectRecovered,
    /// A flow was refused because every permitted try failed.
    NoBackend,
    /// A backend closed or reset before its first byte, after client bytes had been sent to it.
    BackendAborted,
    /// Accepting paused at the limit of flows or descriptors.
    Paused,
    /// Accepting goes on.
    Resumed,
    /// A drain is over; `count` flows were cut at its deadline.
    Drained,
    /// Upstream sockets may not be marked or come from a client's address; told once.
    NotPermitted,
    /// A worker panicked and was started again; its flows are lost.
    WorkerDied,
}

impl EventKind {
    /// The name in the Python face and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectFailed => "connect-failed",
            Self::ConnectRecovered => "connect-recovered",
            Self::NoBackend => "no-backend",
            Self::BackendAborted => "backend-aborted",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Drained => "drained",
            Self::NotPermitted => "not-permitted",
            Self::WorkerDied => "worker-died",
        }
    }
}

/// Something that happened in a worker.
#[derive(Clone, Debug)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// When.
    pub time: SystemTime,
    /// The pool that it concerns, or none.
    pub pool: Option<Arc<str>>,
    /// The backend that it concerns, or none.
    pub backend: Option<SocketAddr>,
    /// Why, in words.
    pub reason: String,
    /// See [`EventKind`]; 1 where it says nothing.
    pub count: u64,
}

impl Event {
    /// An event of now that concerns the engine as a whole.
    pub(crate) fn new(kind: EventKind, reason: impl Into<String>) -> Self {
        Self { kind, time: SystemTime::now(), pool: None, backend: None, reason: reason.into(), count: 1 }
    }

    pub(crate) fn of(mut self, pool: &Arc<str>, backend: Option<SocketAddr>) -> Self {
        self.pool = Some(Arc::clone(pool));
        self.backend = backend;
        self
    }

    pub(crate) fn times(mut self, count: u64) -> Self {
        self.count = count;
        self
    }
}

/// The ring. Events are rare next to bytes, so a lock is good enough.
#[derive(Debug)]
pub(crate) struct EventRing {
    queue: Mutex<VecDeque<Event>>,
    capacity: usize,
    dropped: AtomicU64,
    waker: Waker,
}

impl EventRing {
    pub(crate) fn new(capacity: usize) -> io::Result<Self> {
        Ok(Self { queue: Mutex::default(), capacity, dropped: AtomicU64::new(0), waker: Waker::new()? })
    }

    /// Append, or drop and count when the ring is full.
    pub(crate) fn push(&self, event: Event) {
        let mut queue = self.lock();
        if queue.len() >= self.capacity {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.push_back(event);
        if queue.len() == 1 {
            self.waker.wake();
        }
    }

    /// Take up to `limit` events, oldest first.
    pub(crate) fn take(&self, limit: usize) -> Vec<Event> {
        let mut queue = self.lock();
        let n = limit.min(queue.len());
        let taken = queue.drain(..n).collect();
        if queue.is_empty() {
            self.waker.clear();
        }
        taken
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn wake_fd(&self) -> RawFd {
        self.waker.as_raw_fd()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that does not take events must not lose memory, and must be told that it missed some.
    #[test]
    fn a_full_ring_drops_and_counts() {
        let ring = EventRing::new(2).unwrap();
        for _ in 0..5 {
            ring.push(Event::new(EventKind::Paused, "x"));
        }
        assert_eq!((ring.take(10).len(), ring.dropped()), (2, 3));
        assert!(ring.take(10).is_empty());
    }
}
