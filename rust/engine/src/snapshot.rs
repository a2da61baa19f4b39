//! Counters as plain values, for a host to read at any time.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use spliceway_core::histogram::BUCKETS;
use spliceway_core::pool::{BackendState, Pool};

use crate::shared::Shared;

/// Totals of one backend of a pool.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the Python face, which documents them")]
pub struct BackendCounters {
    pub address: SocketAddr,
    pub weight: u16,
    pub healthy: bool,
    pub draining: bool,
    pub active: u32,
    pub flows: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub connect_failures: u32,
    pub consecutive_failures: u32,
}

impl BackendCounters {
    fn read(state: &BackendState, weight: u16, healthy: bool, draining: bool) -> Self {
        Self {
            address: state.address,
            weight,
            healthy,
            draining,
            active: state.active.load(Relaxed),
            flows: state.flows.load(Relaxed),
            bytes_in: state.bytes_in.load(Relaxed),
            bytes_out: state.bytes_out.load(Relaxed),
            connect_failures: state.connect_failures(),
            consecutive_failures: state.consecutive_failures.load(Relaxed),
        }
    }
}

/// Totals of one pool.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the Python face, which documents them")]
pub struct PoolCounters {
    pub name: String,
    pub flows: u64,
    pub active: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub tries: u64,
    pub retries: u64,
    pub saved: u64,
    pub failed: u64,
    pub replayed: u64,
    pub budget_exhausted: u64,
    pub no_backend: u64,
    pub source_not_kept: u64,
    pub ended_closed: u64,
    pub ended_client_reset: u64,
    pub ended_backend_reset: u64,
    pub ended_drained: u64,
    pub connect_seconds: f64,
    pub connect_buckets: [u64; BUCKETS.len() + 1],
    pub backends: Vec<BackendCounters>,
}

impl PoolCounters {
    pub(crate) fn read(pool: &Pool) -> Self {
        let state = &pool.state;
        let times = state.connect_times();
        let present = pool.backends.iter().map(|b| BackendCounters::read(b, b.weight, b.healthy, false));
        let leaving = pool.leaving.iter().filter(|state| state.active.load(Relaxed) > 0);
        let leaving = leaving.map(|state| BackendCounters::read(state, 0, true, true));
        Self {
            name: pool.name.to_string(),
            flows: state.flows.load(Relaxed),
            active: state.active.load(Relaxed).into(),
            bytes_in: state.bytes_in.load(Relaxed),
            bytes_out: state.bytes_out.load(Relaxed),
            tries: state.tries.load(Relaxed),
            retries: state.retries.load(Relaxed),
            saved: state.saved.load(Relaxed),
            failed: state.failed.load(Relaxed),
            replayed: state.replayed.load(Relaxed),
            budget_exhausted: state.budget_exhausted.load(Relaxed),
            no_backend: state.no_backend.load(Relaxed),
            source_not_kept: state.source_not_kept.load(Relaxed),
            ended_closed: state.ended_closed.load(Relaxed),
            ended_client_reset: state.ended_client_reset.load(Relaxed),
            ended_backend_reset: state.ended_backend_reset.load(Relaxed),
            ended_drained: state.ended_drained.load(Relaxed),
            connect_seconds: times.map_or(0.0, |t| t.seconds()),
            connect_buckets: times.map_or([0; BUCKETS.len() + 1], |t| t.counts()),
            backends: present.chain(leaving).collect(),
        }
    }
}

/// State of the engine as a whole.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the Python face, which documents them")]
pub struct EngineCounters {
    pub generation: u64,
    pub workers: usize,
    pub listeners: usize,
    pub flows: usize,
    pub flow_limit_hits: u64,
    pub fd_limit_hits: u64,
    pub pipe_limit_hits: u64,
    pub events_dropped: u64,
    pub worker_panics: u64,
    pub accept_errors: u64,
    pub sessions: usize,
    pub session_limit_hits: u64,
    pub sessions_moved: u64,
    pub datagrams_dropped: u64,
    pub trains_refused: u64,
    pub affinities: usize,
    pub affinity_limit_hits: u64,
    pub bypasses: usize,
    pub bypass_limit_hits: u64,
    pub unrouted: u64,
    pub paused: bool,
    pub pools: Vec<PoolCounters>,
}

impl EngineCounters {
    /// `all_pools` false leaves out pools that never had a flow.
    pub(crate) fn read(shared: &Shared, all_pools: bool) -> Self {
        let table = shared.table.load();
        let wanted = table.pools().filter(|pool| all_pools || pool.state.flows.load(Relaxed) > 0);
        let bounds = &shared.bounds;
        Self {
            generation: table.generation,
            workers: shared.doors.len(),
            listeners: shared.listeners.len(),
            flows: shared.flows.load(Relaxed),
            flow_limit_hits: bounds.flow_limit_hits.load(Relaxed),
            fd_limit_hits: bounds.fd_limit_hits.load(Relaxed),
            pipe_limit_hits: bounds.pipe_limit_hits.load(Relaxed),
            events_dropped: shared.events.dropped(),
            worker_panics: bounds.worker_panics.load(Relaxed),
            accept_errors: bounds.accept_errors.load(Relaxed),
            sessions: bounds.sessions.load(Relaxed),
            session_limit_hits: bounds.session_limit_hits.load(Relaxed),
            sessions_moved: bounds.sessions_moved.load(Relaxed),
            datagrams_dropped: bounds.datagrams_dropped.load(Relaxed),
            trains_refused: bounds.trains_refused.load(Relaxed),
            affinities: shared.affinities.len(shared.now()),
            affinity_limit_hits: shared.affinities.limit_hits(),
            bypasses: shared.bypasses.len(shared.now()),
            bypass_limit_hits: shared.bypasses.limit_hits(),
            unrouted: bounds.unrouted.load(Relaxed),
            paused: bounds.paused.load(Relaxed) > 0,
            pools: wanted.map(|pool| PoolCounters::read(pool)).collect(),
        }
    }
}
