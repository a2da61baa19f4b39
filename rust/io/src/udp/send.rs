//! Sending many datagrams with one system call, and equal datagrams of one way as one train.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use rustix::io::Errno;

use super::outgoing::{Outgoing, Train};
use super::slots::Slots;
use crate::option::last_error;

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Messages that are over, the first ones: they left or were dropped.
    pub done: usize,
    /// Bytes of payload that left.
    pub bytes: u64,
    /// Datagrams that the kernel had no room for, or did not take for another reason of theirs.
    pub dropped: u64,
    /// The first message that the kernel refused to take as a train or as a part of one. Its datagrams left one by one.
    pub refused: Option<usize>,
    /// How many trains it refused.
    pub trains_refused: u64,
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
    /// One vector for each message, and one header for each train of them.
    slots: Slots,
    /// By header: the number of messages up to its end.
    ends: Box<[usize]>,
}

impl SendBatch {
    /// Room for `slots` messages.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self { slots: Slots::new(slots), ends: vec![0; slots].into_boxed_slice() }
    }

    /// How many slots there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.headers.len()
    }

    /// Send the first of `messages`, as many as there are slots; tells how many left, in order, before one failed.
    /// Neighbours that are alike leave as one train.
    ///
    /// # Errors
    /// Why the first one failed: `EAGAIN` and `ENOBUFS` when there is no room, `EIO`, `EINVAL` and `EMSGSIZE` also for a
    /// train that the kernel refuses, `ECONNREFUSED` and the like for the error that waited on the socket.
    pub fn send<'a>(
        &mut self,
        fd: impl AsFd,
        messages: impl IntoIterator<Item = Outgoing<'a>>,
    ) -> Result<usize, Errno> {
        let count = self.fill(messages);
        if count == 0 {
            return Ok(0);
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        loop {
            // SAFETY: each of the first `count` headers was filled above: it points to a name, vectors and a control
            // buffer of `self`, which is borrowed mutably, and to payload that lives as long as `'a`, beyond this call.
            let sent = unsafe {
                let fd = fd.as_fd().as_raw_fd();
                match count {
                    // half the overhead; what it tells are bytes, none of an empty datagram
                    1 if libc::sendmsg(fd, &raw const self.slots.headers[0].msg_hdr, flags) < 0 => -1,
                    1 => 1,
                    _ => {
                        libc::sendmmsg(fd, self.slots.headers.as_mut_ptr(), count as libc::c_uint, flags as _) as isize
                    }
                }
            };
            match usize::try_from(sent) {
                Ok(sent) => return Ok(self.ends[sent.clamp(1, count) - 1]),
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
        while sent.done < count && sent.failed.is_none() {
            let first = message(sent.done);
            if first.goes_apart() {
                let parts = self.send_all(fd, first.datagrams(), &|index| first.part(index));
                sent.add_parts(parts, first.datagrams());
                continue;
            }
            let messages = (sent.done..count).map(message).take_while(|next| !next.goes_apart());
            match self.send(fd, messages) {
                Ok(n) => {
                    sent.bytes += self.slots.vectors[..n].iter().map(|vector| vector.iov_len as u64).sum::<u64>();
                    sent.done += n;
                }
                Err(errno) if !is_own_fault(errno) => sent.failed = Some(errno),
                Err(errno) => {
                    let (begin, train) = (sent.done, self.ends[0]);
                    if first.joins
                        && (train > 1 || first.segment > 0)
                        && matches!(errno, Errno::INVAL | Errno::IO | Errno::MSGSIZE)
                    {
                        let apart = |index| Outgoing { joins: false, ..message(begin + index) };
                        sent.refused.get_or_insert(begin);
                        sent.trains_refused += 1;
                        sent.add(self.send_all(fd, train, &apart));
                    } else {
                        sent.dropped +=
                            (begin..begin + train).map(|index| message(index).datagrams() as u64).sum::<u64>();
                        sent.done += train;
                    }
                }
            }
        }
        sent
    }

    /// Fill vectors and headers for the first of `messages`, as many as there is room for; tells how many headers.
    fn fill<'a>(&mut self, messages: impl IntoIterator<Item = Outgoing<'a>>) -> usize {
        let mut count = 0;
        let mut current: Option<Train> = None;
        for (slot, message) in messages.into_iter().take(self.slots()).enumerate() {
            let bytes = message.bytes;
            self.slots.vectors[slot] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            if current.as_mut().is_some_and(|train| train.take(&message)) {
                self.slots.headers[count - 1].msg_hdr.msg_iovlen += 1;
            } else {
                if let Some(before) = current.replace(Train::begin(&message)) {
                    self.finish_header(count - 1, &before);
                }
                self.begin_header(count, slot);
                count += 1;
            }
            self.ends[count - 1] = slot + 1;
        }
        if let Some(last) = current {
            self.finish_header(count - 1, &last);
        }
        count
    }

    /// Header `index` is that of the message in `slot`, which is not before it, and perhaps of others that follow.
    fn begin_header(&mut self, index: usize, slot: usize) {
        let header = &mut self.slots.headers[index].msg_hdr;
        header.msg_iov = &raw mut self.slots.vectors[slot];
        header.msg_iovlen = 1;
    }

    /// Nothing follows in `train`, which has header `index`.
    fn finish_header(&mut self, index: usize, train: &Train) {
        let header = &mut self.slots.headers[index].msg_hdr;
        (header.msg_name, header.msg_namelen) = match train.to() {
            Some(to) => {
                let length = self.slots.names[index].write(to);
                (self.slots.names[index].as_mut_ptr(), length as libc::socklen_t)
            }
            None => (ptr::null_mut(), 0),
        };
        let control = match (train.from(), train.segment()) {
            (None, 0) => 0,
            (from, segment) => self.slots.controls[index].write(from, segment),
        };
        header.msg_control = if control > 0 { self.slots.controls[index].as_mut_ptr() } else { ptr::null_mut() };
        header.msg_controllen = control as _;
    }
}

impl Sent {
    /// Messages that follow have been sent: `next` tells of them.
    fn add(&mut self, next: Self) {
        self.done += next.done;
        self.bytes += next.bytes;
        self.dropped += next.dropped;
        self.failed = next.failed;
    }

    /// The message that follows has been sent as `count` parts. It is over even when a part failed, for some have left.
    fn add_parts(&mut self, parts: Self, count: usize) {
        self.add(Self { done: 1, dropped: parts.dropped + (count - parts.done) as u64, ..parts });
    }
}

impl fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendBatch").field("slots", &self.slots()).finish_non_exhaustive()
    }
}
