//! Taking connections from listeners, giving them to the least busy worker, and pausing at a limit.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use spliceway_core::hash::flow_key;
use spliceway_core::retry::Dial;
use spliceway_core::session::Session;
use spliceway_io::{Errno, socket};

use crate::flow::{Arrival, Counted, Dialling, Flow, FlowId, Token};
use crate::relay::HOLD;
use crate::shared::{Message, Shared};
use crate::timer::Due;
use crate::worker::Worker;

/// Connections that are taken from a listener in one go at most, so that flows are served in between.
const BURST: usize = 64;
/// How long accepting pauses at a limit before it is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// A worker keeps a connection while it has at most this many flows more than the least busy one: waking another thread
/// costs more than a small imbalance.
const IMBALANCE: usize = 8;

/// Why taking connections ended.
enum Stop {
    /// Nothing more waits, or enough was taken.
    Served,
    /// A limit of flows was reached.
    FlowLimit,
    /// A limit of descriptors or memory was reached.
    FdLimit,
}

impl Worker {
    /// Take connections from listener `number`.
    pub(crate) fn accept(&mut self, number: usize) {
        let Some(listener) = self.shared().listeners.get(number) else {
            return;
        };
        let slot = listener.slot();
        let mut arrivals = Vec::new();
        let stop = {
            let socket = listener.socket();
            let Some(fd) = socket.as_ref() else { return };
            self.take(fd, slot, &mut arrivals)
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
        }
    }

    fn take(&mut self, listener: &OwnedFd, slot: u32, arrivals: &mut Vec<Arrival>) -> Stop {
        let shared = Arc::clone(self.shared());
        for _ in 0..self.accept_burst {
            if shared.flows.load(Relaxed) >= shared.config.max_flows {
                return Stop::FlowLimit;
            }
            match socket::accept(listener) {
                Ok((client, peer)) => match self.table.load().pool(slot) {
                    Some(pool) => {
                        let counted = Counted::new(&shared, &pool.state);
                        arrivals.push(Arrival { client, peer, slot, counted });
                    }
                    None => socket::reset(client), // its pool is gone, or not there yet
                },
                Err(Errno::AGAIN) => return Stop::Served,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    return Stop::FdLimit;
                }
                Err(_) => {
                    shared.bounds.accept_errors.fetch_add(1, Relaxed);
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
            if least != self.number && self.flows.len() > theirs + IMBALANCE + theirs / 4 {
                shared.doors[least].load.fetch_add(1, Relaxed);
                return shared.doors[least].send(Message::Serve(arrival));
            }
        }
        self.serve_arrival(arrival);
    }

    /// Make a flow of the connection and dial its first backend.
    pub(crate) fn serve_arrival(&mut self, arrival: Arrival) {
        let Arrival { client, peer, slot, counted } = arrival;
        let Some(pool) = self.table.load().pool(slot).cloned() else {
            return socket::reset(client);
        };
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
                key: flow_key(peer, pool.seed),
                attempt: 0,
                target: None,
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
            && let Some(fd) = listener.socket().as_ref()
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
            // At the limit of watches the other workers go on accepting.
            let _ = watch(&shared, self.number, &parked);
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
        let socket = listener.socket();
        let Some(fd) = socket.as_ref() else { continue };
        match shared.doors[number].poll.add_exclusive(fd, Token::Listener(index).encode()) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Send the connections that wait in the queue of a listener to a worker: closing the listener would reset them.
pub(crate) fn rescue(shared: &Arc<Shared>, listener: &OwnedFd, slot: u32) {
    while let Ok((client, peer)) = socket::accept(listener) {
        let Some(pool) = shared.table.load().pool(slot).cloned() else { return };
        let arrival = Arrival { client, peer, slot, counted: Counted::new(shared, &pool.state) };
        shared.doors[shared.least_loaded()].send(Message::Serve(arrival));
    }
}
