//! `MemoryPool`, `PoolStats`.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::device::{DeviceArg, PyDevice};
use crate::device::Device;
use crate::memory::{MemoryPool, PoolStats};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyMemoryPool>()?;
    module.add_class::<PyPoolStats>()
}

/// A pool of device memory.
///
/// Tensors take blocks of it, which are at most an eighth, or a page, larger than the tensor. Freed
/// blocks are kept for reuse; they go back to the device by `trim()`, or by themselves when an
/// allocation would otherwise break the quota or exhaust the device. An allocation that can't be
/// served raises OutOfMemoryError and takes nothing. Threads may share a pool.
///
/// Args:
///     device: The device whose memory it is.
///     quota: The most bytes that it may hold, or None for what the device has.
#[pyclass(name = "MemoryPool", module = "pygpukit.core", frozen)]
pub(super) struct PyMemoryPool(pub(super) Arc<MemoryPool>);

#[pymethods]
impl PyMemoryPool {
    #[new]
    #[pyo3(signature = (device=DeviceArg(Device::Cpu), *, quota=None), text_signature = "(device='cpu', *, quota=None)")]
    fn new(device: DeviceArg, quota: Option<QuotaArg>) -> Self {
        PyMemoryPool(MemoryPool::new(device.0, quota.map(|quota| quota.0)))
    }

    /// The device whose memory it is.
    #[getter]
    fn device(&self) -> PyDevice {
        PyDevice(self.0.device())
    }

    /// The most bytes that the pool may hold, or None for what the device has.
    ///
    /// Lowering it gives free blocks back, never live ones.
    #[getter]
    fn quota(&self) -> Option<usize> {
        self.0.stats().quota
    }

    #[setter]
    fn set_quota(&self, py: Python<'_>, quota: Option<QuotaArg>) {
        py.detach(|| self.0.set_quota(quota.map(|quota| quota.0)));
    }

    /// The counters, as of now.
    fn stats(&self) -> PyPoolStats {
        PyPoolStats(self.0.stats())
    }

    /// Gives every free block back to the device. Returns how many bytes that were.
    fn trim(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.trim())
    }

    fn __eq__(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn __hash__(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn __repr__(&self) -> String {
        let PoolStats { in_use, held, quota, .. } = self.0.stats();
        let quota = quota.map_or("None".to_owned(), |quota| quota.to_string());
        let device = self.0.device();
        format!("<MemoryPool on {device}: in_use={in_use}, held={held}, quota={quota}>")
    }
}

/// A quota: a number of bytes.
struct QuotaArg(usize);

impl<'a, 'py> FromPyObject<'a, 'py> for QuotaArg {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let bytes: i64 = object.extract()?;
        usize::try_from(bytes).map(QuotaArg).map_err(|_| {
            PyValueError::new_err(format!("expected a quota of 0 bytes or more, found {bytes}"))
        })
    }
}

/// The pool that arguments `device` and `pool` ask for.
pub(super) fn pool_of(
    device: Option<DeviceArg>,
    pool: Option<&Bound<'_, PyMemoryPool>>,
) -> PyResult<Arc<MemoryPool>> {
    let Some(pool) = pool else {
        let device = device.map_or(Device::Cpu, |device| device.0);
        return Ok(MemoryPool::default_of(device).clone());
    };
    let pool = &pool.get().0;
    match device {
        Some(device) if device.0 != pool.device() => Err(PyValueError::new_err(format!(
            "device is {} but the pool is of {}; give one of them",
            device.0,
            pool.device()
        ))),
        _ => Ok(Arc::clone(pool)),
    }
}

/// Counters of a pool; sizes are bytes of whole blocks.
#[pyclass(name = "PoolStats", module = "pygpukit.core", frozen, eq)]
#[derive(PartialEq)]
pub(super) struct PyPoolStats(PoolStats);

#[pymethods]
impl PyPoolStats {
    /// Bytes in live blocks.
    #[getter]
    fn in_use(&self) -> usize {
        self.0.in_use
    }

    /// Bytes in live blocks and in free ones kept for reuse.
    #[getter]
    fn held(&self) -> usize {
        self.0.held
    }

    /// The most bytes that were ever in use.
    #[getter]
    fn peak(&self) -> usize {
        self.0.peak
    }

    /// Blocks handed out so far.
    #[getter]
    fn allocations(&self) -> u64 {
        self.0.allocations
    }

    /// Blocks handed out that had been used before.
    #[getter]
    fn reuses(&self) -> u64 {
        self.0.reuses
    }

    /// Blocks in use now.
    #[getter]
    fn live_blocks(&self) -> usize {
        self.0.live_blocks
    }

    fn __repr__(&self) -> String {
        let PoolStats { in_use, held, peak, allocations, reuses, live_blocks, .. } = self.0;
        format!(
            "PoolStats(in_use={in_use}, held={held}, peak={peak}, allocations={allocations}, \
             reuses={reuses}, live_blocks={live_blocks})"
        )
    }
}
