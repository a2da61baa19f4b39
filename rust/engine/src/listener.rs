//! Listening sockets. Every worker watches every one for connections, and the kernel wakes one of them; one of datagrams is
//! watched by one worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use spliceway_io::udp::Arrival;

use crate::routes::ClientClass;

/// What the clients of a listener get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serves {
    /// The pool in this slot.
    Pool(u32),
    /// What the routes say of the address that they dialled; they are of this class.
    Routes(ClientClass),
}

impl Serves {
    const fn class(self) -> Option<ClientClass> {
        match self {
            Self::Pool(_) => None,
            Self::Routes(class) => Some(class),
        }
    }
}

/// A listening socket and what it serves.
#[derive(Debug)]
pub(crate) struct Listener {
    open: RwLock<Open>,
    /// It is a socket of datagrams.
    pub(crate) datagrams: Option<Datagrams>,
}

/// What is to be known of a socket of datagrams. One worker serves it, so that datagrams keep their order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagrams {
    pub(crate) worker: usize,
    /// The class of clients that it was opened for: `Numbered::datagrams` has it there, whatever it serves later.
    class: Option<ClientClass>,
    pub(crate) address: SocketAddr,
    pub(crate) arrival: Arrival,
}

/// Held for reading while accepting, so that a removal closes for certain, and nobody uses a slot that was given back.
#[derive(Debug)]
pub(crate) struct Open {
    /// Empty once the listener was removed.
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) serves: Serves,
}

impl Listener {
    pub(crate) fn open(&self) -> RwLockReadGuard<'_, Open> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serve something else; nobody uses the old meaning, which is returned, any more.
    pub(crate) fn retarget(&self, serves: Serves) -> Serves {
        std::mem::replace(&mut self.write().serves, serves)
    }

    /// Take the socket out: nobody accepts from it any more.
    pub(crate) fn take(&self) -> (Option<OwnedFd>, Serves) {
        let mut open = self.write();
        (open.socket.take(), open.serves)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Open> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All listeners by number. A number is never used again: an old handle must not close a new listener.
#[derive(Debug, Default)]
pub(crate) struct Listeners(RwLock<Numbered>);

#[derive(Debug, Default)]
struct Numbered {
    by_number: HashMap<usize, Arc<Listener>>,
    next: usize,
    /// How many sockets of datagrams each worker serves, for pools and for each class of clients.
    datagrams: HashMap<(Option<ClientClass>, usize), usize>,
}

impl Numbered {
    /// Add a listener; `datagrams` says of one of datagrams which worker serves it, given the least busy one.
    fn add(&mut self, socket: OwnedFd, serves: Serves, datagrams: Option<Datagrams>) -> usize {
        let number = self.next;
        self.next += 1;
        if let Some(datagrams) = datagrams {
            *self.datagrams.entry((datagrams.class, datagrams.worker)).or_default() += 1;
        }
        let listener = Listener { open: RwLock::new(Open { socket: Some(socket), serves }), datagrams };
        self.by_number.insert(number, Arc::new(listener));
        number
    }
}

impl Listeners {
    pub(crate) fn add(&self, socket: OwnedFd, serves: Serves) -> usize {
        self.write().add(socket, serves, None)
    }

    /// Add a socket of datagrams; one of `workers` is chosen to serve it.
    pub(crate) fn add_datagrams(
        &self,
        socket: OwnedFd,
        serves: Serves,
        (address, arrival): (SocketAddr, Arrival),
        workers: usize,
    ) -> (usize, usize) {
        let mut listeners = self.write();
        let served = |worker: &usize| listeners.datagrams.get(&(serves.class(), *worker)).copied().unwrap_or(0);
        let worker = (0..workers).min_by_key(served).unwrap_or(0);
        (listeners.add(socket, serves, Some(Datagrams { worker, class: serves.class(), address, arrival })), worker)
    }

    pub(crate) fn get(&self, number: usize) -> Option<Arc<Listener>> {
        self.read().by_number.get(&number).cloned()
    }

    pub(crate) fn take(&self, number: usize) -> Option<Arc<Listener>> {
        let mut listeners = self.write();
        let listener = listeners.by_number.remove(&number)?;
        if let Some(Datagrams { worker, class, .. }) = listener.datagrams
            && let Some(count) = listeners.datagrams.get_mut(&(class, worker))
        {
            *count = count.saturating_sub(1);
        }
        Some(listener)
    }

    pub(crate) fn len(&self) -> usize {
        self.read().by_number.len()
    }

    /// The numbers of the listeners of `slot`, or of all.
    pub(crate) fn numbers(&self, slot: Option<u32>) -> Vec<usize> {
        let listeners = self.read();
        let wanted =
            listeners.by_number.iter().filter(|(_, l)| slot.is_none_or(|slot| l.open().serves == Serves::Pool(slot)));
        wanted.map(|(&number, _)| number).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Numbered> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Numbered> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
