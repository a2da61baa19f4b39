//! Sending many datagrams with one system call.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use rustix::io::Errno;

use super::slots::Slots;
use crate::option::last_error;

/// A datagram, or a train of datagrams, on its way.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The payload; of a train, that of all datagrams.
    pub bytes: &'a [u8],
    /// Where to; none: where the socket is connected to.
    pub to: Option<SocketAddr>,
    /// The source address, of this machine's; the socket's port is the source port. None: the socket's own.
    pub from: Option<SocketAddr>,
    /// The size of each datagram of a train, of which the last may be shorter; 0: a single datagram.
    pub segment: u16,
}

impl<'a> Outgoing<'a> {
    /// How many datagrams it is.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        if self.segment == 0 { 1 } else { self.bytes.len().div_ceil(self.segment.into()) }
    }

    /// One datagram of a train for itself; `index` is below [`datagrams`](Self::datagrams).
    #[must_use]
    pub fn part(self, index: usize) -> Self {
        let size = usize::from(self.segment);
        if size == 0 {
            return self;
        }
        let bytes = self.bytes.get(index * size..).unwrap_or_default();
        Self { bytes: &bytes[..size.min(bytes.len())], segment: 0, ..self }
    }
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Messages that are over, the first ones: they left or were dropped.
    pub done: usize,
    /// Bytes of payload that left.
    pub bytes: u64,
    /// Datagrams that the kernel had no room for, or did not take for another reason of theirs.
    pub dropped: u64,
    /// Why the message after them did not leave, and none would: the peer is not there.
    pub failed: Option<Errno>,
}

/// Whether an error of a send says something of that datagram, or of this machine, and nothing of the peer.
#[must_use]
pub fn is_own_fault(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::AGAIN
            | Errno::NOBUFS
            | Errno::NOMEM
            | Errno::MSGSIZE
            | Errno::INVAL
            | Errno::IO
            | Errno::PERM // by a rule of a firewall on this machine
            | Errno::ACCESS
    )
}

/// Room for the headers of datagrams that are sent together.
pub struct SendBatch {
    slots: Slots,
}

impl SendBatch {
    /// Room for `slots` datagrams.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self { slots: Slots::new(slots) }
    }

    /// How many slots there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.headers.len()
    }

    /// Send the first of `messages`, as many as there are slots; tells how many left, in order, before one failed.
    ///
    /// # Errors
    /// Why the first one failed: `EAGAIN` and `ENOBUFS` when there is no room, `EIO`, `EINVAL` and `EMSGSIZE` also for a
    /// train that the kernel refuses, `ECONNREFUSED` and the like for the error that waited on the socket.
    pub fn send<'a>(
        &mut self,
        fd: impl AsFd,
        messages: impl IntoIterator<Item = Outgoing<'a>>,
    ) -> Result<usize, Errno> {
        let mut count = 0;
        for (slot, message) in messages.into_iter().take(self.slots()).enumerate() {
            self.fill(slot, &message);
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        loop {
            // SAFETY: each of the first `count` headers was filled above: it points to a name, a vector and a control
            // buffer of `self`, which is borrowed mutably, and to payload that lives as long as `'a`, beyond this call.
            let sent = unsafe {
                let fd = fd.as_fd().as_raw_fd();
                match count {
                    1 => libc::sendmsg(fd, &raw const self.slots.headers[0].msg_hdr, flags).min(1), // half the overhead
                    _ => {
                        libc::sendmmsg(fd, self.slots.headers.as_mut_ptr(), count as libc::c_uint, flags as _) as isize
                    }
                }
            };
            match usize::try_from(sent) {
                Ok(sent) => return Ok(if count == 1 { 1 } else { sent }),
                Err(_) => match last_error() {
                    Errno::INTR => {}
                    errno => return Err(errno),
                },
            }
        }
    }

    /// Send `count` messages in order. Those that are too many for now are dropped, for nobody waits; trains that the
    /// kernel refuses go as single datagrams.
    pub fn send_all<'a>(&mut self, fd: impl AsFd, count: usize, message: &dyn Fn(usize) -> Outgoing<'a>) -> Sent {
        let (fd, mut sent) = (fd.as_fd(), Sent::default());
        while sent.done < count {
            match self.send(fd, (sent.done..count).map(message)) {
                Ok(n) => {
                    sent.bytes +=
                        (sent.done..sent.done + n).map(|index| message(index).bytes.len() as u64).sum::<u64>();
                    sent.done += n;
                }
                Err(errno) if !is_own_fault(errno) => {
                    sent.failed = Some(errno);
                    break;
                }
                Err(errno) => {
                    let refused = message(sent.done);
                    if refused.segment > 0 && matches!(errno, Errno::INVAL | Errno::IO | Errno::MSGSIZE) {
                        let apart = self.send_all(fd, refused.datagrams(), &|index| refused.part(index));
                        sent.bytes += apart.bytes;
                        sent.dropped += apart.dropped;
                        if apart.failed.is_some() {
                            sent.dropped += (refused.datagrams() - apart.done) as u64;
                            sent.failed = apart.failed;
                        }
                    } else {
                        sent.dropped += refused.datagrams() as u64;
                    }
                    sent.done += 1;
                }
            }
        }
        sent
    }

    fn fill(&mut self, slot: usize, message: &Outgoing<'_>) {
        let bytes = message.bytes;
        self.slots.vectors[slot] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let train = if bytes.len() > message.segment.into() { message.segment } else { 0 };
        let control =
            if message.from.is_none() && train == 0 { 0 } else { self.slots.controls[slot].write(message.from, train) };
        let header = &mut self.slots.headers[slot].msg_hdr;
        (header.msg_name, header.msg_namelen) = match message.to {
            Some(to) => {
                let length = self.slots.names[slot].write(to);
                (self.slots.names[slot].as_mut_ptr(), length as libc::socklen_t)
            }
            None => (ptr::null_mut(), 0),
        };
        header.msg_iov = &raw mut self.slots.vectors[slot];
        header.msg_iovlen = 1;
        header.msg_control = if control > 0 { self.slots.controls[slot].as_mut_ptr() } else { ptr::null_mut() };
        header.msg_controllen = control as _;
    }
}

impl fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendBatch").field("slots", &self.slots()).finish_non_exhaustive()
    }
}
