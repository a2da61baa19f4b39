//! Listening sockets. Every worker watches every one of them; the kernel wakes one worker for a new connection.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use slab::Slab;

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

    pub(crate) fn retarget(&self, slot: u32) -> u32 {
        self.slot.swap(slot, Ordering::AcqRel)
    }
}

/// All listeners by number.
#[derive(Debug, Default)]
pub(crate) struct Listeners(RwLock<Slab<Arc<Listener>>>);

impl Listeners {
    pub(crate) fn add(&self, socket: OwnedFd, slot: u32) -> usize {
        let listener = Listener { socket: Mutex::new(Some(socket)), slot: AtomicU32::new(slot) };
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(Arc::new(listener))
    }

    pub(crate) fn get(&self, number: usize) -> Option<Arc<Listener>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(number).cloned()
    }

    pub(crate) fn take(&self, number: usize) -> Option<Arc<Listener>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).try_remove(number)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The numbers of the listeners of `slot`, or of all.
    pub(crate) fn numbers(&self, slot: Option<u32>) -> Vec<usize> {
        let listeners = self.0.read().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().filter(|(_, l)| slot.is_none_or(|slot| l.slot() == slot)).map(|(n, _)| n).collect()
    }
}
