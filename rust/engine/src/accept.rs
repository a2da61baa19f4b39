//! Taking connections from listeners, giving them to the least busy worker, and pausing at a limit.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use spliceway_core::retry::Dial;
use spliceway_core::session::Session;
use spliceway_io::{Errno, socket};

use crate::flow::{Arrival, Counted, Dialling, Flow, FlowId, Token};
use crate::listener::Serves;
use crate::relay::HOLD;
use crate::routes::{Target, Transport};
use crate::shared::{Message, Shared};
use crate::source::Source;
use crate::table::Table;
use crate::timer::Due;
use crate::worker::Worker;

/// Connections that are taken from a listener in one go at most, so that flows are served in between.
const BURST: usize = 64;
/// Connections that a listener's queue holds at most, as Linux bounds it by default.
const LONGEST_QUEUE: usize = 4096;
/// How long accepting pauses at a limit before it is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// A worker keeps a connection while it has at most one flow more than the least busy one, and one for each so many of
/// those. Connections may last, and those of the busier worker would be the slow ones; among many a few more are not
/// felt, and waking another thread costs something.
const EXCESS_DIVISOR: usize = 16;

/// Why taking connections ended.
enum Stop {
    /// Nothing more waits, or enough was taken.
    Served,
    /// A limit of flows was reached.
    FlowLimit,
    /// A limit of descriptors or memory was reached.
    FdLimit,
    /// The kernel refuses, and would again at once.
    Refused,
}

/// Whether accept failed because that one connection died while it waited (accept(2) lists the network errors).
fn is_connections_own(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::CONNABORTED
            | Errno::INTR
            | Errno::PROTO
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NOPROTOOPT
    )
}

impl Worker {
    /// Take connections from listener `number`.
    pub(crate) fn accept(&mut self, number: usize) {
        let Some(listener) = self.shared().listeners.get(number) else {
            return;
        };
        let mut arrivals = Vec::new();
        let stop = {
            // Held while the slot is used, so that the slot cannot pass to another pool meanwhile.
            let open = listener.open();
            let Some(fd) = open.socket.as_ref() else { return };
            self.take(fd, open.serves, &mut arrivals)
        };
        // A listener that has many waiting is asked for many; one that has few costs no call in vain.
        let full = arrivals.len() >= self.accept_burst;
        self.accept_burst = if full { (self.accept_burst * 2).min(BURST) } else { (self.accept_burst / 2).max(1) };
        for arrival in arrivals {
            self.place(arrival);
        }
        match stop {
            Stop::Served => {}
            Stop::FlowLimit => {
                self.shared().bounds.flow_limit_hits.fetch_add(1, Relaxed);
                self.park(number, "the limit of flows is reached");
            }
            Stop::FdLimit => {
                self.shared().bounds.fd_limit_hits.fetch_add(1, Relaxed);
                self.tools.pipes.shrink();
                self.park(number, "no file descriptor is left");
            }
            Stop::Refused => self.park(number, "the kernel refuses to accept"),
        }
    }

