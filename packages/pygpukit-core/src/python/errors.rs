//! The exceptions that Python sees.

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyFileNotFoundError, PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::error::Error;
use crate::loader::LoadError;

/// The module that users import the exceptions from.
const MODULE: &str = "pygpukit.core";

create_exception!(pygpukit.core, PygpukitError, PyException, "Base of the errors of pygpukit.");

static LOAD_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static MISSING_FILE_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static UNKNOWN_TENSOR_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// Adds the exceptions to the native module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("PygpukitError", py.get_type::<PygpukitError>())?;
    module.add("LoadError", load_error(py)?)?;
    module.add("MissingFileError", missing_file_error(py)?)?;
    module.add("UnknownTensorError", unknown_tensor_error(py)?)
}

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        match error {
            Error::Load(error) => error.into(),
            Error::Launch(error) => PygpukitError::new_err(error.to_string()),
        }
    }
}

impl From<LoadError> for PyErr {
    fn from(error: LoadError) -> PyErr {
        Python::attach(|py| {
            let exception = match error {
                LoadError::MissingFile { .. } | LoadError::MissingShards { .. } => {
                    missing_file_error(py)
                }
                LoadError::UnknownTensor { .. } => unknown_tensor_error(py),
                _ => load_error(py),
            };
            match exception {
                Ok(exception) => PyErr::from_type(exception.clone(), error.to_string()),
                Err(failure) => failure,
            }
        })
    }
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
