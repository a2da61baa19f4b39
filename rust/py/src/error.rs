//! Engine errors as Python exceptions.

use pyo3::exceptions::{PyKeyError, PyOSError, PyValueError};
use pyo3::prelude::*;
use spliceway_engine::EngineError;

/// The exception that stands for `error`.
pub(crate) fn to_python(py: Python<'_>, error: &EngineError) -> PyErr {
    match error {
        EngineError::Config(_) | EngineError::Spec(_) => PyValueError::new_err(error.to_string()),
        EngineError::Closed => own(py, "EngineClosedError", &error.to_string()),
        EngineError::AlreadyStarted => own(py, "EngineError", &error.to_string()),
        EngineError::UnknownListener(_) | EngineError::UnknownPool(_) => PyKeyError::new_err(error.to_string()),
        EngineError::Io { source, .. } => match source.raw_os_error() {
            Some(errno) => PyOSError::new_err((errno, error.to_string())),
            None => PyOSError::new_err(error.to_string()),
        },
    }
}

/// The handle is used in a forked child.
pub(crate) fn forked(py: Python<'_>) -> PyErr {
    own(
        py,
        "EngineForkedError",
        "this engine belongs to the parent process: threads do not survive fork; make a new Engine in the child",
    )
}

/// An exception of `spliceway.errors`; the import costs something only when there is an error.
fn own(py: Python<'_>, name: &str, message: &str) -> PyErr {
    let class = py.import("spliceway.errors").and_then(|module| module.getattr(name));
    match class.and_then(|class| class.call1((message,))) {
        Ok(value) => PyErr::from_value(value),
        Err(error) => error,
    }
}
