//! Element types as NumPy knows them, without NumPy's C API: it is imported when first needed.

use pyo3::exceptions::{PyImportError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::dtype::{DType, quantised};

/// A type given by name, as a NumPy dtype, or as anything that NumPy makes one of.
#[derive(Clone, Copy)]
pub(super) struct DTypeArg(pub(super) DType);

impl<'a, 'py> FromPyObject<'a, 'py> for DTypeArg {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if object.is_none() {
            // NumPy would take it as float64.
            return Err(PyTypeError::new_err("expected a dtype, found None"));
        }
        let name: String = if object.is_instance_of::<PyString>() {
            object.extract()?
        } else {
            object
                .py()
                .import("numpy")?
                .call_method1("dtype", (object,))?
                .getattr("name")?
                .extract()?
        };
        DType::from_name(&name).map(DTypeArg).ok_or_else(|| {
            let known: Vec<_> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
            PyValueError::new_err(format!(
                "unknown dtype {name:?}; expected one of {}",
                known.join(", ")
            ))
        })
    }
}

/// Whether NumPy itself has the type.
pub(super) fn is_native(dtype: DType) -> bool {
    !dtype.is_quantized() && !matches!(dtype, DType::BF16 | DType::F8E4M3 | DType::F8E5M2)
}

/// NumPy's dtype, or that of ml_dtypes where NumPy has none.
///
/// # Errors
/// ImportError when ml_dtypes is needed and not installed; TypeError for block-quantised types.
pub(super) fn numpy_dtype(py: Python<'_>, dtype: DType) -> PyResult<Bound<'_, PyAny>> {
    let numpy = py.import("numpy")?;
    if is_native(dtype) {
        return numpy.call_method1("dtype", (dtype.name(),));
    }
    if dtype.is_quantized() {
        return Err(PyTypeError::new_err(format!(
            "NumPy has no {dtype}: its elements are packed in blocks; dequantise them, e.g. to float32"
        )));
    }
    let ml_dtypes = py.import("ml_dtypes").map_err(|_| {
        PyImportError::new_err(format!(
            "NumPy has no {dtype}: install ml_dtypes, or convert, e.g. to float32"
        ))
    })?;
    numpy.call_method1("dtype", (ml_dtypes.getattr(dtype.name())?,))
}

/// The type of a NumPy array's elements.
///
/// # Errors
/// TypeError when a tensor can't have it.
pub(super) fn dtype_of(array: &Bound<'_, PyAny>) -> PyResult<DType> {
    let name: String = array.getattr("dtype")?.getattr("name")?.extract()?;
    DType::from_name(&name)
        .ok_or_else(|| PyTypeError::new_err(format!("an array of dtype {name} can't be a tensor")))
}

/// The array interface's name of the type, or of an unsigned one as wide where NumPy lacks it.
pub(super) fn type_string(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "<f8",
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::I16 => "<i2",
        DType::I8 => "|i1",
        DType::U64 => "<u8",
        DType::U32 => "<u4",
        DType::U16 | DType::BF16 => "<u2",
        DType::Bool => "|b1",
        DType::U8 | DType::F8E4M3 | DType::F8E5M2 => "|u1",
        quantised!() => unreachable!("blocks have no array elements"),
    }
}
