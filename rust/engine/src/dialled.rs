//! What comes of an attempt to get a backend: its connection stands, it is to blame, or the flow gets none; and the telling
//! of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use spliceway_core::retry::Reason;
use spliceway_core::session::{End, Side};
use spliceway_io::{Errno, socket};

use crate::events::{Event, EventKind};
use crate::flow::{FlowId, at};
use crate::relay;
use crate::source::Source;
use crate::worker::Worker;

impl Worker {
    /// The backend's connection stands: relay.
    pub(crate) fn connected(&mut self, id: FlowId) {
        let now = self.shared().now();
        let Some(flow) = self.flows.get_mut(id.index as usize).filter(|flow| flow.id == id) else {
            return;
        };
        let Some(dialling) = flow.dialling.as_mut() else {
            return;
        };
        let Some(target) = dialling.target.take() else {
            return;
        };
        let pool = &flow.counted.pool;
        let took = now.saturating_sub(dialling.began);
        pool.observe_connect(took);
        if dialling.retried && !std::mem::replace(&mut dialling.saved, true) {
            pool.saved.fetch_add(1, Relaxed);
        }
        if dialling.source.is_substitute() {
            pool.source_not_kept.fetch_add(1, Relaxed);
        }
        let bypasses = &self.tools.shared.bypasses;
        match dialling.source {
            // A backend that is slower than the wait was would have answered the client as late: no evidence.
            Source::AfterSilence(waited) if took < waited => bypasses.learn(dialling.client, target.0.address, now),
            Source::Client(_) => bypasses.unlearn(dialling.client, target.0.address, now),
            _ => {}
        }
        target.0.flows.fetch_add(1, Relaxed);
        let backend = target.0.address;
        let drain_deadline = target.0.drain_deadline();
        let recovered =
            target.0.consecutive_failures.load(Relaxed) > 0 && target.0.consecutive_failures.swap(0, Relaxed) > 0;
        flow.serving = Some(target);
        flow.session.connected();
        flow.lanes[at(Side::Client)].buffer.clone_from(&dialling.held);
        if let Some(deadline) = drain_deadline {
            self.cut_leaving_at(deadline); // it left while it was dialled
        }
        if recovered {
            self.report(id, EventKind::ConnectRecovered, Some(backend), "connected", 1);
        }
        let Some(flow) = self.flows.get_mut(id.index as usize) else {
            return;
        };
        let step = relay::pump(flow, Side::Client, false, &mut self.tools);
        if !flow.session.has_read()
            && let Some(fd) = flow.socket(Side::Backend)
        {
            socket::acknowledge(fd);
        }
        self.carry_out(id, step);
    }

    /// The attempt failed and the backend is the cause.
    pub(crate) fn blame(&mut self, id: FlowId, reason: &str) {
        self.drop_backend(id);
        let Some(flow) = self.flow(id) else { return };
        let Some(target) = flow.dialling.as_mut().and_then(|d| d.target.take()) else {
            return;
        };
        let failures = target.0.count_connect_failure();
        self.report(id, EventKind::ConnectFailed, Some(target.0.address), reason, failures.into());
    }

    /// No backend takes the flow: it is over.
    pub(crate) fn give_up(&mut self, id: FlowId, reason: Reason) {
        let Some(flow) = self.flow(id) else { return };
        let pool = &flow.counted.pool;
        let counter = if reason == Reason::NoBackend { &pool.no_backend } else { &pool.failed };
        counter.fetch_add(1, Relaxed);
        if reason == Reason::Budget {
            pool.budget_exhausted.fetch_add(1, Relaxed);
        }
        self.report(id, EventKind::NoBackend, None, reason.as_str(), 1);
        let _ = self.flow(id).map(|flow| flow.session.gave_up());
        self.finish(id, End::NoBackend);
    }

    pub(crate) fn report(
        &mut self,
        id: FlowId,
        kind: EventKind,
        backend: Option<SocketAddr>,
        reason: &str,
        count: u64,
    ) {
        let dialling = self.flow(id).and_then(|flow| flow.dialling.as_ref());
        let Some(pool) = dialling.map(|dialling| Arc::clone(&dialling.pool.name)) else { return };
        self.report_of(&pool, kind, backend, reason, count);
    }

    pub(crate) fn report_of(
        &self,
        pool: &Arc<str>,
        kind: EventKind,
        backend: Option<SocketAddr>,
        reason: &str,
        count: u64,
    ) {
        self.shared().events.push(Event::new(kind, reason).times(count).of(pool, backend));
    }

    /// Told once: it is so for every flow and session.
    pub(crate) fn report_not_permitted(&self) {
        let shared = self.shared();
        if !shared.not_permitted.swap(true, Relaxed) {
            shared.events.push(Event::new(EventKind::NotPermitted, Reason::NotPermitted.as_str()));
        }
    }
}

/// A failure in the words of an event.
pub(crate) fn describe(errno: Errno) -> String {
    match errno {
        Errno::CONNREFUSED => "connection refused".to_owned(),
        Errno::CONNRESET => "connection reset".to_owned(),
        Errno::HOSTUNREACH => "host unreachable".to_owned(),
        Errno::NETUNREACH => "network unreachable".to_owned(),
        Errno::TIMEDOUT => "timed out".to_owned(),
        other => other.to_string(),
    }
}
