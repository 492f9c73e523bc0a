//! The exceptions that Python sees.

use pyo3::create_exception;
use pyo3::exceptions::{
    PyException, PyFileNotFoundError, PyIndexError, PyKeyError, PyMemoryError, PyRuntimeError,
    PyValueError,
};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::device::DeviceError;
use crate::dispatch::LaunchError;
use crate::error::Error;
use crate::loader::LoadError;
use crate::memory::{OutOfMemory, TensorError};
use crate::scheduler::Refusal;

/// The module that users import the exceptions from.
const MODULE: &str = "pygpukit.core";

create_exception!(pygpukit.core, PygpukitError, PyException, "Base of the errors of pygpukit.");

static DEVICE_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static OUT_OF_MEMORY_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static TRANSFER_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static LAUNCH_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static KERNEL_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static LOAD_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static MISSING_FILE_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static UNKNOWN_TENSOR_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();

static REQUEST_REFUSED_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static QUEUE_FULL_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// Adds the exceptions to the native module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("PygpukitError", py.get_type::<PygpukitError>())?;
    module.add("DeviceError", device_error(py)?)?;
    let out_of_memory = out_of_memory_error(py)?;
    for count in ["needed", "free", "held"] {
        out_of_memory.setattr(count, 0)?;
    }
    module.add("OutOfMemoryError", out_of_memory)?;
    module.add("TransferError", transfer_error(py)?)?;
    module.add("LaunchError", launch_error(py)?)?;
    module.add("KernelError", kernel_error(py)?)?;
    module.add("LoadError", load_error(py)?)?;
    module.add("MissingFileError", missing_file_error(py)?)?;
    module.add("UnknownTensorError", unknown_tensor_error(py)?)?;
    module.add("RequestRefusedError", request_refused_error(py)?)?;
    module.add("QueueFullError", queue_full_error(py)?)
}

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        Python::attach(|py| to_exception(py, &error).unwrap_or_else(|failure| failure))
    }
}

macro_rules! from_module_errors {
    ($($error:ty),*) => {
        $(impl From<$error> for PyErr {
            fn from(error: $error) -> PyErr {
                Error::from(error).into()
            }
        })*
    };
}

from_module_errors!(DeviceError, LaunchError, LoadError, OutOfMemory, TensorError);

fn to_exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let exception = PyErr::from_type(exception_of(py, error)?, error.to_string());
    if let Error::OutOfMemory(OutOfMemory { needed, free, held, .. }) = error {
        let value = exception.value(py);
        value.setattr("needed", needed)?;
        value.setattr("free", free)?;
        value.setattr("held", held)?;
    }
    Ok(exception)
}

/// The exception that tells why a request isn't taken.
pub(super) fn refused(py: Python<'_>, refusal: &Refusal) -> PyResult<PyErr> {
    let class = match refusal {
        Refusal::QueueFull { .. } => queue_full_error(py)?,
        _ => request_refused_error(py)?,
    };
    Ok(PyErr::from_type(class.clone(), refusal.to_string()))
}

/// The class of the exception that tells `error`.
fn exception_of<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyType>> {
    let exception = match error {
        Error::Device(_) => device_error(py)?,
        Error::OutOfMemory(_) => out_of_memory_error(py)?,
        Error::Transfer(_) => transfer_error(py)?,
        Error::Launch(_) => launch_error(py)?,
        Error::Kernel(_) => kernel_error(py)?,
        Error::Failed(failure) => return exception_of(py, failure.cause()),
        Error::Tensor(TensorError::Index { .. } | TensorError::Dimension { .. }) => {
            return Ok(py.get_type::<PyIndexError>());
        }
        Error::Tensor(_) => return Ok(py.get_type::<PyValueError>()),
        Error::Load(LoadError::MissingFile { .. } | LoadError::MissingShards { .. }) => {
            missing_file_error(py)?
        }
        Error::Load(LoadError::UnknownTensor { .. }) => unknown_tensor_error(py)?,
        Error::Load(_) => load_error(py)?,
    };
    Ok(exception.clone())
}