    fn take(&mut self, listener: &OwnedFd, serves: Serves, arrivals: &mut Vec<Arrival>) -> Stop {
        let shared = Arc::clone(self.shared());
        for _ in 0..self.accept_burst {
            if shared.flows.load(Relaxed) >= shared.config.max_flows {
                return Stop::FlowLimit;
            }
            match socket::accept(listener) {
                Ok((client, peer)) => arrivals.extend(arrival(&shared, self.table.load(), serves, client, peer)),
                Err(Errno::AGAIN) => return Stop::Served,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    return Stop::FdLimit;
                }
                Err(errno) => {
                    shared.bounds.accept_errors.fetch_add(1, Relaxed);
                    if !is_connections_own(errno) {
                        return Stop::Refused;
                    }
                }
            }
        }
        Stop::Served
    }

    /// Serve the connection here, or send it to a worker that has clearly less to do.
    fn place(&mut self, arrival: Arrival) {
        let shared = self.shared();
        if shared.doors.len() > 1 {
            let least = shared.least_loaded();
            let theirs = shared.doors[least].load.load(Relaxed);
            if least != self.number && self.flows.len() > theirs + 1 + theirs / EXCESS_DIVISOR {
                shared.doors[least].load.fetch_add(1, Relaxed);
                return shared.doors[least].send(Message::Serve(arrival));
            }
        }
        self.serve_arrival(arrival);
    }

    /// A connection from another worker may come after a drain has cut what there was.
    pub(crate) fn serve_late_arrival(&mut self, arrival: Arrival) {
        match self.shared().drains.expired(&arrival.counted.pool) {
            Some(drain) => {
                drain.expire(1);
                arrival.counted.pool.ended_drained.fetch_add(1, Relaxed);
                socket::reset(arrival.client);
            }
            None => self.serve_arrival(arrival),
        }
    }

    /// Make a flow of the connection and dial its first backend.
    pub(crate) fn serve_arrival(&mut self, arrival: Arrival) {
        let Arrival { client, peer, keep_source, slot, pool, counted } = arrival;
        self.serial = self.serial.wrapping_add(1);
        let entry = self.flows.vacant_entry();
        let id = FlowId { index: entry.key() as u32, serial: self.serial };
        entry.insert(Flow {
            id,
            session: Session::new(if pool.retry.replay { HOLD } else { 0 }),
            client,
            backend: None,
            watched: [None; 2],
            lanes: Default::default(),
            slot,
            dialling: Some(Box::new(Dialling {
                dial: Dial::new(self.now),
                client: peer,
                keep_source,
                pool,
                attempt: 0,
                retried: false,
                target: None,
                source: Source::Own,
                began: self.now,
                ends: self.now,
                saved: false,
                held: Vec::new(),
            })),
            serving: None,
            counted,
        });
        self.dial(id);
    }

    /// Do not watch this listener for a while: it stays ready and would make the loop spin.
    fn park(&mut self, number: usize, reason: &str) {
        if let Some(listener) = self.shared().listeners.get(number)
            && let Some(fd) = listener.open().socket.as_ref()
        {
            let _ = self.door().poll.remove(fd);
        }
        if !self.paused {
            self.paused = true;
            self.shared().pause(reason);
            self.timers.add(self.now + PAUSE, Due::Unpark);
        }
        if !self.parked.contains(&number) {
            self.parked.push(number);
        }
    }

    /// Watch the parked listeners again. The pause is over when none had to be parked again since the last look.
    pub(crate) fn unpark(&mut self) {
        let shared = Arc::clone(self.shared());
        if self.parked.is_empty() {
            self.paused = false;
            return shared.resume();
        }
        if shared.flows.load(Relaxed) < shared.config.max_flows {
            let parked = std::mem::take(&mut self.parked);
            if watch(&shared, self.number, &parked).is_err() {
                self.parked = parked; // at the limit of watches: later
            }
        }
        self.timers.add(self.now + PAUSE, Due::Unpark);
    }
}

/// Let worker `number` watch `listeners`; those that were removed meanwhile are left out.
///
/// # Errors
/// `ENOSPC` at the user's limit of watches.
pub(crate) fn watch(shared: &Shared, number: usize, listeners: &[usize]) -> Result<(), Errno> {
    for &index in listeners {
        let Some(listener) = shared.listeners.get(index) else { continue };
        let open = listener.open();
        let Some(fd) = open.socket.as_ref() else { continue };
        match shared.doors[number].poll.add_exclusive(fd, Token::Listener(index).encode()) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Send the connections that wait in the queue of a listener to a worker: closing the listener would reset them.
pub(crate) fn rescue(shared: &Arc<Shared>, listener: &OwnedFd, serves: Serves) {
    let table = shared.table.load();
    for _ in 0..LONGEST_QUEUE {
        let (client, peer) = match socket::accept(listener) {
            Ok(accepted) => accepted,
            Err(errno) if is_connections_own(errno) => continue,
            Err(_) => return,
        };
        if let Some(arrival) = arrival(shared, &table, serves, client, peer) {
            shared.doors[shared.least_loaded()].send(Message::Serve(arrival));
        }
    }
}

/// What becomes of a connection from a listener; it is reset when nothing serves it.
fn arrival(shared: &Arc<Shared>, table: &Table, serves: Serves, client: OwnedFd, peer: SocketAddr) -> Option<Arrival> {
    let target = match serves {
        Serves::Pool(slot) => Some(Target { slot, keep_source: false }),
        Serves::Routes(class) => {
            let dialled = socket::local_address(&client).ok();
            let target = dialled.and_then(|address| table.route(Transport::Tcp, address, class));
            if target.is_none() {
                shared.bounds.unrouted.fetch_add(1, Relaxed);
            }
            target
        }
    };
    // A pool may be gone, or not be there yet.
    let Some((target, pool)) = target.and_then(|target| Some((target, table.pool(target.slot)?))) else {
        socket::reset(client);
        return None;
    };
    let last = if pool.usable().is_empty() { shared.emptied.last(pool, shared.now()) } else { None };
    let (pool, counted) = (last.unwrap_or_else(|| Arc::clone(pool)), Counted::new(shared, &pool.state));
    Some(Arrival { client, peer, keep_source: target.keep_source, slot: target.slot, pool, counted })
}
