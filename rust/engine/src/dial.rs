//! Getting a backend for a flow: dial, notice failure, try another. Nothing here blocks.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use spliceway_core::retry::{Next, Reason};
use spliceway_core::session::{End, Side};
use spliceway_io::poll::{Interest, Ready};
use spliceway_io::socket::{self, ConnectError};
use spliceway_io::{Errno, fork};

use crate::dialled::describe;
use crate::events::EventKind;
use crate::flow::{FlowId, Serving, Token, at};
use crate::source::Source;
use crate::timer::Due;
use crate::worker::Worker;

/// Wait before a dial is repeated that failed for a reason of our own (no descriptor, no port): flows that end free some.
const LOCAL_WAIT: Duration = Duration::from_millis(10);

/// What became of the start of an attempt.
enum Attempt {
    /// It is under way, or over and successful.
    Begun,
    /// It failed at once; the backend was blamed, or the try is used up.
    Failed,
}

impl Worker {
    /// Dial the next backend of the flow's pool, until an attempt is under way or none is left.
    pub(crate) fn dial(&mut self, id: FlowId) {
        loop {
            let Some(flow) = self.flows.get_mut(id.index as usize).filter(|flow| flow.id == id) else {
                return;
            };
            let Some(dialling) = flow.dialling.as_mut() else {
                return;
            };
            let pool = Arc::clone(dialling.newest_pool(self.table.load(), flow.slot));
            match dialling.dial.next(&pool, dialling.client, self.now, &mut self.rng) {
                Next::GiveUp(reason) => return self.give_up(id, reason),
                Next::Try { backend, timeout, after } => {
                    dialling.attempt += 1;
                    let (keep, client) = (dialling.keep_source, dialling.client);
                    let bypasses = &self.tools.shared.bypasses;
                    dialling.source = bypasses.source(keep, client, backend.address, self.now);
                    let kept = dialling.source.address().is_some();
                    let timeout = if kept { pool.retry.kept_source_wait(timeout) } else { timeout };
                    dialling.target = Some(Serving::new(backend));
                    dialling.ends = self.now + after + timeout;
                    pool.state.tries.fetch_add(1, Relaxed);
                    if dialling.attempt > 1 {
                        dialling.retried = true;
                        pool.state.retries.fetch_add(1, Relaxed);
                    }
                    if !after.is_zero() {
                        return self.timers.add(self.now + after, Due::DialNow { flow: id, attempt: dialling.attempt });
                    }
                }
            }
            match self.connect(id) {
                Attempt::Begun => return,
                Attempt::Failed => {}
            }
        }
    }

    /// Begin to connect to the flow's target.
    fn connect(&mut self, id: FlowId) -> Attempt {
        let now = self.shared().now();
        let Some(flow) = self.flows.get_mut(id.index as usize).filter(|flow| flow.id == id) else {
            return Attempt::Begun;
        };
        let Some(dialling) = flow.dialling.as_mut() else {
            return Attempt::Begun;
        };
        let Some(target) = dialling.target.as_ref() else {
            return Attempt::Failed;
        };
        dialling.began = now;
        let from = dialling.source.address();
        match socket::connect_start(target.0.address, from, self.tools.shared.config.mark) {
            Ok((fd, true)) => {
                flow.backend = Some(fd);
                self.connected(id);
                Attempt::Begun
            }
            Ok((fd, false)) => {
                let (attempt, ends) = (dialling.attempt, dialling.ends);
                let token = Token::Flow(id, Side::Backend).encode();
                let watched = self.tools.shared.doors[self.number].poll.add(&fd, token, Interest::WRITE);
                if watched.is_err() {
                    return self.wait_for_room(id, now);
                }
                flow.watched[at(Side::Backend)] = Some(Interest::WRITE);
                flow.backend = Some(fd);
                self.timers.add(ends, Due::DialTimeout { flow: id, attempt });
                Attempt::Begun
            }
            Err(ConnectError::NotPermitted) => self.refuse(id),
            Err(ConnectError::Failed(errno)) if is_local(errno) => self.wait_for_room(id, now),
            Err(ConnectError::Failed(errno)) => {
                self.blame(id, &describe(errno));
                Attempt::Failed
            }
        }
    }

    /// The attempt failed for a reason of our own: repeat it soon, as long as its time lasts.
    fn wait_for_room(&mut self, id: FlowId, now: Duration) -> Attempt {
        self.shared().bounds.fd_limit_hits.fetch_add(1, Relaxed);
        self.tools.pipes.shrink();
        let Some(dialling) = self.flow(id).and_then(|flow| flow.dialling.as_mut()) else { return Attempt::Begun };
        if now + LOCAL_WAIT >= dialling.ends {
            dialling.target = None;
            return Attempt::Failed;
        }
        let attempt = dialling.attempt;
        self.timers.add(now + LOCAL_WAIT, Due::DialNow { flow: id, attempt });
        Attempt::Begun
    }

