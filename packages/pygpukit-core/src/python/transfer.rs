//! `AsyncEngine`, `TransferStats`.

use pyo3::prelude::*;

use super::device::{PyDevice, PyEvent};
use super::numpy;
use super::tensor::PyTensor;
use super::tensor_view::PyTensorView;
use crate::device::Device;
use crate::transfer::{AsyncEngine, TransferStats};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyAsyncEngine>()?;
    module.add_class::<PyTransferStats>()
}

/// The copies between the host and one device: `device.engine`.
///
/// Uploads out of weight files run beside the calling thread, any number at once, on a bounded set
/// of threads; launches and host access wait for the tensors that they need.
#[pyclass(name = "AsyncEngine", module = "pygpukit.core", frozen)]
pub(super) struct PyAsyncEngine(&'static AsyncEngine);

impl PyAsyncEngine {
    pub(super) fn of(device: Device) -> Self {
        PyAsyncEngine(AsyncEngine::default_of(device))
    }
}

#[pymethods]
impl PyAsyncEngine {
    /// The device that it copies to and from.
    #[getter]
    fn device(&self) -> PyDevice {
        PyDevice(self.0.device())
    }

    /// The most threads that fill tensors at a time.
    #[getter]
    fn max_threads(&self) -> usize {
        self.0.max_threads()
    }

    /// Starts filling a tensor with the elements of a tensor in a weight file.
    ///
    /// Args:
    ///     source: The tensor in the file; its elements are converted to the dtype of `tensor`.
    ///     tensor: A contiguous tensor of the same shape, such as rows of a larger one.
    ///
    /// Returns:
    ///     The event of the end of the copy. Waiting for the tensor waits for it too.
    ///
    /// Raises:
    ///     ValueError: The shapes differ.
    ///     LoadError: The file's type can't be read or converted.
    ///     TransferError: The tensor has gaps between its elements.
    #[pyo3(signature = (source, tensor, /))]
    fn upload(
        &self,
        py: Python<'_>,
        source: &PyTensorView,
        tensor: &PyTensor,
    ) -> PyResult<PyEvent> {
        Ok(PyEvent(py.detach(|| self.0.upload_view(&source.view, &tensor.0))?))
    }

    /// Copies a tensor to a new NumPy array, as `Tensor.numpy` does.
    #[pyo3(signature = (tensor, /))]
    fn download<'py>(&self, py: Python<'py>, tensor: &PyTensor) -> PyResult<Bound<'py, PyAny>> {
        numpy::download(py, self.0, &tensor.0, tensor.0.dtype())
    }

    /// The counters, as of now.
    fn stats(&self) -> PyTransferStats {
        PyTransferStats(self.0.stats())
    }

    fn __repr__(&self) -> String {
        format!("<AsyncEngine of {}>", self.0.device())
    }
}

/// Counters of an engine since the start of the process.
#[pyclass(name = "TransferStats", module = "pygpukit.core", frozen, eq)]
#[derive(PartialEq)]
pub(super) struct PyTransferStats(TransferStats);

#[pymethods]
impl PyTransferStats {
    /// Bytes that were sent to the device, or are queued to be.
    #[getter]
    fn bytes_uploaded(&self) -> u64 {
        self.0.bytes_uploaded
    }

    /// Bytes that were fetched from the device.
    #[getter]
    fn bytes_downloaded(&self) -> u64 {
        self.0.bytes_downloaded
    }

    /// Copies of any kind.
    #[getter]
    fn copies(&self) -> u64 {
        self.0.copies
    }

    fn __repr__(&self) -> String {
        let TransferStats { bytes_uploaded, bytes_downloaded, copies } = self.0;
        format!(
            "TransferStats(bytes_uploaded={bytes_uploaded}, bytes_downloaded={bytes_downloaded}, \
             copies={copies})"
        )
    }
}
