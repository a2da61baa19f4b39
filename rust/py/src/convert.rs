//! Plain data across the boundary: tuples to specs, snapshots to named tuples.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, UNIX_EPOCH};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use spliceway_core::pool::{AffinitySpec, BackendSpec, PoolSpec};
use spliceway_core::retry::RetryPolicy;
use spliceway_engine::Event;
use spliceway_engine::engine::{Candidate, Explanation};
use spliceway_engine::routes::{RouteKey, RouteSpec, TargetSpec};
use spliceway_engine::snapshot::{BackendCounters, EngineCounters, PoolCounters};

/// `(tries, connect_timeout, deadline, budget_ratio, budget_reserve, replay)`.
type Policy = (i64, f64, f64, f64, i64, bool);
/// `(name, balance, policy, drain, affinity, ((host, port, weight, healthy), ...))`; affinity is `(group, timeout)`.
pub(crate) type Upsert = (String, String, Policy, Option<f64>, Option<(String, f64)>, Vec<(String, i64, i64, bool)>);
/// `(pool, keep_source)`.
type Target = Option<(String, bool)>;
/// `(protocol, host, port, (pod, node, ext))`.
pub(crate) type Route = (String, String, i64, (Target, Target, Target));
/// `(protocol, host, port)`.
pub(crate) type Unroute = (String, String, i64);

/// A pool as the engine wants it, or a `ValueError` that names the pool and the field.
pub(crate) fn pool_spec(upsert: Upsert) -> PyResult<PoolSpec> {
    let (name, balance, policy, drain, affinity, backends) = upsert;
    let bad = |what: String| PyValueError::new_err(format!("pool {name}: {what}"));
    let balance = balance.parse().map_err(|error| bad(format!("{error}")))?;
    let retry = retry_policy(policy).map_err(&bad)?;
    let drain = drain.map(|seconds| duration("drain", seconds)).transpose().map_err(&bad)?;
    let affinity = affinity.map(affinity_spec).transpose().map_err(&bad)?;
    let backends = backends.iter().map(backend).collect::<Result<_, String>>().map_err(&bad)?;
    Ok(PoolSpec { name, balance, retry, drain, affinity, backends })
}

fn affinity_spec((group, timeout): (String, f64)) -> Result<AffinitySpec, String> {
    Ok(AffinitySpec { group, timeout: duration("timeout of affinity", timeout)? })
}

/// A route as the engine wants it, or a `ValueError` that names it.
pub(crate) fn route_spec((protocol, host, port, (pod, node, ext)): Route) -> PyResult<RouteSpec> {
    let target = |target: Target| target.map(|(pool, keep_source)| TargetSpec { pool, keep_source });
    let key = route_key((protocol, host, port))?;
    let targets = [pod, node, ext].map(target);
    if targets.iter().flatten().any(|target| target.pool.is_empty()) {
        return Err(PyValueError::new_err(format!("route {key}: a pool has an empty name")));
    }
    Ok(RouteSpec { key, targets })
}

/// What a route is for, or a `ValueError` that names it.
pub(crate) fn route_key((protocol, host, port): Unroute) -> PyResult<RouteKey> {
    let bad = |what: String| PyValueError::new_err(format!("route {protocol} {host} port {port}: {what}"));
    let ip: IpAddr = host.parse().map_err(|_| bad("the host is not an IP address".to_owned()))?;
    let transport = protocol.parse().map_err(&bad)?;
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(RouteKey { transport, ip: ip.to_canonical(), port }),
        _ => Err(bad("port must be 1 to 65535".to_owned())),
    }
}

fn retry_policy((tries, connect_timeout, deadline, ratio, reserve, replay): Policy) -> Result<RetryPolicy, String> {
    Ok(RetryPolicy {
        tries: number("tries", tries)?,
        connect_timeout: duration("connect_timeout", connect_timeout)?,
        deadline: duration("deadline", deadline)?,
        budget_ratio: ratio as f32,
        budget_reserve: number("budget_reserve", reserve)?,
        replay,
    })
}

