//! What all workers and the host's threads see of one engine.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;
use spliceway_core::affinity::Affinities;
use spliceway_io::poll::{Interest, Poll};
use spliceway_io::socket;
use spliceway_io::waker::Waker;

use crate::config::Config;
use crate::drains::{Drain, Drains};
use crate::emptied::Emptied;
use crate::events::{Event, EventKind, EventRing};
use crate::flow::{Arrival, WAKER_TOKEN};
use crate::listener::Listeners;
use crate::source::Bypasses;
use crate::table::Table;

/// How often each bound bit, and other rare things.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) flow_limit_hits: AtomicU64,
    pub(crate) fd_limit_hits: AtomicU64,
    pub(crate) pipe_limit_hits: AtomicU64,
    pub(crate) worker_panics: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
    /// Connections for which there was no route.
    pub(crate) unrouted: AtomicU64,
    /// UDP sessions now.
    pub(crate) sessions: AtomicUsize,
    pub(crate) session_limit_hits: AtomicU64,
    pub(crate) sessions_moved: AtomicU64,
    pub(crate) datagrams_dropped: AtomicU64,
    /// Trains of datagrams that the kernel did not take; they left one by one.
    pub(crate) trains_refused: AtomicU64,
    /// Workers that do not accept now.
    pub(crate) paused: AtomicUsize,
}

/// What another thread asks of a worker.
#[derive(Debug)]
pub(crate) enum Message {
    /// Serve this connection: the worker that accepted it is busier.
    Serve(Arrival),
    /// Cut flows to backends that left, when their drain deadline comes.
    CutLeavingAt(Duration),
    /// Cut the flows of a drain at its deadline.
    CutDrainAt(Duration, Arc<Drain>),
    /// Forget pools that were emptied, when their time is over.
    ForgetEmptiedAt(Duration),
    /// Pools in these slots lost backends, or routes to them have changed.
    Moved(Arc<[u32]>),
    /// This listener of datagrams was closed.
    DatagramsClosed(usize),
    /// Another worker needs room for a session, and this one has the oldest.
    EndOldestSession,
    /// Panic, to show that it is survived.
    #[cfg(test)]
    Panic,
}

/// A worker as others see it.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) poll: Poll,
    waker: Waker,
    mail: Mutex<Vec<Message>>,
    /// Flows that this worker serves.
    pub(crate) load: CachePadded<AtomicUsize>,
    /// When its oldest UDP session was used last, in milliseconds of the engine's clock; `u64::MAX`: it has none.
    pub(crate) oldest_session: AtomicU64,
}

impl Door {
    fn new() -> io::Result<Self> {
        let (poll, waker) = (Poll::new()?, Waker::new()?);
        poll.add(&waker, WAKER_TOKEN, Interest::READ)?;
        let oldest_session = AtomicU64::new(u64::MAX);
        Ok(Self { poll, waker, mail: Mutex::default(), load: CachePadded::default(), oldest_session })
    }

    pub(crate) fn send(&self, message: Message) {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        self.waker.wake();
    }

    pub(crate) fn receive(&self) -> Vec<Message> {
        self.waker.clear();
        std::mem::take(&mut *self.mail.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reset connections that nobody will serve any more.
    pub(crate) fn discard_mail(&self) {
        for message in self.receive() {
            if let Message::Serve(arrival) = message {
                socket::reset(arrival.client);
            }
        }
    }

    pub(crate) fn wake(&self) {
        self.waker.wake();
    }
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) table: Arc<ArcSwap<Table>>,
    pub(crate) listeners: Listeners,
    pub(crate) doors: Box<[Door]>,
    pub(crate) events: EventRing,
    pub(crate) drains: Drains,
    pub(crate) affinities: Affinities,
    pub(crate) bypasses: Bypasses,
    pub(crate) emptied: Emptied,
    pub(crate) bounds: Bounds,
    /// Flows open now, those on their way to another worker included.
    pub(crate) flows: CachePadded<AtomicUsize>,
    pub(crate) stopping: AtomicBool,
    /// There is, or was, a listener of datagrams.
    pub(crate) serves_datagrams: AtomicBool,
    /// It was told that this process may not dial as it should.
    pub(crate) not_permitted: AtomicBool,
    epoch: Instant,
}

impl Shared {
    pub(crate) fn new(config: Config) -> io::Result<Self> {
        Ok(Self {
            doors: (0..config.worker_count()).map(|_| Door::new()).collect::<io::Result<_>>()?,
            events: EventRing::new(config.event_capacity)?,
            affinities: Affinities::new(config.max_affinities),
            bypasses: Bypasses::default(),
            emptied: Emptied::default(),
            config,
            table: Arc::default(),
            listeners: Listeners::default(),
            drains: Drains::default(),
            bounds: Bounds::default(),
            flows: CachePadded::default(),
            stopping: AtomicBool::new(false),
            serves_datagrams: AtomicBool::new(false),
            not_permitted: AtomicBool::new(false),
            epoch: Instant::now(),
        })
    }

    /// Time on the engine's own monotonic clock.
    pub(crate) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Something has ended: report the drains that are over.
    pub(crate) fn check_drains(&self) {
        self.drains.check(self.flows.load(SeqCst) + self.bounds.sessions.load(SeqCst), &self.events);
    }

    /// The worker with the fewest flows.
    pub(crate) fn least_loaded(&self) -> usize {
        (0..self.doors.len()).min_by_key(|&n| self.doors[n].load.load(Relaxed)).unwrap_or(0)
    }

    pub(crate) fn tell_all(&self, message: impl Fn() -> Message) {
        for door in &self.doors {
            door.send(message());
        }
    }

    /// A worker stops accepting; the first one says why.
    pub(crate) fn pause(&self, reason: &str) {
        if self.bounds.paused.fetch_add(1, Relaxed) == 0 {
            self.events.push(Event::new(EventKind::Paused, reason));
        }
    }

    pub(crate) fn resume(&self) {
        if self.bounds.paused.fetch_sub(1, Relaxed) == 1 {
            self.events.push(Event::new(EventKind::Resumed, "accepting again"));
        }
    }
}