    /// This process may not dial as the flow needs it. No backend is to blame, and no other one would do.
    fn refuse(&mut self, id: FlowId) -> Attempt {
        self.report_not_permitted();
        if let Some(dialling) = self.flow(id).and_then(|flow| flow.dialling.as_mut()) {
            dialling.target = None;
        }
        self.give_up(id, Reason::NotPermitted);
        Attempt::Begun
    }

    /// A socket of a flow that is dialling is ready.
    pub(crate) fn dial_ready(&mut self, id: FlowId, side: Side, ready: Ready) {
        let Some(flow) = self.flow(id) else { return };
        if side == Side::Client {
            if ready.failed {
                self.finish(id, End::ClientReset);
            }
            return;
        }
        match flow.socket(Side::Backend).and_then(socket::take_error) {
            Some(errno) => {
                self.blame(id, &describe(errno));
                self.dial(id);
            }
            None if ready.writable => self.connected(id),
            None => {}
        }
    }

    /// The time of an attempt is over.
    pub(crate) fn dial_timed_out(&mut self, id: FlowId, attempt: u32) {
        let now = self.now;
        let Some(flow) = self.flow(id).filter(|flow| flow.session.dialling()) else {
            return;
        };
        let Some(dialling) = flow.dialling.as_ref().filter(|d| d.attempt == attempt) else {
            return;
        };
        let waited = now.saturating_sub(dialling.began);
        if dialling.source.address().is_some() && self.dial_from_here(id, waited) {
            return;
        }
        self.blame(id, &format!("no answer within {} ms", waited.as_millis()));
        self.dial(id);
    }

    /// Nothing was heard of a backend that was to answer the client's address: perhaps its answers do not pass here. Dial it
    /// once more from an address of our own, before anybody is blamed. False: it may not be dialled any more.
    fn dial_from_here(&mut self, id: FlowId, waited: Duration) -> bool {
        let Some(flow) = self.flows.get_mut(id.index as usize).filter(|flow| flow.id == id) else { return false };
        let Some(dialling) = flow.dialling.as_mut() else { return false };
        let pool = Arc::clone(dialling.newest_pool(self.table.load(), flow.slot));
        let Some(timeout) = dialling.dial.again(&pool, self.now) else { return false };
        dialling.attempt += 1;
        dialling.source = Source::AfterSilence(waited);
        dialling.ends = self.now + timeout;
        flow.counted.pool.tries.fetch_add(1, Relaxed);
        self.drop_backend(id);
        if let Attempt::Failed = self.connect(id) {
            self.dial(id);
        }
        true
    }

    /// The wait before an attempt is over.
    pub(crate) fn dial_waited(&mut self, id: FlowId, attempt: u32) {
        let Some(flow) = self.flow(id).filter(|flow| flow.session.dialling() && flow.backend.is_none()) else {
            return;
        };
        if flow.dialling.as_ref().is_some_and(|d| d.attempt == attempt)
            && let Attempt::Failed = self.connect(id)
        {
            self.dial(id);
        }
    }

    /// The backend ended before it sent anything, and nothing that the client sent is lost with it: dial another one.
    pub(crate) fn redial(&mut self, id: FlowId) {
        let now = self.now;
        let Some(flow) = self.flow(id) else { return };
        let asked = flow.session.pending(Side::Client) > 0;
        if asked {
            flow.counted.pool.replayed.fetch_add(1, Relaxed);
        }
        let backend = flow.serving.take().map(|serving| serving.0.address);
        self.drop_backend(id);
        let Some(flow) = self.flow(id) else { return };
        flow.lanes = Default::default(); // nothing is spliced yet: no pipe is lost here
        if let Some(dialling) = flow.dialling.as_mut() {
            dialling.dial.restart(now);
        }
        // An end without a question may be a time-out of an idle client: no evidence against the backend.
        if asked {
            self.report(id, EventKind::BackendAborted, backend, "ended before its first byte", 1);
        }
        // Only the client's reset is of interest while no backend is there.
        self.watch(id, Side::Client);
        self.dial(id);
    }

    /// Give up the backend's connection, whatever became of it.
    pub(crate) fn drop_backend(&mut self, id: FlowId) {
        let Some(flow) = self.flow(id) else { return };
        let watched = flow.watched[at(Side::Backend)].take().is_some();
        if let Some(fd) = flow.backend.take() {
            if watched && fork::noticed() {
                let _ = self.door().poll.remove(&fd);
            }
            socket::reset(fd);
        }
    }
}

/// Whether a failed connect is our own machine's fault and not the backend's.
pub(crate) fn is_local(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL | Errno::AGAIN)
}
