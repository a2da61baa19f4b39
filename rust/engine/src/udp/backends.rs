//! A session's backend: picked when the first datagram comes, and another one when it refuses before it has answered.
//!
//! UDP has no handshake, and silence is no evidence: only an error that the kernel reports counts as a failed try.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use spliceway_core::pool::BackendState;
use spliceway_core::retry::{Next, Reason};
use spliceway_core::session::End;
use spliceway_io::poll::Interest;
use spliceway_io::socket::ConnectError;
use spliceway_io::udp::{self, Outgoing};
use spliceway_io::{Errno, fork};

use super::{Session, SessionId};
use crate::dial::is_local;
use crate::dialled::describe;
use crate::events::EventKind;
use crate::flow::{Serving, Token};
use crate::source::Source;
use crate::timer::Due;
use crate::worker::Worker;

/// Sessions that are looked at when no local port is left.
const PORTS_LOOK: usize = 16_384;
/// The same when no descriptor is left, and how many end at most.
const DESCRIPTORS_LOOK: usize = 128;
const DESCRIPTORS_FREED: usize = 16;
/// How long to ask for no port when nobody could make room.
const NO_PORTS: Duration = Duration::from_millis(20);

/// What became of an attempt.
enum Attempt {
    /// The backend has what there is for it.
    Begun,
    /// It failed; another backend may do.
    Failed(String),
    /// No backend would do.
    Hopeless(Reason),
    /// This machine has no room for another socket. Not told as an event: it would be one for each client.
    NoRoom,
}

impl Worker {
    /// Give the session a backend. False: there is none, and the session is over.
    pub(super) fn dial_session(&mut self, id: SessionId) -> bool {
        loop {
            let Some(client) = self.udp.sessions.key(id).map(|key| canonical(key.client)) else { return false };
            let Some(session) = self.udp.sessions.get_mut(id) else { return false };
            let Some(fresh) = session.fresh.as_mut() else { return false };
            let newest = self.table.load().pool(session.slot);
            let newest = newest.filter(|pool| Arc::ptr_eq(&pool.state, &session.counted.pool));
            let pool = Arc::clone(newest.unwrap_or(&fresh.pool));
            // A refusal may come late, from far away: only tries and the budget bound them.
            fresh.dial.restart(self.now);
            let backend = match fresh.dial.next(&pool, client, self.now, &mut self.rng) {
                Next::GiveUp(reason) => return self.give_session_up(id, Some(reason)),
                Next::Try { backend, after, .. } => {
                    fresh.attempt += 1;
                    pool.state.tries.fetch_add(1, Relaxed);
                    pool.state.retries.fetch_add(u64::from(fresh.attempt > 1), Relaxed);
                    if !after.is_zero() {
                        fresh.target = Some(Serving::new(backend));
                        let due = Due::DialSession { session: id, attempt: fresh.attempt };
                        self.timers.add(self.now + after, due);
                        return true;
                    }
                    Serving::new(backend)
                }
            };
            match self.try_backend(id, client, backend) {
                Attempt::Begun => return true,
                Attempt::Failed(reason) => self.blame_session(id, &reason),
                Attempt::Hopeless(reason) => return self.give_session_up(id, Some(reason)),
                Attempt::NoRoom => return self.give_session_up(id, None),
            }
        }
    }

    /// The wait before an attempt is over.
    pub(crate) fn session_waited(&mut self, id: SessionId, attempt: u32) {
        let Some(client) = self.udp.sessions.key(id).map(|key| canonical(key.client)) else { return };
        let Some(fresh) = self.udp.sessions.get_mut(id).and_then(|session| session.fresh.as_mut()) else { return };
        let Some(target) = fresh.target.take_if(|_| fresh.attempt == attempt) else { return };
        match self.try_backend(id, client, target) {
            Attempt::Begun => {}
            Attempt::Failed(reason) => {
                self.blame_session(id, &reason);
                self.dial_session(id);
            }
            Attempt::Hopeless(reason) => drop(self.give_session_up(id, Some(reason))),
            Attempt::NoRoom => drop(self.give_session_up(id, None)),
        }
    }

