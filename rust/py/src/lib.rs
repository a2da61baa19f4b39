//! The extension module `spliceway._engine`: Python values in, engine calls, Python values out. No decisions here.
//!
//! The documentation of the Python face is in `python/spliceway/_engine.pyi`.

mod convert;
mod engine;
mod error;

use pyo3::prelude::*;

/// The compiled engine; see `spliceway.Engine` for the face that hosts use.
#[pymodule(name = "_engine")]
mod spliceway_engine_module {
    use pyo3::prelude::*;
    use pyo3::types::PyTuple;
    use spliceway_core::histogram::BUCKETS;

    #[pymodule_export]
    use crate::engine::Engine;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("CONNECT_BUCKETS", PyTuple::new(py, BUCKETS)?)?;
        crate::convert::add_types(module)
    }
}
