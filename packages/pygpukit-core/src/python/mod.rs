//! Python bindings: one thin file for each module. They hold no logic, and let other Python threads
//! run around every wait and copy.

mod array;
mod dlpack;
mod errors;
mod loader;
mod tensor_view;

use pyo3::prelude::*;

/// The native module of `pygpukit.core`.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    errors::register(module)?;
    loader::register(module)?;
    Ok(())
}
