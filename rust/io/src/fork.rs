//! Whether this process has forked: a child may hold copies of our sockets, and then closing ours says nothing to a peer.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static FORKED: AtomicBool = AtomicBool::new(false);
static WATCH: Once = Once::new();

extern "C" fn note() {
    FORKED.store(true, Relaxed);
}

/// Notice forks from now on.
pub fn watch() {
    WATCH.call_once(|| {
        // SAFETY: the handler only stores to an atomic, which is allowed between fork and its return. It fails only for
        // want of memory; then forks go unnoticed, as they did before.
        let _ = unsafe { libc::pthread_atfork(None, Some(note), None) };
    });
}

/// Whether a fork was noticed in this process.
#[must_use]
pub fn noticed() -> bool {
    FORKED.load(Relaxed)
}
