//! Receiving many datagrams with one system call, into memory that is kept.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;

use super::control::{Control, Told};
use super::name::Name;
use super::slots::{EMPTY, Slots};
use crate::option::last_error;

/// The longest datagram or train that a socket can give.
const LONGEST: usize = 65_536;
/// From one slot to the next: slots that began at the same cache sets would evict one another.
const STRIDE: usize = LONGEST + 192;
/// Reports of one socket that are thrown away in one go.
const REPORTS: usize = 64;

/// Slots for received datagrams. Memory is touched as far as datagrams fill it.
pub struct ReceiveBatch {
    bytes: Box<[u8]>,
    slots: Slots,
    /// By slot: what the kernel told of it.
    told: Box<[Told]>,
}

impl ReceiveBatch {
    /// Room for `slots` datagrams.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self {
            bytes: vec![0; slots * STRIDE].into_boxed_slice(),
            slots: Slots::new(slots),
            told: vec![Told::default(); slots].into_boxed_slice(),
        }
    }

    /// How many slots there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.headers.len()
    }

    /// Receive what waits into the slots from `first` on, `most` at most; tells how many were filled.
    ///
    /// # Errors
    /// `EAGAIN` when nothing waits, else the error that waits on the socket, which is taken away by this.
    pub fn receive(&mut self, fd: impl AsFd, first: usize, most: usize) -> Result<usize, Errno> {
        let end = first.saturating_add(most).min(self.slots());
        if first >= end {
            return Ok(0);
        }
        for slot in first..end {
            let room = &mut self.bytes[slot * STRIDE..][..LONGEST];
            self.slots.vectors[slot] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: LONGEST };
            let header = &mut self.slots.headers[slot].msg_hdr;
            header.msg_name = self.slots.names[slot].as_mut_ptr();
            header.msg_namelen = Name::SIZE as libc::socklen_t;
            header.msg_iov = &raw mut self.slots.vectors[slot];
            header.msg_iovlen = 1;
            header.msg_control = self.slots.controls[slot].as_mut_ptr();
            header.msg_controllen = Control::SIZE as _;
        }
        let headers = &mut self.slots.headers[first..end];
        let (count, fd) = (headers.len() as libc::c_uint, fd.as_fd().as_raw_fd());
        loop {
            // SAFETY: each of the `count` headers points to a name, a vector with its buffer, and a control buffer of the
            // lengths given with them. All are parts of `self`, which is borrowed mutably, and do not overlap.
            let got =
                unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), count, libc::MSG_DONTWAIT as _, ptr::null_mut()) };
            match usize::try_from(got) {
                Ok(got) => {
                    for slot in first..first + got {
                        self.told[slot] = self.read_control(slot);
                    }
                    return Ok(got);
                }
                Err(_) => match last_error() {
                    Errno::INTR => {}
                    errno => return Err(errno),
                },
            }
        }
    }

    /// The payload in `slot`: one datagram, or the datagrams of a train one after the other.
    #[must_use]
    pub fn bytes(&self, slot: usize) -> &[u8] {
        &self.bytes[slot * STRIDE..][..LONGEST.min(self.slots.headers[slot].msg_len as usize)]
    }

    /// Who sent what is in `slot`.
    #[must_use]
    pub fn peer(&self, slot: usize) -> Option<SocketAddr> {
        (self.slots.headers[slot].msg_hdr.msg_namelen > 0).then(|| self.slots.names[slot].read())?
    }

    /// Where what is in `slot` was sent to, if the socket was asked to tell; the port is 0 when it is the socket's own.
    /// And the size of the datagrams of a train, 0 for a single datagram.
    #[must_use]
    pub fn told(&self, slot: usize) -> (Option<SocketAddr>, u16) {
        let Told { destination, segment } = self.told[slot];
        (destination, segment)
    }

    fn read_control(&self, slot: usize) -> Told {
        #[allow(clippy::unnecessary_cast, reason = "the field's type differs between C libraries")]
        let length = self.slots.headers[slot].msg_hdr.msg_controllen as usize;
        if length == 0 {
            return Told::default();
        }
        let Told { destination, segment } = self.slots.controls[slot].read(length);
        // The kernel says so of single datagrams as well.
        let train = usize::from(segment) < self.bytes(slot).len();
        Told { destination, segment: if train { segment } else { 0 } }
    }
}

impl fmt::Debug for ReceiveBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveBatch").field("slots", &self.slots()).finish_non_exhaustive()
    }
}

/// Throw away the reports of failed datagrams that wait on `fd`: a socket with reports stays in error.
pub(super) fn discard_reports(fd: BorrowedFd<'_>) {
    for _ in 0..REPORTS {
        // SAFETY: an empty header: no buffer is given, so nothing is written.
        let result = unsafe {
            let mut header = EMPTY.msg_hdr;
            libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
        };
        if result < 0 {
            return;
        }
    }
}
