//! From backends to clients: answers are gathered over sessions, and leave together from the address that was dialled.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use spliceway_io::poll::Ready;
use spliceway_io::socket::ConnectError;
use spliceway_io::udp::{self, Outgoing, ReceiveBatch, SendBatch};
use spliceway_io::{Errno, fork};

use super::session::Via;
use super::{BATCH, SessionId};
use crate::dial::is_local;
use crate::worker::Worker;

/// Datagrams of one session that are read in one go at most.
const BURST: usize = 16;
/// The same while a session has never had two at once: most have one answer.
const FEW: usize = 2;
/// Reply sockets of one worker at most; the one that was idle longest makes room.
const MOST_SOCKETS: usize = 1024;
/// How long a reply socket may be idle: it keeps others from having its address for themselves.
const SOCKET_IDLE: Duration = Duration::from_secs(10);

/// The socket from which answers leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The listener that clients dialled.
    Listener(usize),
    /// One that has the address which they dialled.
    Reply(SocketAddr),
}

/// An answer that waits in a slot of the outbox.
#[derive(Clone, Copy, Debug)]
struct Answer {
    slot: usize,
    session: SessionId,
    to: SocketAddr,
    from: Option<SocketAddr>,
    joins: bool,
}

/// Answers that leave together, and the sockets from which they do.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    batch: Option<Box<ReceiveBatch>>,
    answers: Vec<Answer>,
    /// Slots that are taken.
    used: usize,
    way: Option<Way>,
    sockets: HashMap<SocketAddr, ReplySocket>,
    /// When idle reply sockets are looked for.
    look: Option<Duration>,
}

#[derive(Debug)]
struct ReplySocket {
    fd: OwnedFd,
    used: Duration,
}

impl Outbox {
    /// How long to wait at most until idle sockets are looked for.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        self.look.map(|look| look.saturating_sub(now))
    }

    /// Close the reply sockets that were idle too long.
    pub(super) fn close_idle(&mut self, now: Duration) {
        if self.look.is_some_and(|look| look <= now) {
            self.sockets.retain(|_, socket| socket.used + SOCKET_IDLE > now);
            self.look = (!self.sockets.is_empty()).then(|| now + SOCKET_IDLE);
        }
    }

    /// Close the reply socket that was idle longest. False: there is none.
    pub(super) fn close_oldest(&mut self) -> bool {
        let oldest = self.sockets.iter().min_by_key(|(_, socket)| socket.used).map(|(&address, _)| address);
        oldest.and_then(|address| self.sockets.remove(&address)).is_some()
    }

    /// Close the reply sockets of addresses that are not `served` any more: others may want to have them.
    pub(super) fn close_unless(&mut self, served: impl Fn(SocketAddr) -> bool) {
        self.sockets.retain(|&address, _| served(address));
    }

    /// The socket with `address` as its own.
    fn socket(&mut self, address: SocketAddr, mark: u32, now: Duration) -> Result<&OwnedFd, ConnectError> {
        if !self.sockets.contains_key(&address) {
            if self.sockets.len() >= MOST_SOCKETS {
                self.close_oldest();
            }
            let mut opened = udp::open_reply(address, mark);
            if matches!(opened, Err(ConnectError::Failed(errno)) if is_local(errno)) && self.close_oldest() {
                opened = udp::open_reply(address, mark);
            }
            self.sockets.insert(address, ReplySocket { fd: opened?, used: now });
            self.look.get_or_insert(now + SOCKET_IDLE);
        }
        let socket = self.sockets.get_mut(&address).ok_or(ConnectError::Failed(Errno::ADDRNOTAVAIL))?;
        socket.used = now;
        Ok(&socket.fd)
    }
}

impl Worker {
    /// A session's backend has answered or refused.
    pub(crate) fn session_ready(&mut self, id: SessionId, ready: Ready) {
        let mut error = None;
        // What was sent before an error is still delivered: an error is told first, the second read finds the rest.
        for _ in 0..2 {
            match self.read_answers(id) {
                Ok(_) | Err(Errno::AGAIN) => break,
                Err(errno) => error = error.or(Some(errno)),
            }
        }
        if ready.failed && error.is_none() {
            let socket = self.udp.sessions.get(id).and_then(|session| session.socket.as_ref());
            error = socket.and_then(udp::take_error);
        }
        match error {
            // A datagram was too long for a link on its way; the kernel knows now, and cuts the next one.
            Some(Errno::MSGSIZE) => {
                let socket = self.udp.sessions.get(id).and_then(|session| session.socket.as_ref());
                let _ = socket.and_then(udp::take_error);
            }
            Some(errno) if !is_local(errno) => self.session_failed(id, errno),
            _ => {}
        }
    }

