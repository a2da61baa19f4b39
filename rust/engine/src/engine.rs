//! The whole of what a host can ask of an engine. Every call may come from any thread and returns at once, but for
//! [`Engine::apply`], which builds tables, and [`Engine::close`].

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use spliceway_core::maglev::TableCache;
use spliceway_core::pool::{Balance, Pool, PoolSpec};
use spliceway_core::rng::Rng;
use spliceway_io::{fork, thread};

use crate::config::{Config, EngineError};
use crate::drains::Drain;
use crate::events::Event;
use crate::registry::Registry;
use crate::routes::{RouteKey, RouteSpec};
use crate::shared::{Message, Shared};
use crate::snapshot::{BackendCounters, EngineCounters, PoolCounters};
use crate::{udp, worker};

/// The longest wait for the workers to end.
const LONGEST_CLOSE: Duration = Duration::from_secs(24 * 3600);

/// What changes in one swap.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Pools to create or replace.
    pub upserts: Vec<PoolSpec>,
    /// Names of pools to remove; unknown ones are ignored.
    pub removes: Vec<String>,
    /// Routes to set.
    pub routes: Vec<RouteSpec>,
    /// Routes to remove, before others are set; unknown ones are ignored.
    pub unroutes: Vec<RouteKey>,
    /// The number of the state after it.
    pub generation: u64,
}

/// One backend in the order in which a flow would try it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The backend and its counters.
    pub backend: BackendCounters,
    /// 1 for the first choice; 0: it would not be tried.
    pub rank: u8,
    /// Why, for people.
    pub reason: String,
}

/// What the selection code would do for a client.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The pool's name.
    pub pool: String,
    /// How it chooses.
    pub balance: Balance,
    /// The generation that was asked.
    pub generation: u64,
    /// In order.
    pub candidates: Vec<Candidate>,
}

#[derive(Debug, Default)]
enum Threads {
    #[default]
    NotStarted,
    Running(Vec<JoinHandle<()>>, mpsc::Receiver<()>),
    Closed,
}

/// Inert until [`start`](Self::start).
#[derive(Debug)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    /// Names and slots. Held for moments only.
    pub(crate) registry: Mutex<Registry>,
    /// Held while a table is made, so that tables follow one another.
    tables: Mutex<TableCache>,
    threads: Mutex<Threads>,
}

impl Engine {
    /// # Errors
    /// A size that is out of range, or no descriptor left.
    pub fn new(config: Config) -> Result<Self, EngineError> {
        config.validate()?;
        let shared =
            Shared::new(config).map_err(|source| EngineError::Io { what: "cannot make the engine", source })?;
        Ok(Self {
            shared: Arc::new(shared),
            registry: Mutex::default(),
            tables: Mutex::default(),
            threads: Mutex::default(),
        })
    }

    /// Start the worker threads.
    ///
    /// # Errors
    /// Called twice, after `close`, or no thread can be had.
    pub fn start(&self) -> Result<(), EngineError> {
        let mut threads = lock(&self.threads);
        match *threads {
            Threads::NotStarted => {}
            Threads::Running(..) => return Err(EngineError::AlreadyStarted),
            Threads::Closed => return Err(EngineError::Closed),
        }
        fork::watch();
        let (done, all_done) = mpsc::channel();
        let mut handles = Vec::new();
        for number in 0..self.shared.doors.len() {
            let (shared, done) = (Arc::clone(&self.shared), done.clone());
            let builder = Builder::new().name(format!("spliceway-{number}"));
            let handle = builder.spawn(move || {
                let _done = done; // dropped when the thread ends, however it ends
                let _ = thread::block_signals();
                worker::run(&shared, number);
            });
            match handle {
                Ok(handle) => handles.push(handle),
                Err(source) => {
                    *threads = Threads::Closed;
                    drop(threads);
                    self.stop(); // those that were started end
                    return Err(EngineError::Io { what: "cannot start a worker", source });
                }
            }
        }
        *threads = Threads::Running(handles, all_done);
        Ok(())
    }

    /// Create, replace and remove pools and routes in one swap.
    ///
    /// # Errors
    /// The first value that is bad; nothing is changed then.
    pub fn apply(&self, mut batch: Batch) -> Result<(), EngineError> {
        self.check_open()?;
        let upserts = std::mem::take(&mut batch.upserts);
        let mut tables = lock(&self.tables);
        let current = self.shared.table.load_full();
        let mut pools = Vec::with_capacity(upserts.len());
        let mut emptied = Vec::new();
        for spec in upserts {
            let previous = lock(&self.registry).slot(&spec.name).and_then(|slot| current.pool(slot));
            let affinities = &self.shared.affinities;
            let pool = Pool::build(spec, previous.map(Arc::as_ref), &mut tables, affinities)
                .inspect_err(|_| affinities.forget_unpublished())?;
            emptied.extend(previous.filter(|old| !old.usable().is_empty() && pool.usable().is_empty()).cloned());
            pools.push(pool);
        }
        // Before the table, so that who finds a pool empty finds here what was before.
        if !emptied.is_empty() {
            let until = self.shared.emptied.note(emptied, self.shared.now());
            self.shared.doors[0].send(Message::ForgetEmptiedAt(until));
        }
        let mut registry = lock(&self.registry);
        let made = registry.make(&current, pools, &batch, self.shared.now());
        let table = Arc::new(made.table);
        self.shared.table.store(Arc::clone(&table));
        drop(registry);
        // After the table, so that no session is made by the old one when this is read.
        if self.shared.serves_datagrams.load(Acquire) {
            let slots = udp::moved(&current, &table, &batch);
            if !slots.is_empty() {
                let slots: Arc<[u32]> = slots.into();
                self.shared.tell_all(|| Message::Moved(Arc::clone(&slots)));
            }
        }
        // All that come before any that go: a group may pass from one pool to another.
        for (_, new) in &made.with_affinity {
            self.shared.affinities.enter(new.as_deref());
        }
        for (old, _) in &made.with_affinity {
            self.shared.affinities.leave(old.as_deref());
        }
        if let Some(at) = made.drain {
            self.shared.tell_all(|| Message::CutLeavingAt(at));
        }
        Ok(())
    }

