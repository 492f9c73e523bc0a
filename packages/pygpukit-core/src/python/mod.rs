//! Python bindings: one thin file for each module. They hold no logic, and let other Python threads
//! run around every wait and copy.

mod array;
mod cuda;
mod device;
mod dispatch;
mod dlpack;
mod dtype;
mod errors;
mod loader;
mod memory;
mod numpy;
mod scheduler;
mod shape;
mod share;
mod simulate;
mod tensor;
mod tensor_view;
mod transfer;

use pyo3::prelude::*;

/// The native module of pygpukit.core, which exports everything in it.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    errors::register(module)?;
    loader::register(module)?;
    cuda::register(module)?;
    device::register(module)?;
    memory::register(module)?;
    tensor::register(module)?;
    transfer::register(module)?;
    dispatch::register(module)?;
    scheduler::register(module)?;
    share::register(module)?;
    simulate::register(module)
}
