//! The ends of sessions: idle, for lack of room, because their backend left, or at a drain.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use spliceway_core::session::End;
use spliceway_io::fork;

use super::SessionId;
use super::moved::Homes;
use super::session::{Session, Via};
use crate::drains::Drain;
use crate::routes::{Target, Transport};
use crate::shared::Message;
use crate::timer::Due;
use crate::worker::Worker;

/// Sessions that are ended in one go, so that others are served in between.
const ENDS: usize = 256;
/// A session holds up a drain for so long after its last datagram.
const QUIET: Duration = Duration::from_millis(900);
/// How often a drain looks for sessions that are quiet.
const QUIET_STEP: Duration = Duration::from_millis(100);
/// Sessions beyond the limit for the moment that another worker takes to end its oldest.
const OVERLAP: usize = 64;

impl Worker {
    /// Close the session's socket and forget it.
    pub(super) fn finish_session(&mut self, id: SessionId, end: End) {
        let Some((_, mut session)) = self.udp.sessions.remove(id) else { return };
        if let Some(socket) = session.socket.take()
            && fork::noticed()
        {
            let _ = self.door().poll.remove(&socket);
        }
        session.counted.pool.count_end(end);
    }

    /// End the sessions whose idle time is over, and close reply sockets that nobody needs.
    pub(crate) fn end_idle_sessions(&mut self) {
        for _ in 0..ENDS {
            let Some(id) = self.udp.sessions.ended(self.now) else { break };
            self.finish_session(id, End::Closed);
        }
        self.udp.outbox.close_idle(self.now);
    }

    /// Tell other workers how old this one's oldest session is.
    pub(crate) fn publish_oldest_session(&self) {
        let oldest = self.udp.sessions.oldest().and_then(|id| self.udp.sessions.used(id));
        let millis = oldest.map_or(u64::MAX, |used| used.as_millis() as u64);
        self.door().oldest_session.store(millis, Relaxed);
    }

    /// Before a session is made. `None`: there is no room, and nobody to make any.
    pub(super) fn make_room_for_session(&mut self) -> Option<()> {
        let shared = Arc::clone(self.shared());
        let (sessions, limit) = (shared.bounds.sessions.load(Relaxed), self.udp.limit);
        if sessions < limit {
            return Some(());
        }
        shared.bounds.session_limit_hits.fetch_add(1, Relaxed);
        let own = self.udp.sessions.oldest().and_then(|id| self.udp.sessions.used(id));
        let own = own.map_or(u64::MAX, |used| used.as_millis() as u64);
        let others = (0..shared.doors.len()).filter(|&number| number != self.number);
        let oldest = others.map(|number| (shared.doors[number].oldest_session.load(Relaxed), number)).min();
        match oldest {
            Some((theirs, number)) if theirs < own && sessions < limit + OVERLAP => {
                shared.doors[number].send(Message::EndOldestSession);
                Some(())
            }
            _ => self.end_oldest_session().then_some(()),
        }
    }

    /// End the session that was idle longest. False: there is none.
    pub(crate) fn end_oldest_session(&mut self) -> bool {
        let Some(oldest) = self.udp.sessions.oldest() else { return false };
        self.finish_session(oldest, End::Closed);
        true
    }

    /// Pools in `slots`, or the routes to them, have changed: end the sessions whose backend the newest table does not give
    /// to their client. Their next datagram picks again (C-08).
    pub(crate) fn end_moved_sessions(&mut self, slots: &[u32]) {
        let table = Arc::clone(self.table.load());
        let mut homes = Homes::new(&table);
        for &slot in slots {
            for id in self.udp.sessions.of_slot(slot) {
                if !self.rehome(id, &mut homes) {
                    self.shared().bounds.sessions_moved.fetch_add(1, Relaxed);
                    self.finish_session(id, End::Drained);
                }
            }
        }
        let any_class = |address| table.routes().serves(Transport::Udp, address);
        self.udp.outbox.close_unless(any_class);
    }

    /// Let the session go on in the pool that its client has in the newest table. False: that has not the session's backend.
    fn rehome(&mut self, id: SessionId, homes: &mut Homes<'_>) -> bool {
        let (Some(key), Some(session)) = (self.udp.sessions.key(id), self.udp.sessions.get_mut(id)) else {
            return true;
        };
        let own = Target { slot: session.slot, keep_source: session.keep_source };
        let (target, listener) = match session.via {
            Via::Diverted(class) => (homes.table().route(Transport::Udp, key.dialled, class), false),
            Via::Listener { .. } => (Some(own), true),
        };
        let Some((target, pool)) = target.and_then(|to| Some((to, homes.table().pool(to.slot)?))) else { return false };
        let same = Arc::ptr_eq(&pool.state, &session.counted.pool);
        if same && session.serving.is_none() {
            return true; // it waits to dial, and will ask the newest table
        }
        if !same && listener {
            return false; // another pool has the place of its own
        }
        let state = session.backend().and_then(|backend| homes.backend(target.slot, pool, backend));
        if let Some(state) = state.filter(|_| !same) {
            session.move_to(target, pool, state);
            self.udp.sessions.change_slot(id, target.slot);
        }
        state.is_some()
    }

    /// A listener was closed: nothing reaches its sessions any more, and no answer can leave.
    pub(crate) fn end_sessions_of_listener(&mut self, number: usize) {
        let by = |session: &Session| matches!(session.via, Via::Listener { number: own, .. } if own == number);
        for id in self.sessions_where(by) {
            self.finish_session(id, End::Closed);
        }
    }

    /// End the sessions of a drain that are quiet, and look again until none is left.
    pub(crate) fn end_quiet_sessions(&mut self, drain: &Arc<Drain>) {
        let mut next = None;
        for id in self.sessions_where(|session| drain.concerns(&session.counted.pool)) {
            let quiet_at = self.udp.sessions.used(id).unwrap_or_default() + QUIET;
            if quiet_at <= self.now {
                self.finish_session(id, End::Closed);
            } else {
                next = next.min(Some(quiet_at)).or(Some(quiet_at));
            }
        }
        if let Some(next) = next {
            self.timers.add(next.max(self.now + QUIET_STEP), Due::EndQuiet(Arc::clone(drain)));
        }
    }

    /// The sessions that a drain cuts at its deadline.
    pub(crate) fn sessions_of_drain(&self, drain: &Drain) -> Vec<SessionId> {
        self.sessions_where(|session| drain.concerns(&session.counted.pool))
    }

    /// End `sessions` at a deadline.
    pub(crate) fn cut_sessions(&mut self, sessions: &[SessionId]) {
        sessions.iter().for_each(|&id| self.finish_session(id, End::Drained));
    }

    /// The engine stops: no session is left.
    pub(crate) fn cut_all_sessions(&mut self) {
        self.cut_sessions(&self.sessions_where(|_| true));
    }

    fn sessions_where(&self, which: impl Fn(&Session) -> bool) -> Vec<SessionId> {
        self.udp.sessions.iter().filter(|(_, session)| which(session)).map(|(id, _)| id).collect()
    }
}
