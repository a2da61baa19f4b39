//! Level-triggered readiness by `epoll(7)`.
//!
//! Level-triggered, because a relay that stops reading on purpose (back-pressure) must be told again later, and because
//! edge-triggered loops fail only at exact byte boundaries, where nobody looks.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

/// What to be told about a descriptor. Errors and hang-ups are always told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Bytes, end of stream, or (for a listener) a connection can be taken.
    pub read: bool,
    /// Bytes can be written, or a connect has ended.
    pub write: bool,
}

impl Interest {
    /// Errors and hang-ups only.
    pub const NONE: Self = Self { read: false, write: false };
    /// Readable.
    pub const READ: Self = Self { read: true, write: false };
    /// Writable.
    pub const WRITE: Self = Self { read: false, write: true };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN | EventFlags::RDHUP, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags
    }
}

/// One descriptor's readiness.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The token given with [`Poll::add`].
    pub token: u64,
    /// Readable, or at its end.
    pub readable: bool,
    /// Writable.
    pub writable: bool,
    /// The peer has said that it will send no more: behind what can be read is the end. Told with interest in reading.
    pub ended: bool,
    /// In error, or both directions are shut down.
    pub failed: bool,
}

/// An epoll instance. `add`, `set` and `remove` may be called from any thread.
#[derive(Debug)]
pub struct Poll(OwnedFd);

impl Poll {
    /// # Errors
    /// What `epoll_create1(2)` reports: no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Watch `fd`.
    ///
    /// # Errors
    /// `ENOSPC` at the user's limit of watches, `EEXIST` when it is watched already.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), Errno> {
        epoll::add(&self.0, fd, EventData::new_u64(token), interest.flags())
    }

    /// Watch a listener that other instances watch too: a new connection wakes one of them, not all.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_exclusive(&self, fd: impl AsFd, token: u64) -> Result<(), Errno> {
        epoll::add(&self.0, fd, EventData::new_u64(token), EventFlags::IN | EventFlags::EXCLUSIVE)
    }

    /// Change what is told about a watched `fd`.
    ///
    /// # Errors
    /// `ENOENT` when it is not watched.
    pub fn set(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), Errno> {
        epoll::modify(&self.0, fd, EventData::new_u64(token), interest.flags())
    }

    /// Stop watching `fd`.
    ///
    /// # Errors
    /// `ENOENT` when it is not watched.
    pub fn remove(&self, fd: impl AsFd) -> Result<(), Errno> {
        epoll::delete(&self.0, fd)
    }

    /// Wait until something is ready or `timeout` is over (None: for ever), and append it to `ready`.
    ///
    /// # Errors
    /// None that is expected; an interrupted wait counts as a time-out.
    pub fn wait(&self, ready: &mut Batch, timeout: Option<Duration>) -> Result<(), Errno> {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        ready.0.clear();
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut ready.0), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// Room for the readiness of many descriptors, filled by one [`Poll::wait`].
pub struct Batch(Vec<epoll::Event>);

impl Batch {
    /// Room for `capacity` descriptors.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// How many descriptors are ready.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the wait timed out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The readiness at `index`, which must be below [`len`](Self::len).
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Ready> {
        let event = *self.0.get(index)?;
        let flags = event.flags;
        Some(Ready {
            token: event.data.u64(),
            readable: flags.contains(EventFlags::IN),
            writable: flags.contains(EventFlags::OUT),
            ended: flags.contains(EventFlags::RDHUP),
            failed: flags.intersects(EventFlags::ERR | EventFlags::HUP),
        })
    }
}