fn backend((host, port, weight, healthy): &(String, i64, i64, bool)) -> Result<BackendSpec, String> {
    let ip: IpAddr = host.parse().map_err(|_| format!("backend {host:?} is not an IP address"))?;
    let port = number(&format!("port of backend {host}"), *port)?;
    let weight = number(&format!("weight of backend {host}"), *weight)?;
    Ok(BackendSpec { address: SocketAddr::new(ip, port), weight, healthy: *healthy })
}

fn number<T: TryFrom<i64>>(field: &str, value: i64) -> Result<T, String> {
    T::try_from(value).map_err(|_| format!("{field} is out of range: {value}"))
}

/// Seconds as a duration. The error names `field`.
pub(crate) fn duration(field: &str, seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{field} must be 0 or more seconds, not {seconds}"))
}

/// The named tuples of the Python face, made once when the module is imported.
struct Types {
    backend: Py<PyAny>,
    pool: Py<PyAny>,
    engine: Py<PyAny>,
    event: Py<PyAny>,
    candidate: Py<PyAny>,
    explanation: Py<PyAny>,
}

static TYPES: PyOnceLock<Types> = PyOnceLock::new();

/// Pools that are turned into Python objects between two chances for other threads: about a millisecond.
const POOLS_AT_A_TIME: usize = 64;

const BACKEND_FIELDS: &str = "host port weight healthy draining active flows bytes_in bytes_out connect_failures \
     consecutive_failures";
const POOL_FIELDS: &str = "name flows active bytes_in bytes_out tries retries saved failed replayed budget_exhausted \
     no_backend source_not_kept ended_closed ended_client_reset ended_backend_reset ended_drained connect_seconds connect_buckets backends";
const ENGINE_FIELDS: &str = "generation workers listeners flows flow_limit_hits fd_limit_hits pipe_limit_hits \
     events_dropped worker_panics accept_errors sessions session_limit_hits sessions_moved datagrams_dropped \
     trains_refused affinities affinity_limit_hits bypasses bypass_limit_hits unrouted paused pools";
const EVENT_FIELDS: &str = "kind time pool backend reason count";
const CANDIDATE_FIELDS: &str = "host port weight healthy active consecutive_failures rank reason";
const EXPLANATION_FIELDS: &str = "pool balance generation candidates";

fn types(py: Python<'_>) -> PyResult<&'static Types> {
    TYPES.get_or_try_init(py, || {
        let named_tuple = py.import("collections")?.getattr("namedtuple")?;
        let module = PyDict::new(py);
        module.set_item("module", "spliceway._engine")?;
        let make = |name: &str, fields: &str| named_tuple.call((name, fields), Some(&module)).map(Bound::unbind);
        Ok(Types {
            backend: make("BackendCounters", BACKEND_FIELDS)?,
            pool: make("PoolCounters", POOL_FIELDS)?,
            engine: make("EngineCounters", ENGINE_FIELDS)?,
            event: make("Event", EVENT_FIELDS)?,
            candidate: make("Candidate", CANDIDATE_FIELDS)?,
            explanation: make("Explanation", EXPLANATION_FIELDS)?,
        })
    })
}

/// Put the named tuples into the module.
pub(crate) fn add_types(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let types = types(py)?;
    for class in [&types.backend, &types.pool, &types.engine, &types.event, &types.candidate, &types.explanation] {
        let name: String = class.getattr(py, "__name__")?.extract(py)?;
        module.add(name.as_str(), class.clone_ref(py))?;
    }
    Ok(())
}

fn call<'py>(py: Python<'py>, class: &Py<PyAny>, fields: Vec<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    class.bind(py).call1(PyTuple::new(py, fields)?)
}

/// Values of different types as one list of Python objects.
macro_rules! fields {
    ($py:expr, $($value:expr),+ $(,)?) => {
        vec![$($value.into_pyobject($py)?.to_owned().into_any()),+]
    };
}

