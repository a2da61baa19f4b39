//! The end of flows: in order, by a reset, or at a deadline.

use std::sync::Arc;
use std::time::Duration;

use spliceway_core::session::{End, Side};
use spliceway_io::{fork, socket};

use crate::drains::Drain;
use crate::flow::{Flow, FlowId, at};
use crate::timer::Due;
use crate::worker::Worker;

impl Worker {
    /// Close both sockets and forget the flow.
    pub(crate) fn finish(&mut self, id: FlowId, end: End) {
        if self.flow(id).is_none() {
            return;
        }
        let mut flow = self.flows.remove(id.index as usize);
        self.unwatch(&mut flow, Side::Client);
        self.unwatch(&mut flow, Side::Backend);
        for side in [Side::Client, Side::Backend] {
            if let Some(pipe) = flow.lanes[at(side)].pipe.take() {
                // A pipe whose bytes nobody wants any more must not meet another flow.
                if flow.session.pending(side) == 0 {
                    self.tools.pipes.give(pipe)
                } else {
                    self.tools.pipes.discard(pipe)
                }
            }
        }
        flow.counted.pool.count_end(end);
        let Flow { client, backend, session, .. } = flow;
        for (side, fd) in [(Side::Client, Some(client)), (Side::Backend, backend)] {
            let Some(fd) = fd else { continue };
            match end {
                End::Closed => socket::close(fd),
                _ if session.complete(side) => socket::close_unread(fd, &mut self.tools.scratch),
                _ => socket::reset(fd),
            }
        }
    }

    /// Before a socket is closed: closing ends its readiness, unless a forked child holds a copy of it.
    pub(crate) fn unwatch(&self, flow: &mut Flow, side: Side) {
        if flow.watched[at(side)].take().is_some()
            && fork::noticed()
            && let Some(fd) = flow.socket(side)
        {
            let _ = self.door().poll.remove(fd);
        }
    }

    /// Reset whatever is left, without counting.
    pub(crate) fn reset_all(&mut self) {
        for flow in self.flows.drain() {
            socket::reset(flow.client);
            if let Some(backend) = flow.backend {
                socket::reset(backend);
            }
        }
        self.forget_sessions();
    }

    /// The engine stops: nothing is left.
    pub(crate) fn cut_all(&mut self) {
        self.cut_where(|_| true);
        self.cut_all_sessions();
    }

    /// Cut the flows of a drain whose deadline has come.
    pub(crate) fn cut_drain(&mut self, drain: &Arc<Drain>) {
        // Counted before the last one ends, because its end is what reports the drain.
        let ids = self.ids_where(|flow| drain.concerns(&flow.counted.pool));
        let sessions = self.sessions_of_drain(drain);
        drain.expire((ids.len() + sessions.len()) as u64);
        self.cut(&ids);
        self.cut_sessions(&sessions);
        self.shared().check_drains();
    }

    /// Flows to backends that left are to be cut at `at`; one timer serves them all.
    pub(crate) fn cut_leaving_at(&mut self, at: Duration) {
        if self.next_cut.is_none_or(|next| at < next) {
            self.next_cut = Some(at);
            self.timers.add(at, Due::CutLeaving);
        }
    }

    /// Cut flows to backends that left, if their time is over; look again when the next one's is.
    pub(crate) fn cut_leaving(&mut self) {
        if self.next_cut.is_none_or(|next| next > self.now) {
            return; // an earlier timer did it
        }
        self.next_cut = None;
        let now = self.now;
        let deadline = |flow: &Flow| flow.serving.as_ref()?.0.drain_deadline();
        self.cut_where(|flow| deadline(flow).is_some_and(|at| at <= now));
        if let Some(next) = self.flows.iter().filter_map(|(_, flow)| deadline(flow)).min() {
            self.cut_leaving_at(next);
        }
    }

    fn cut_where(&mut self, which: impl Fn(&Flow) -> bool) {
        let ids = self.ids_where(which);
        self.cut(&ids);
    }

    fn ids_where(&self, which: impl Fn(&Flow) -> bool) -> Vec<FlowId> {
        self.flows.iter().filter(|(_, flow)| which(flow)).map(|(_, flow)| flow.id).collect()
    }

    fn cut(&mut self, ids: &[FlowId]) {
        for &id in ids {
            let _ = self.flow(id).map(|flow| flow.session.cut());
            self.finish(id, End::Drained);
        }
    }
}