    /// Close the listeners of `pool` (or all), and cut after `deadline` what still runs then.
    ///
    /// # Errors
    /// The engine is closed, or there is no such pool.
    pub fn drain(&self, deadline: Duration, pool: Option<&str>) -> Result<(), EngineError> {
        self.check_open()?;
        let unknown = || EngineError::UnknownPool(pool.unwrap_or_default().to_owned());
        let found = pool.map(|name| self.find(name).ok_or_else(unknown)).transpose()?;
        let slot = found.as_ref().map(|(slot, ..)| *slot);
        let state = found.map(|(_, _, pool)| (Arc::clone(&pool.state), Arc::clone(&pool.name)));
        for listener in self.shared.listeners.numbers(slot) {
            let _ = self.remove_listener(listener); // somebody else may have removed it meanwhile
        }
        let drain = Drain::new(state);
        self.shared.drains.begin(Arc::clone(&drain));
        let at = self.shared.now().saturating_add(deadline);
        self.shared.tell_all(|| Message::CutDrainAt(at, Arc::clone(&drain)));
        self.shared.check_drains();
        Ok(())
    }

    /// Tell which backends a flow of `client` to `pool` would try.
    ///
    /// # Errors
    /// No such pool.
    pub fn explain(&self, pool: &str, client: SocketAddr) -> Result<Explanation, EngineError> {
        let found = self.find(pool).ok_or_else(|| EngineError::UnknownPool(pool.to_owned()));
        let (_, generation, found) = found?;
        let counters = PoolCounters::read(&found).backends;
        let order = found.preview(client, self.shared.now(), &Rng::new(found.seed));
        let candidates = order.into_iter().filter_map(|preview| {
            let backend = counters.get(preview.index)?.clone();
            Some(Candidate { backend, rank: preview.rank, reason: preview.reason })
        });
        Ok(Explanation {
            pool: found.name.to_string(),
            balance: found.balance,
            generation,
            candidates: candidates.collect(),
        })
    }

    /// All counters. `all_pools` false leaves out pools that never had a flow.
    #[must_use]
    pub fn counters(&self, all_pools: bool) -> EngineCounters {
        EngineCounters::read(&self.shared, all_pools)
    }

    /// One pool's counters.
    ///
    /// # Errors
    /// No such pool.
    pub fn pool_counters(&self, pool: &str) -> Result<PoolCounters, EngineError> {
        let found = self.find(pool).ok_or_else(|| EngineError::UnknownPool(pool.to_owned()));
        found.map(|(_, _, pool)| PoolCounters::read(&pool))
    }

    /// Up to `limit` events, oldest first.
    #[must_use]
    pub fn take_events(&self, limit: usize) -> Vec<Event> {
        self.shared.events.take(limit)
    }

    /// An eventfd that is readable while events wait.
    #[must_use]
    pub fn wake_fd(&self) -> RawFd {
        self.shared.events.wake_fd()
    }

    /// The last published generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.table.load().generation
    }

    /// Stop accepting, cut what is left, and wait for the workers until `deadline` has passed.
    pub fn close(&self, deadline: Duration) {
        let before = std::mem::replace(&mut *lock(&self.threads), Threads::Closed);
        self.stop();
        let Threads::Running(handles, all_done) = before else {
            return;
        };
        let until = Instant::now() + deadline.min(LONGEST_CLOSE);
        // Nothing is ever sent: the channel ends when the last worker has.
        while let Ok(()) = all_done.recv_timeout(until.saturating_duration_since(Instant::now())) {}
        for handle in handles {
            if handle.is_finished() {
                let _ = handle.join();
            }
        }
        self.discard_mail();
    }

    /// A pool by its name, with its slot and the generation of its table.
    fn find(&self, name: &str) -> Option<(u32, u64, Arc<Pool>)> {
        let registry = lock(&self.registry);
        let slot = registry.slot(name)?;
        let table = self.shared.table.load();
        table.pool(slot).map(|pool| (slot, table.generation, Arc::clone(pool)))
    }

    /// Connections that reached a worker's door after it had left are reset.
    fn discard_mail(&self) {
        for door in &self.shared.doors {
            door.discard_mail();
        }
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn stop(&self) {
        let listeners = {
            let _none_is_added = lock(&self.registry);
            self.shared.listeners.numbers(None)
        };
        for listener in listeners {
            let _ = self.remove_listener(listener);
        }
        self.shared.stopping.store(true, Release);
        for door in &self.shared.doors {
            door.wake();
        }
    }

    pub(crate) fn check_open(&self) -> Result<(), EngineError> {
        if matches!(*lock(&self.threads), Threads::Closed) { Err(EngineError::Closed) } else { Ok(()) }
    }
}

impl Drop for Engine {
    /// A safety net: the workers are told to stop, and nobody waits for them.
    fn drop(&mut self) {
        self.stop();
        if !matches!(*lock(&self.threads), Threads::Running(..)) {
            self.discard_mail();
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
