//! `Device`, `DeviceInfo`, `Event`.

use std::time::{Duration, Instant};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::dispatch::PyKernelDispatchController;
use super::memory::PyMemoryPool;
use super::transfer::PyAsyncEngine;
use crate::device::{Device, DeviceInfo, Event};
use crate::error::Error;
use crate::memory::MemoryPool;

/// How long a wait may keep a signal such as Ctrl-C from being seen.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyDevice>()?;
    module.add_class::<PyDeviceInfo>()?;
    module.add_class::<PyEvent>()
}

/// A device that tensors live on and kernels run on.
///
/// It has a default pool, an engine and a controller. Devices of the same name are equal.
///
/// Args:
///     name: "cpu"; "cuda:N" for the NVIDIA GPU of that number; "cuda" for the first GPU that can be
///         used; "auto" for that, or for the CPU where there is none.
///
/// Raises:
///     DeviceError: The name isn't known, or the device can't be used here: the message says what is
///         missing and what to do.
#[pyclass(name = "Device", module = "pygpukit.core", frozen, eq, hash)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PyDevice(pub(super) Device);

#[pymethods]
impl PyDevice {
    #[new]
    #[pyo3(text_signature = "(name)")]
    fn new(name: DeviceArg) -> Self {
        PyDevice(name.0)
    }

    /// The name: "cpu" or "cuda:N".
    #[getter]
    fn name(&self) -> String {
        self.0.to_string()
    }

    /// What the device is, as of now.
    fn info(&self, py: Python<'_>) -> PyDeviceInfo {
        PyDeviceInfo(py.detach(|| self.0.backend().info()))
    }

    /// The pool that tensors come from unless another is given; it has no quota at first.
    #[getter]
    fn pool(&self) -> PyMemoryPool {
        PyMemoryPool(MemoryPool::default_of(self.0).clone())
    }

    /// The engine that copies to and from the device.
    #[getter]
    fn engine(&self) -> PyAsyncEngine {
        PyAsyncEngine::of(self.0)
    }

    /// The controller that launches on the device.
    #[getter]
    fn controller(&self) -> PyKernelDispatchController {
        PyKernelDispatchController::of(self.0)
    }

    fn __str__(&self) -> String {
        self.name()
    }

    fn __repr__(&self) -> String {
        format!("Device('{}')", self.0)
    }
}

/// A device given as a `Device` or by name.
pub(super) struct DeviceArg(pub(super) Device);

impl<'a, 'py> FromPyObject<'a, 'py> for DeviceArg {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(device) = object.cast::<PyDevice>() {
            return Ok(DeviceArg(device.get().0));
        }
        let name: String = object.extract().map_err(|_| {
            let found = object.get_type();
            PyTypeError::new_err(format!("expected a Device or its name, found {found}"))
        })?;
        // Opening a GPU takes a while.
        Ok(DeviceArg(object.py().detach(|| name.parse())?))
    }
}

/// What a device is, as of the moment that it was asked.
#[pyclass(name = "DeviceInfo", module = "pygpukit.core", frozen)]
pub(super) struct PyDeviceInfo(DeviceInfo);

#[pymethods]
impl PyDeviceInfo {
    /// The model name, as the hardware reports it.
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    /// Logical cores that this process may use; multiprocessors of a GPU.
    #[getter]
    fn cores(&self) -> usize {
        self.0.cores
    }

    /// Bytes of memory that there are, or that this process may use where that is less.
    #[getter]
    fn total_memory(&self) -> u64 {
        self.0.memory.total
    }

    /// Bytes of memory that could be allocated.
    #[getter]
    fn available_memory(&self) -> u64 {
        self.0.memory.available
    }

    /// The compute capability of a GPU, e.g. (9, 0); else None.
    #[getter]
    fn compute_capability(&self) -> Option<(u32, u32)> {
        self.0.capability
    }

    /// The CUDA version that a GPU's driver supports, e.g. (13, 0); else None.
    #[getter]
    fn cuda_version(&self) -> Option<(u32, u32)> {
        self.0.driver
    }

    fn __repr__(&self) -> String {
        let DeviceInfo { name, cores, memory, capability, driver } = &self.0;
        let version = |(major, minor): &(u32, u32)| format!("({major}, {minor})");
        let gpu = capability.iter().zip(driver).map(|(capability, driver)| {
            let (capability, driver) = (version(capability), version(driver));
            format!(", compute_capability={capability}, cuda_version={driver}")
        });
        format!(
            "DeviceInfo(name='{name}', cores={cores}, total_memory={}, available_memory={}{})",
            memory.total,
            memory.available,
            gpu.collect::<String>()
        )
    }
}

/// The end of a copy that runs beside the calling thread, to be waited for.
#[pyclass(name = "Event", module = "pygpukit.core", frozen)]
pub(super) struct PyEvent(pub(super) Event);

#[pymethods]
impl PyEvent {
    /// Whether the copy has ended, well or badly.
    #[getter]
    fn ready(&self) -> bool {
        self.0.is_complete()
    }

    /// Waits for the end of the copy. Ctrl-C interrupts it.
    ///
    /// Args:
    ///     timeout: The most seconds to wait.
    ///
    /// Returns:
    ///     Whether the copy has ended.
    ///
    /// Raises:
    ///     PygpukitError: What went wrong with the copy, e.g. LoadError when a file couldn't be
    ///         read.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let timeout = match timeout {
            Some(seconds) if seconds.is_nan() => {
                return Err(PyValueError::new_err("timeout is not a number"));
            }
            // More seconds than a duration holds are as good as no limit.
            Some(seconds) => Duration::try_from_secs_f64(seconds.max(0.0)).ok(),
            None => None,
        };
        wait(py, &self.0, timeout)
    }

    fn __repr__(&self) -> &'static str {
        match self.0.outcome_now() {
            None => "<Event under way>",
            Some(Ok(())) => "<Event done>",
            Some(Err(_)) => "<Event failed>",
        }
    }
}

/// Waits for `event`, other Python threads running meanwhile and signals being seen. Returns whether
/// it is complete.
pub(super) fn wait(py: Python<'_>, event: &Event, timeout: Option<Duration>) -> PyResult<bool> {
    let start = Instant::now();
    loop {
        let left = timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
        let pause = left.unwrap_or(SIGNAL_INTERVAL).min(SIGNAL_INTERVAL);
        if let Some(outcome) = py.detach(|| event.wait_timeout(pause)) {
            return outcome.map(|()| true).map_err(|failure| Error::from(failure).into());
        }
        py.check_signals()?;
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
    }
}
