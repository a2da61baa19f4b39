//! A peer: an application and the kernel's socket between it and the relay.

use std::collections::VecDeque;

use spliceway_core::hash::mix;
use spliceway_core::rng::Rng;

/// What the relay gets from a read.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Bytes(Vec<u8>),
    Again,
    End,
    Failed,
}

/// What the relay gets from a write.
#[derive(Debug, PartialEq, Eq)]
pub enum Write {
    Accepted(usize),
    Again,
    Failed,
}

/// Readiness as a level-triggered poll reports it.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    pub readable: bool,
    pub writable: bool,
    pub failed: bool,
}

/// The byte that the peer with this salt sends at this offset: bytes that are lost, doubled, swapped or another's show.
pub fn pattern(salt: u64, offset: usize) -> u8 {
    mix(salt, offset as u64) as u8
}

#[derive(Debug)]
pub struct Peer {
    pub salt: u64,
    /// How many bytes it means to send, and has sent.
    script: usize,
    pub sent: usize,
    /// Sent, not read by the relay.
    pub inbox: VecDeque<u8>,
    /// It has ended its direction.
    pub fin: bool,
    /// It has reset the connection.
    pub reset: bool,
    /// Its socket's pending error.
    error: bool,
    /// It does not read any more: what is written to it is answered by a reset.
    closed: bool,
    stalled: bool,
    /// Written by the relay, not read by the application.
    pub outbox: VecDeque<u8>,
    /// Read by the application.
    pub received: usize,
    /// The relay has ended its direction to this peer.
    pub shut: bool,
    capacity: usize,
}

impl Peer {
    pub fn new(salt: u64, rng: &mut Rng) -> Self {
        let most = [1, 40, 400][rng.below(3) as usize];
        Self {
            salt,
            script: rng.below(most) as usize,
            sent: 0,
            inbox: VecDeque::new(),
            fin: false,
            reset: false,
            error: false,
            closed: false,
            stalled: false,
            outbox: VecDeque::new(),
            received: 0,
            shut: false,
            capacity: 1 + rng.below(48) as usize,
        }
    }

    /// The application does something. `calm`: no more mischief, it comes to its end. `expects` is the salt of the bytes
    /// that it should get.
    pub fn act(&mut self, calm: bool, expects: u64, rng: &mut Rng) {
        if calm {
            self.stalled = false;
        } else if !self.reset {
            self.misbehave(rng);
        }
        if self.reset {
            return;
        }
        let room = (self.capacity - self.inbox.len()).min(self.script - self.sent);
        if !self.fin && room > 0 {
            for _ in 0..=rng.below(room as u32) {
                self.inbox.push_back(pattern(self.salt, self.sent));
                self.sent += 1;
            }
        }
        self.fin |= self.sent == self.script && (calm || rng.below(6) == 0);
        if !self.stalled && !self.outbox.is_empty() {
            for byte in self.outbox.drain(..=rng.below(self.outbox.len() as u32) as usize) {
                assert_eq!(byte, pattern(expects, self.received), "byte {} is not what was sent", self.received);
                self.received += 1;
            }
        }
    }

    fn misbehave(&mut self, rng: &mut Rng) {
        match rng.below(400) {
            0 => self.send_reset(rng),
            // A close with unread bytes is a reset.
            1 if self.outbox.is_empty() => (self.fin, self.closed) = (true, true),
            1 => self.send_reset(rng),
            2..40 => self.stalled = !self.stalled,
            _ => {}
        }
    }

    /// Bytes that it sent before may or may not have arrived, unless their end has.
    fn send_reset(&mut self, rng: &mut Rng) {
        (self.reset, self.error) = (true, true);
        self.outbox.clear();
        if !self.fin && rng.below(2) == 0 {
            self.inbox.clear();
        }
    }

    pub fn read(&mut self, most: usize, rng: &mut Rng) -> Read {
        if !self.inbox.is_empty() {
            let most = self.inbox.len().min(most);
            return Read::Bytes(self.inbox.drain(..=rng.below(most as u32) as usize).collect());
        }
        // As Linux does: an end that came before the reset is told first, and an error only once; then it is an end too.
        if self.fin || self.reset && !self.error {
            Read::End
        } else if self.take_error() {
            Read::Failed
        } else {
            Read::Again
        }
    }

    pub fn write(&mut self, bytes: &[u8], rng: &mut Rng) -> Write {
        assert!(!self.shut, "written after its half-close");
        assert!(!bytes.is_empty(), "an empty write");
        if self.reset {
            self.error = false;
            return Write::Failed;
        }
        let room = (self.capacity - self.outbox.len()).min(bytes.len());
        if room == 0 {
            return Write::Again;
        }
        let n = 1 + rng.below(room as u32) as usize;
        if self.closed {
            self.send_reset(rng); // the kernel takes the bytes, the answer is a reset
        } else {
            self.outbox.extend(&bytes[..n]);
        }
        Write::Accepted(n)
    }

    /// The socket's pending error, which is told once.
    pub fn take_error(&mut self) -> bool {
        std::mem::take(&mut self.error)
    }

    pub fn readiness(&self) -> Readiness {
        Readiness {
            readable: !self.inbox.is_empty() || self.fin || self.reset,
            writable: self.outbox.len() < self.capacity || self.reset,
            failed: self.reset || self.fin && self.shut,
        }
    }
}
