//! Listening sockets. Every worker watches every one of them; the kernel wakes one worker for a new connection.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A listening socket and the slot of the pool behind it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Empty once the listener was removed. Held only while accepting, so that a removal closes for certain.
    socket: Mutex<Option<OwnedFd>>,
    slot: AtomicU32,
}

impl Listener {
    pub(crate) fn socket(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn slot(&self) -> u32 {
        self.slot.load(Ordering::Acquire)
    }

    /// Change the slot; nobody uses the old one any more when this returns.
    pub(crate) fn retarget(&self, slot: u32) -> u32 {
        let _nobody_accepts = self.socket();
        self.slot.swap(slot, Ordering::AcqRel)
    }
}

/// All listeners by number. A number is never used again: an old handle must not close a new listener.
#[derive(Debug, Default)]
pub(crate) struct Listeners(RwLock<Numbered>);

#[derive(Debug, Default)]
struct Numbered {
    by_number: HashMap<usize, Arc<Listener>>,
    next: usize,
}

impl Listeners {
    pub(crate) fn add(&self, socket: OwnedFd, slot: u32) -> usize {
        let listener = Listener { socket: Mutex::new(Some(socket)), slot: AtomicU32::new(slot) };
        let mut listeners = self.write();
        let number = listeners.next;
        listeners.next += 1;
        listeners.by_number.insert(number, Arc::new(listener));
        number
    }

    pub(crate) fn get(&self, number: usize) -> Option<Arc<Listener>> {
        self.read().by_number.get(&number).cloned()
    }

    pub(crate) fn take(&self, number: usize) -> Option<Arc<Listener>> {
        self.write().by_number.remove(&number)
    }

    pub(crate) fn len(&self) -> usize {
        self.read().by_number.len()
    }

    /// The numbers of the listeners of `slot`, or of all.
    pub(crate) fn numbers(&self, slot: Option<u32>) -> Vec<usize> {
        let listeners = self.read();
        let wanted = listeners.by_number.iter().filter(|(_, l)| slot.is_none_or(|slot| l.slot() == slot));
        wanted.map(|(&number, _)| number).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Numbered> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Numbered> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
