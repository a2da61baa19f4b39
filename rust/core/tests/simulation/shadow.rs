//! The shadow model: what a relay did, held against what its peers did.

use spliceway_core::session::{End, Side};

use super::peer::pattern;
use super::relay::{CLIENT, Relay, at};

impl Relay<'_> {
    /// What must hold after each step.
    pub(super) fn check(&self) {
        assert!(self.held.len() <= self.hold_limit, "{} bytes held of {}", self.held.len(), self.hold_limit);
        assert!(self.dial.tries() <= self.pool.retry.tries);
        if self.end.is_some() {
            return;
        }
        for (from, to) in [(Side::Client, Side::Backend), (Side::Backend, Side::Client)] {
            let (lost, wants) = (self.seen[at(to)].failed, self.session.wants(from));
            let waiting = self.seen[at(from)].read - self.seen[at(to)].written;
            assert!(lost || waiting == self.session.pending(from), "{from:?}: {waiting} bytes read and not written");
            assert!(!wants.read || self.lanes[at(from)].is_empty(), "read on while bytes wait");
            assert!(!wants.read || !self.seen[at(from)].end, "waiting for bytes after the end: a spin");
        }
    }

    /// A half-close comes after all that the other side sent, and only after its own.
    pub(super) fn check_shutdown(&mut self, to: Side) {
        let written = self.seen[at(to)].written;
        assert!(!self.peer(to).shut, "shut twice");
        let from = self.peer(to.peer());
        assert!(from.fin && from.inbox.is_empty(), "the end is passed on before {} bytes", from.inbox.len());
        assert_eq!(written, from.sent, "bytes lost before the half-close");
    }

    pub(super) fn check_end(&mut self, end: End) {
        let failed = self.seen.map(|seen| seen.failed);
        match end {
            End::Closed => {
                assert_eq!(failed, [false; 2], "a reset was passed on as a close");
                for side in [Side::Client, Side::Backend] {
                    assert!(self.peer(side).shut && self.peer(side).fin);
                }
            }
            End::ClientReset => assert!(self.client.reset && failed[0]),
            End::BackendReset => assert!(self.backend.as_ref().is_some_and(|b| b.reset) && failed[1]),
            End::Drained => assert!(self.now >= self.cut_at),
            End::NoBackend => assert!(self.attempt.is_none() && self.session.pending(Side::Backend) == 0),
        }
        if let (Some(side), End::ClientReset | End::BackendReset, [true, false] | [false, true]) =
            (self.write_failed, end, failed)
        {
            let (read, written) = (self.seen[at(side)].read, self.seen[at(side.peer())].written);
            assert_eq!(read, written, "{side:?} reset; what it had sent before was not passed on");
        }
        self.check_closes(end);
    }

    /// A socket is closed in order if its peer has ended, all of it was passed on, and never else.
    fn check_closes(&mut self, end: End) {
        for side in [Side::Client, Side::Backend] {
            let (written, complete) = (self.seen[at(side)].written, self.session.complete(side));
            let source = self.peer(side.peer());
            let (ended, whole) = (source.fin, source.fin && source.sent == written);
            assert!(whole || !complete, "what {side:?} was sent looks complete and is not");
            let lost = matches!((end, side), (End::ClientReset, Side::Backend) | (End::BackendReset, Side::Client));
            let alone = self.seen.map(|seen| seen.failed) != [true; 2];
            assert!(!lost || !alone || !ended || complete, "{side:?} was to get all and the end, and gets a reset");
        }
    }

    /// Another backend may get the bytes only if this one sent none, and gets all of them.
    pub(super) fn check_redial(&self) {
        let sent: Vec<u8> = (0..self.seen[0].read).map(|offset| pattern(CLIENT, offset)).collect();
        assert_eq!(self.seen[1].read, 0, "a replay after a byte of the backend");
        assert_eq!(self.held, sent, "not all that the client sent is held");
    }
}
