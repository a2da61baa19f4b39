//! A client that asks again: perhaps the backend's answers to its address take a way past this machine (see `source`).

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use spliceway_io::fork;
use spliceway_io::poll::Interest;

use super::SessionId;
use super::backends::canonical;
use crate::flow::Token;
use crate::source::Source;
use crate::worker::Worker;

/// How long a client's question must have been without an answer when it asks again.
const PATIENCE: Duration = Duration::from_millis(500);

impl Worker {
    /// A client whose own address the backend sees sends `datagram`, and has no answer yet. If it asks what it asked before,
    /// perhaps the answers do not pass here: the backend gets it from an address of our own, once. Only what is repeated
    /// tells that an answer is waited for: who sends logs never gets one, and must keep its address.
    pub(super) fn notice_repetition(&mut self, id: SessionId, datagram: &[u8]) {
        let now = self.now;
        let Some(client) = self.udp.sessions.key(id).map(|key| canonical(key.client)) else { return };
        let Some(session) = self.udp.sessions.get_mut(id) else { return };
        let Some(fresh) = session.fresh.as_mut().filter(|fresh| !fresh.settled) else { return };
        let (waited, first) = (now.saturating_sub(fresh.since), fresh.asked.is_none());
        let source = match fresh.source {
            Source::Client(_) => Source::AfterSilence(waited),
            Source::AfterSilence(_) => Source::Client(client.ip()), // it was not the address: for good
            Source::Own | Source::Known => return,
        };
        let hash = hash(datagram);
        if *fresh.asked.get_or_insert(hash) != hash || first || waited < PATIENCE {
            return;
        }
        let Some(backend) = session.serving.as_ref().map(|serving| serving.0.address) else { return };
        let Ok(socket) = self.open_upstream(id, backend, source.address()) else { return };
        let poll = &self.tools.shared.doors[self.number].poll;
        if poll.add(&socket, Token::Session(id).encode(), Interest::READ).is_err() {
            return; // at the user's limit of watches
        }
        let Some(session) = self.udp.sessions.get_mut(id) else { return };
        session.from = source.address();
        if let Some(before) = session.socket.replace(socket)
            && fork::noticed()
        {
            let _ = poll.remove(&before);
        }
        if let Some(fresh) = session.fresh.as_mut() {
            (fresh.source, fresh.since) = (source, now);
            fresh.settled = source.address().is_some();
        }
    }
}

fn hash(datagram: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(datagram);
    hasher.finish()
}