    /// Open a socket to `backend` and send it what is held.
    fn try_backend(&mut self, id: SessionId, client: SocketAddr, backend: Serving) -> Attempt {
        let Some(session) = self.udp.sessions.get_mut(id) else { return Attempt::Hopeless(Reason::NoBackend) };
        let bypasses = &self.tools.shared.bypasses;
        let source = bypasses.source(session.keep_source, client, backend.0.address, self.now);
        let from = source.address();
        session.from = from;
        if let Some(fresh) = session.fresh.as_mut() {
            (fresh.source, fresh.since) = (source, self.now);
        }
        let opened = self.open_upstream(id, backend.0.address, from);
        let Some(session) = self.udp.sessions.get_mut(id) else { return Attempt::Hopeless(Reason::NoBackend) };
        session.serving = Some(backend);
        let socket = match opened {
            Ok(socket) => socket,
            Err(ConnectError::NotPermitted) => return Attempt::Hopeless(Reason::NotPermitted),
            Err(ConnectError::Failed(errno)) if is_local(errno) => return Attempt::NoRoom,
            Err(ConnectError::Failed(errno)) => return Attempt::Failed(describe(errno)),
        };
        let poll = &self.tools.shared.doors[self.number].poll;
        if poll.add(&socket, Token::Session(id).encode(), Interest::READ).is_err() {
            return Attempt::NoRoom; // at the user's limit of watches
        }
        if let Some(serving) = &session.serving {
            serving.0.flows.fetch_add(1, Relaxed);
        }
        self.send_held(id, socket)
    }

    /// Open a socket to `backend`; at a limit, older sessions make room.
    pub(super) fn open_upstream(
        &mut self,
        id: SessionId,
        backend: SocketAddr,
        from: Option<IpAddr>,
    ) -> Result<OwnedFd, ConnectError> {
        let mark = self.shared().config.mark;
        if self.udp.no_ports.is_some_and(|(whose, until)| whose == from && self.now < until) {
            return Err(ConnectError::Failed(Errno::ADDRNOTAVAIL));
        }
        let opened = udp::open_upstream(backend, from, mark);
        let Err(ConnectError::Failed(errno)) = opened else { return opened };
        if !is_local(errno) {
            return opened;
        }
        self.shared().bounds.fd_limit_hits.fetch_add(1, Relaxed);
        self.tools.pipes.shrink();
        let opened = if self.free_some(id, from, errno == Errno::ADDRNOTAVAIL) {
            udp::open_upstream(backend, from, mark)
        } else {
            opened
        };
        if matches!(opened, Err(ConnectError::Failed(Errno::ADDRNOTAVAIL))) {
            self.udp.no_ports = Some((from, self.now + NO_PORTS));
        }
        opened
    }

    /// End an eighth of the sessions, the oldest ones: for want of descriptors a few of any, for want of ports those that
    /// have one of the source `from`. Several at once, because another worker may take what one leaves, and because the
    /// kernel's search for a port takes ever longer the fewer are free, a millisecond in the end.
    fn free_some(&mut self, id: SessionId, from: Option<IpAddr>, ports: bool) -> bool {
        let (look, most) = if ports { (PORTS_LOOK, PORTS_LOOK) } else { (DESCRIPTORS_LOOK, DESCRIPTORS_FREED) };
        let wanted = |session: &Session| session.socket.is_some() && (!ports || session.from == from);
        let olds = self.udp.sessions.oldest_where(look, wanted);
        let olds: Vec<SessionId> = olds.into_iter().filter(|&old| old != id).collect();
        let ended = &olds[..olds.len().div_ceil(8).min(most)];
        ended.iter().for_each(|&old| self.finish_session(old, End::Closed));
        !ended.is_empty()
    }

    /// Send the session's first datagrams to its new backend.
    fn send_held(&mut self, id: SessionId, socket: OwnedFd) -> Attempt {
        let Some(session) = self.udp.sessions.get_mut(id) else { return Attempt::Hopeless(Reason::NoBackend) };
        let socket = session.socket.insert(socket);
        let Some(fresh) = session.fresh.as_mut() else { return Attempt::Begun };
        let count = fresh.held.count(self.now);
        if count == 0 {
            return Attempt::Begun;
        }
        if fresh.attempt > 1 {
            session.counted.pool.replayed.fetch_add(1, Relaxed);
        }
        let (held, joins) = (&fresh.held, session.joins_in);
        let message = |index| Outgoing { bytes: held.get(index), to: None, from: None, segment: 0, joins };
        let sent = self.udp.sender.send_all(&*socket, count, &message);
        session.joins_in &= sent.refused.is_none();
        let bounds = &self.tools.shared.bounds;
        bounds.datagrams_dropped.fetch_add(sent.dropped, Relaxed);
        bounds.trains_refused.fetch_add(sent.trains_refused, Relaxed);
        sent.failed.map_or(Attempt::Begun, |errno| Attempt::Failed(describe(errno)))
    }