fn device_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    let doc = "A device isn't known, or can't be used here.";
    exception(py, &DEVICE_ERROR, "DeviceError", doc, || {
        Ok((py.get_type::<PygpukitError>(), py.get_type::<PyRuntimeError>()))
    })
}

fn out_of_memory_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    let doc = "Neither the pool nor the device has the memory.\n\n\
               Attributes:\n    \
                   needed: Bytes of the block that was needed.\n    \
                   free: Bytes that could be had.\n    \
                   held: Bytes that the pool holds, in use or ready for reuse.";
    exception(py, &OUT_OF_MEMORY_ERROR, "OutOfMemoryError", doc, || {
        Ok((py.get_type::<PygpukitError>(), py.get_type::<PyMemoryError>()))
    })
}

fn transfer_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    let doc = "A copy between host and device was refused.";
    exception(py, &TRANSFER_ERROR, "TransferError", doc, || {
        Ok((py.get_type::<PygpukitError>(), py.get_type::<PyValueError>()))
    })
}

fn launch_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    let doc = "A launch was refused before it ran: unknown kernel, or arguments that don't fit.";
    exception(py, &LAUNCH_ERROR, "LaunchError", doc, || {
        Ok((py.get_type::<PygpukitError>(), py.get_type::<PyValueError>()))
    })
}

fn kernel_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    let doc = "A kernel broke while it ran, or couldn't be launched; what it was to write is unspecified.";
    exception(py, &KERNEL_ERROR, "KernelError", doc, || {
        Ok((py.get_type::<PygpukitError>(), py.get_type::<PyRuntimeError>()))
    })
}

fn load_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    exception(py, &LOAD_ERROR, "LoadError", "A weight file was refused, or a tensor in it.", || {
        Ok((py.get_type::<PygpukitError>(), py.get_type::<PyValueError>()))
    })
}

fn missing_file_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    let doc = "A weight file, or a shard of a checkpoint, isn't there.";
    exception(py, &MISSING_FILE_ERROR, "MissingFileError", doc, || {
        Ok((load_error(py)?.clone(), py.get_type::<PyFileNotFoundError>()))
    })
}

fn unknown_tensor_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    let doc = "A checkpoint holds no tensor of that name.";
    exception(py, &UNKNOWN_TENSOR_ERROR, "UnknownTensorError", doc, || {
        Ok((load_error(py)?.clone(), py.get_type::<PyKeyError>()))
    })
}

fn request_refused_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    let doc = "A scheduler can't take a request.";
    exception(py, &REQUEST_REFUSED_ERROR, "RequestRefusedError", doc, || {
        Ok((py.get_type::<PygpukitError>(), py.get_type::<PyValueError>()))
    })
}

fn queue_full_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    let doc = "As many requests are waiting as may; later there may be room.";
    exception(py, &QUEUE_FULL_ERROR, "QueueFullError", doc, || {
        Ok((request_refused_error(py)?.clone(), py.get_type::<PyRuntimeError>()))
    })
}

/// The exception in `cell`, made on first use: one with two bases, one of them a built-in.
fn exception<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyType>>,
    name: &str,
    doc: &str,
    bases: impl FnOnce() -> PyResult<(Bound<'py, PyType>, Bound<'py, PyType>)>,
) -> PyResult<&'py Bound<'py, PyType>> {
    let class = cell.get_or_try_init(py, || {
        let (ours, builtin) = bases()?;
        let namespace = PyDict::new(py);
        namespace.set_item("__module__", MODULE)?;
        namespace.set_item("__doc__", doc)?;
        // KeyError would show the message quoted.
        namespace.set_item("__str__", py.get_type::<PyException>().getattr("__str__")?)?;
        let bases = PyTuple::new(py, [ours, builtin])?;
        let class = py.get_type::<PyType>().call1((name, bases, namespace))?;
        Ok::<_, PyErr>(class.cast_into::<PyType>()?.unbind())
    })?;
    Ok(class.bind(py))
}
