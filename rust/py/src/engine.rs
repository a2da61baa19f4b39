//! The handle that Python holds.

use std::net::{IpAddr, SocketAddr};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyList;
use spliceway_engine::engine::Batch;
use spliceway_engine::{Config, EngineError};

use crate::convert::{self, Route, Unroute, Upsert};
use crate::error;

/// See `_engine.pyi`.
#[pyclass(frozen, module = "spliceway._engine")]
pub(crate) struct Engine {
    /// Always there, but for the moment of the drop.
    inner: Option<spliceway_engine::Engine>,
    /// The process whose threads serve it.
    pid: u32,
}

impl Engine {
    fn get(&self, py: Python<'_>) -> PyResult<&spliceway_engine::Engine> {
        self.inner.as_ref().filter(|_| std::process::id() == self.pid).ok_or_else(|| error::forked(py))
    }

    fn checked<T>(py: Python<'_>, result: Result<T, EngineError>) -> PyResult<T> {
        result.map_err(|e| error::to_python(py, &e))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // In a forked child the locks may be held by threads that do not exist there: leave everything as it is.
        if std::process::id() != self.pid {
            std::mem::forget(self.inner.take());
        }
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (*, workers=0, max_flows=1_000_000, max_pipes=1024, event_capacity=4096, max_sessions=1_000_000,
                        udp_timeout=30.0, udp_stream_timeout=120.0, max_affinities=262_144, mark=0))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn new(
        py: Python<'_>,
        workers: i64,
        max_flows: i64,
        max_pipes: i64,
        event_capacity: i64,
        max_sessions: i64,
        udp_timeout: f64,
        udp_stream_timeout: f64,
        max_affinities: i64,
        mark: i64,
    ) -> PyResult<Self> {
        let size = |field: &str, value: i64| {
            usize::try_from(value).map_err(|_| PyValueError::new_err(format!("{field} must not be negative: {value}")))
        };
        let time = |field: &str, value: f64| convert::duration(field, value).map_err(PyValueError::new_err);
        let config = Config {
            workers: size("workers", workers)?,
            max_flows: size("max_flows", max_flows)?,
            max_pipes: size("max_pipes", max_pipes)?,
            event_capacity: size("event_capacity", event_capacity)?,
            max_sessions: size("max_sessions", max_sessions)?,
            udp_timeout: time("udp_timeout", udp_timeout)?,
            udp_stream_timeout: time("udp_stream_timeout", udp_stream_timeout)?,
            max_affinities: size("max_affinities", max_affinities)?,
            mark: u32::try_from(mark)
                .map_err(|_| PyValueError::new_err(format!("mark must be 0 to 4294967295, not {mark}")))?,
        };
        let inner = Self::checked(py, spliceway_engine::Engine::new(config))?;
        Ok(Self { inner: Some(inner), pid: std::process::id() })
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        Self::checked(py, self.get(py)?.start())
    }

    #[pyo3(signature = (upserts, removes, generation, routes=Vec::new(), unroutes=Vec::new()))]
    fn apply(
        &self,
        py: Python<'_>,
        upserts: Vec<Upsert>,
        removes: Vec<String>,
        generation: u64,
        routes: Vec<Route>,
        unroutes: Vec<Unroute>,
    ) -> PyResult<()> {
        let engine = self.get(py)?;
        let upserts = upserts.into_iter().map(convert::pool_spec).collect::<PyResult<Vec<_>>>()?;
        let routes = routes.into_iter().map(convert::route_spec).collect::<PyResult<Vec<_>>>()?;
        let unroutes = unroutes.into_iter().map(convert::route_key).collect::<PyResult<Vec<_>>>()?;
        let batch = Batch { upserts, removes, routes, unroutes, generation };
        let result = py.detach(|| engine.apply(batch));
        Self::checked(py, result)
    }

    fn add_listener(&self, py: Python<'_>, fd: i32, pool: &str) -> PyResult<usize> {
        let engine = self.get(py)?;
        Self::checked(py, py.detach(|| engine.add_listener(fd, pool)))
    }

    fn add_transparent_listener(&self, py: Python<'_>, fd: i32, client_class: &str) -> PyResult<usize> {
        let engine = self.get(py)?;
        Self::checked(py, py.detach(|| engine.add_transparent_listener(fd, client_class)))
    }

    fn retarget_listener(&self, py: Python<'_>, listener: usize, pool: &str) -> PyResult<()> {
        let engine = self.get(py)?;
        Self::checked(py, py.detach(|| engine.retarget_listener(listener, pool)))
    }

    fn remove_listener(&self, py: Python<'_>, listener: usize) -> PyResult<()> {
        let engine = self.get(py)?;
        Self::checked(py, py.detach(|| engine.remove_listener(listener)))
    }

    #[pyo3(signature = (deadline, pool=None))]
    fn drain(&self, py: Python<'_>, deadline: f64, pool: Option<&str>) -> PyResult<()> {
        let deadline = convert::duration("deadline", deadline).map_err(PyValueError::new_err)?;
        let engine = self.get(py)?;
        Self::checked(py, py.detach(|| engine.drain(deadline, pool)))
    }

    fn explain<'py>(&self, py: Python<'py>, pool: &str, host: &str, port: u16) -> PyResult<Bound<'py, PyAny>> {
        let ip: IpAddr =
            host.parse().map_err(|_| PyValueError::new_err(format!("client {host:?} is not an IP address")))?;
        let engine = self.get(py)?;
        let explanation = py.detach(|| engine.explain(pool, SocketAddr::new(ip, port)));
        let explanation = Self::checked(py, explanation)?;
        convert::explanation(py, &explanation)
    }

    #[pyo3(signature = (*, all_pools=true))]
    fn counters<'py>(&self, py: Python<'py>, all_pools: bool) -> PyResult<Bound<'py, PyAny>> {
        let engine = self.get(py)?;
        let counters = py.detach(|| engine.counters(all_pools));
        convert::engine_counters(py, &counters)
    }

    fn pool_counters<'py>(&self, py: Python<'py>, pool: &str) -> PyResult<Bound<'py, PyAny>> {
        let engine = self.get(py)?;
        let counters = Self::checked(py, py.detach(|| engine.pool_counters(pool)))?;
        convert::pool_counters(py, &counters)
    }

    #[pyo3(signature = (limit=1024))]
    fn take_events<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyList>> {
        let events = self.get(py)?.take_events(limit);
        let events = events.iter().map(|e| convert::event(py, e)).collect::<PyResult<Vec<_>>>()?;
        PyList::new(py, events)
    }

    #[getter]
    fn wake_fd(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(self.get(py)?.wake_fd())
    }

    #[getter]
    fn generation(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.get(py)?.generation())
    }

    #[pyo3(signature = (deadline=5.0))]
    fn close(&self, py: Python<'_>, deadline: f64) -> PyResult<()> {
        let deadline = convert::duration("deadline", deadline).map_err(PyValueError::new_err)?;
        let engine = self.get(py)?;
        py.detach(|| engine.close(deadline));
        Ok(())
    }
}