    /// The backend refused, or cannot be reached.
    pub(super) fn session_failed(&mut self, id: SessionId, errno: Errno) {
        let Some(session) = self.udp.sessions.get(id) else { return };
        if session.fresh.is_none() {
            return self.finish_session(id, End::BackendReset); // the next datagram picks again
        }
        self.blame_session(id, &describe(errno));
        self.dial_session(id);
    }

    /// The session's backend has answered: it stays with that.
    pub(super) fn session_answered(&mut self, id: SessionId) {
        let Some(client) = self.udp.sessions.key(id).map(|key| key.client) else { return };
        let Some(session) = self.udp.sessions.get_mut(id) else { return };
        let Some(fresh) = session.fresh.take() else { return };
        if fresh.attempt > 1 {
            session.counted.pool.saved.fetch_add(1, Relaxed);
        }
        if fresh.source.is_substitute() {
            session.counted.pool.source_not_kept.fetch_add(1, Relaxed);
        }
        let Some(backend) = session.serving.as_ref().map(|serving| Arc::clone(&serving.0)) else { return };
        let bypasses = &self.tools.shared.bypasses;
        match fresh.source {
            // A backend that is as slow as the client was patient may have had its answer on the way.
            Source::AfterSilence(waited) if self.now.saturating_sub(fresh.since) < waited => {
                bypasses.learn(client, backend.address, self.now);
            }
            Source::Client(_) => bypasses.unlearn(client, backend.address, self.now),
            _ => {}
        }
        if backend.consecutive_failures.load(Relaxed) > 0 && backend.consecutive_failures.swap(0, Relaxed) > 0 {
            self.report_of(&fresh.pool.name, EventKind::ConnectRecovered, Some(backend.address), "answered", 1);
        }
    }

    /// The attempt failed and the backend is the cause.
    fn blame_session(&mut self, id: SessionId, reason: &str) {
        let Some(session) = self.udp.sessions.get_mut(id) else { return };
        let backend: Option<Arc<BackendState>> = session.serving.take().map(|serving| Arc::clone(&serving.0));
        let socket = session.socket.take();
        let pool = session.fresh.as_ref().map(|fresh| Arc::clone(&fresh.pool.name));
        if let Some(socket) = socket
            && fork::noticed()
        {
            let _ = self.door().poll.remove(&socket);
        }
        if let (Some(backend), Some(pool)) = (backend, pool) {
            let failures = backend.count_connect_failure();
            self.report_of(&pool, EventKind::ConnectFailed, Some(backend.address), reason, failures.into());
        }
    }

    /// No backend takes the session (`reason`: why, unless there was no room): it is over, and so are the datagrams that
    /// were held for it.
    fn give_session_up(&mut self, id: SessionId, reason: Option<Reason>) -> bool {
        let now = self.now;
        let Some(session) = self.udp.sessions.get_mut(id) else { return false };
        let pool = Arc::clone(&session.counted.pool);
        let counter = if reason == Some(Reason::NoBackend) { &pool.no_backend } else { &pool.failed };
        counter.fetch_add(1, Relaxed);
        pool.budget_exhausted.fetch_add(u64::from(reason == Some(Reason::Budget)), Relaxed);
        if let Some(mut fresh) = session.fresh.take() {
            self.shared().bounds.datagrams_dropped.fetch_add(fresh.held.count(now) as u64, Relaxed);
            if let Some(reason) = reason {
                self.report_of(&fresh.pool.name, EventKind::NoBackend, None, reason.as_str(), 1);
            }
        }
        if reason == Some(Reason::NotPermitted) {
            self.report_not_permitted();
        }
        self.finish_session(id, End::NoBackend);
        false
    }
}

/// A client of an IPv4 address, as the rest of the engine names it.
pub(super) fn canonical(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}