fn backend_counters<'py>(py: Python<'py>, b: &BackendCounters) -> PyResult<Bound<'py, PyAny>> {
    let fields = fields![
        py,
        b.address.ip().to_string(),
        b.address.port(),
        b.weight,
        b.healthy,
        b.draining,
        b.active,
        b.flows,
        b.bytes_in,
        b.bytes_out,
        b.connect_failures,
        b.consecutive_failures,
    ];
    call(py, &types(py)?.backend, fields)
}

pub(crate) fn pool_counters<'py>(py: Python<'py>, p: &PoolCounters) -> PyResult<Bound<'py, PyAny>> {
    let backends = p.backends.iter().map(|b| backend_counters(py, b)).collect::<PyResult<Vec<_>>>()?;
    let fields = fields![
        py,
        p.name.as_str(),
        p.flows,
        p.active,
        p.bytes_in,
        p.bytes_out,
        p.tries,
        p.retries,
        p.saved,
        p.failed,
        p.replayed,
        p.budget_exhausted,
        p.no_backend,
        p.source_not_kept,
        p.ended_closed,
        p.ended_client_reset,
        p.ended_backend_reset,
        p.ended_drained,
        p.connect_seconds,
        PyTuple::new(py, p.connect_buckets)?,
        PyTuple::new(py, backends)?,
    ];
    call(py, &types(py)?.pool, fields)
}

pub(crate) fn engine_counters<'py>(py: Python<'py>, e: &EngineCounters) -> PyResult<Bound<'py, PyAny>> {
    let mut pools = Vec::with_capacity(e.pools.len());
    for some in e.pools.chunks(POOLS_AT_A_TIME) {
        pools.extend(some.iter().map(|p| pool_counters(py, p)).collect::<PyResult<Vec<_>>>()?);
        py.detach(std::thread::yield_now); // ten thousand pools take long enough for other threads to notice
    }
    let fields = fields![
        py,
        e.generation,
        e.workers,
        e.listeners,
        e.flows,
        e.flow_limit_hits,
        e.fd_limit_hits,
        e.pipe_limit_hits,
        e.events_dropped,
        e.worker_panics,
        e.accept_errors,
        e.sessions,
        e.session_limit_hits,
        e.sessions_moved,
        e.datagrams_dropped,
        e.trains_refused,
        e.affinities,
        e.affinity_limit_hits,
        e.bypasses,
        e.bypass_limit_hits,
        e.unrouted,
        e.paused,
        PyTuple::new(py, pools)?,
    ];
    call(py, &types(py)?.engine, fields)
}

pub(crate) fn event<'py>(py: Python<'py>, e: &Event) -> PyResult<Bound<'py, PyAny>> {
    let time = e.time.duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
    let backend = e.backend.map(|b| b.to_string()).unwrap_or_default();
    let pool = e.pool.as_deref().unwrap_or_default();
    let fields = fields![py, e.kind.as_str(), time, pool, backend, e.reason.as_str(), e.count];
    call(py, &types(py)?.event, fields)
}

fn candidate<'py>(py: Python<'py>, c: &Candidate) -> PyResult<Bound<'py, PyAny>> {
    let b = &c.backend;
    let fields = fields![
        py,
        b.address.ip().to_string(),
        b.address.port(),
        b.weight,
        b.healthy,
        b.active,
        b.consecutive_failures,
        c.rank,
        c.reason.as_str(),
    ];
    call(py, &types(py)?.candidate, fields)
}

pub(crate) fn explanation<'py>(py: Python<'py>, e: &Explanation) -> PyResult<Bound<'py, PyAny>> {
    let candidates = e.candidates.iter().map(|c| candidate(py, c)).collect::<PyResult<Vec<_>>>()?;
    let fields = fields![py, e.pool.as_str(), e.balance.as_str(), e.generation, PyTuple::new(py, candidates)?];
    call(py, &types(py)?.explanation, fields)
}