    /// Read what a session's backend has sent into the outbox.
    fn read_answers(&mut self, id: SessionId) -> Result<usize, Errno> {
        let Some(key) = self.udp.sessions.key(id) else { return Ok(0) };
        let Some(via) = self.udp.sessions.get(id).map(|session| session.via) else { return Ok(0) };
        let (way, from) = match via {
            Via::Listener { number, any } => (Way::Listener(number), any.then_some(key.dialled)),
            Via::Diverted(_) => (Way::Reply(key.dialled), None),
        };
        let busy = self.udp.sessions.get(id).is_some_and(|session| session.busy);
        let burst = if busy { BURST } else { FEW };
        if self.udp.outbox.way != Some(way) || self.udp.outbox.used + burst > BATCH {
            self.send_answers();
            self.udp.outbox.way = Some(way);
        }
        let outbox = &mut self.udp.outbox;
        let first = outbox.used;
        let Some(session) = self.udp.sessions.get_mut(id) else { return Ok(0) };
        let Some(socket) = session.socket.as_ref() else { return Ok(0) };
        let batch = outbox.batch.get_or_insert_with(|| Box::new(ReceiveBatch::new(BATCH)));
        let count = batch.receive(socket, first, burst)?;
        outbox.used += count;
        if !session.busy
            && (first..first + count).map(|slot| batch.told(slot).1).any(|segment| count > 1 || segment > 0)
        {
            session.busy = true;
            udp::expect_many(socket);
        }
        let backend = session.serving.as_ref().map(|serving| &serving.0);
        let address = backend.map(|backend| backend.address);
        // Before it was connected the socket could get what others sent to its port.
        let answers = (first..first + count).filter(|&slot| {
            let peer = batch.peer(slot);
            peer.map(|peer| (peer.ip(), peer.port())) == address.map(|address| (address.ip(), address.port()))
        });
        let (before, joins, mut bytes) = (outbox.answers.len(), session.joins_out, 0);
        outbox.answers.extend(answers.map(|slot| {
            bytes += batch.bytes(slot).len() as u64;
            Answer { slot, session: id, to: key.client, from, joins }
        }));
        if outbox.answers.len() == before {
            return Ok(count);
        }
        session.counted.pool.bytes_out.fetch_add(bytes, Relaxed);
        let _ = backend.map(|backend| backend.bytes_out.fetch_add(bytes, Relaxed));
        self.udp.sessions.touch(id, self.now, true);
        self.session_answered(id);
        Ok(count)
    }

    /// Send the answers that wait in the outbox.
    pub(crate) fn send_answers(&mut self) {
        let (Some(way), false) = (self.udp.outbox.way, self.udp.outbox.answers.is_empty()) else {
            self.udp.outbox.used = 0;
            return;
        };
        let answers = std::mem::take(&mut self.udp.outbox.answers);
        if let Some(batch) = self.udp.outbox.batch.take() {
            let message = |index: usize| {
                let Answer { slot, to, from, joins, .. } = answers[index];
                Outgoing { bytes: batch.bytes(slot), to: Some(to), from, segment: batch.told(slot).1, joins }
            };
            let delivered = self.send_by(way, answers.len(), &message);
            let bounds = &self.shared().bounds;
            bounds.datagrams_dropped.fetch_add(delivered.lost, Relaxed);
            bounds.trains_refused.fetch_add(delivered.trains_refused, Relaxed);
            // The way to this client takes no trains; that to another one may.
            let refused = delivered.refused.map(|index| answers[index].session);
            if let Some(session) = refused.and_then(|id| self.udp.sessions.get_mut(id)) {
                session.joins_out = false;
            }
            self.udp.outbox.batch = Some(batch);
        }
        self.udp.outbox.answers = answers;
        self.udp.outbox.answers.clear();
        self.udp.outbox.used = 0;
    }

    /// Send `count` messages one way.
    fn send_by<'a>(&mut self, way: Way, count: usize, message: &dyn Fn(usize) -> Outgoing<'a>) -> Delivered {
        let none = || Delivered { lost: datagrams(0..count, message), ..Delivered::default() };
        let (now, mark) = (self.now, self.shared().config.mark);
        if let Way::Reply(address) = way
            && matches!(self.udp.outbox.socket(address, mark, now), Err(ConnectError::Failed(errno)) if is_local(errno))
        {
            self.shared().bounds.fd_limit_hits.fetch_add(1, Relaxed);
            self.end_oldest_session(); // one socket for all answers is worth more than one session
        }
        match way {
            Way::Listener(number) => {
                let Some(listener) = self.shared().listeners.get(number) else { return none() };
                let open = listener.open();
                let Some(fd) = open.socket.as_ref() else { return none() };
                deliver(&mut self.udp.sender, fd, count, message)
            }
            Way::Reply(address) => match self.udp.outbox.socket(address, mark, now) {
                Ok(fd) => deliver(&mut self.udp.sender, fd, count, message),
                Err(ConnectError::NotPermitted) => {
                    self.report_not_permitted();
                    none()
                }
                Err(ConnectError::Failed(_)) => none(),
            },
        }
    }

    /// Close the sockets of all sessions, without counting.
    pub(crate) fn forget_sessions(&mut self) {
        for session in self.udp.sessions.drain() {
            if let Some(socket) = session.socket
                && fork::noticed()
            {
                let _ = self.door().poll.remove(&socket);
            }
        }
    }
}

/// What became of answers.
#[derive(Clone, Copy, Debug, Default)]
struct Delivered {
    /// Datagrams that did not leave.
    lost: u64,
    /// The first message that the kernel did not take as a train.
    refused: Option<usize>,
    /// How many trains it did not take.
    trains_refused: u64,
}

/// Send to clients: one that is not there must not keep the others from their answers.
fn deliver<'a>(
    sender: &mut SendBatch,
    fd: &OwnedFd,
    count: usize,
    message: &dyn Fn(usize) -> Outgoing<'a>,
) -> Delivered {
    let (mut done, mut delivered) = (0, Delivered::default());
    while done < count {
        let sent = sender.send_all(fd, count - done, &|index| message(done + index));
        delivered.lost += sent.dropped;
        delivered.refused = delivered.refused.or_else(|| sent.refused.map(|index| done + index));
        delivered.trains_refused += sent.trains_refused;
        done += sent.done;
        if sent.failed.is_some() && done < count {
            delivered.lost += datagrams(done..done + 1, message);
            done += 1;
        }
    }
    delivered
}

/// How many datagrams some messages are.
fn datagrams<'a>(which: Range<usize>, message: &dyn Fn(usize) -> Outgoing<'a>) -> u64 {
    which.map(|index| message(index).datagrams() as u64).sum()
}
