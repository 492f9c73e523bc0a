//! Host memory as NumPy arrays, without NumPy's C API.

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::dtype::DType;
use crate::loader::TensorView;

/// Memory that an array is made over, kept alive by it: the array protocol's version 3.
#[pyclass(module = "pygpukit.core", frozen)]
pub(super) struct HostArray {
    memory: Memory,
    shape: Vec<usize>,
    dtype: DType,
}

/// Where the elements lie.
pub(super) enum Memory {
    /// In a weight file: read-only.
    File(TensorView),
    /// In memory of their own, that nothing but the array touches.
    Owned(Vec<u8>),
}

impl Memory {
    /// The elements of `view`, where they lie in the file if that is possible.
    pub(super) fn of(py: Python<'_>, view: &TensorView) -> PyResult<Memory> {
        match view.bytes() {
            Some(_) => Ok(Memory::File(view.clone())),
            None => Memory::copy_of(py, view),
        }
    }

    /// A copy of the elements of `view`.
    pub(super) fn copy_of(py: Python<'_>, view: &TensorView) -> PyResult<Memory> {
        Ok(Memory::Owned(py.detach(|| view.to_vec())?))
    }

    /// The address of the first element.
    pub(super) fn address(&self) -> usize {
        match self {
            Memory::File(view) => view.bytes().map_or(0, |bytes| bytes.as_ptr().addr()),
            Memory::Owned(bytes) => bytes.as_ptr().addr(),
        }
    }

    /// Whether the elements must not be written to.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Memory::File(_))
    }
}

#[pymethods]
impl HostArray {
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("shape", PyTuple::new(py, &self.shape)?)?;
        interface.set_item("typestr", carrier(self.dtype))?;
        interface.set_item("data", (self.memory.address(), self.memory.is_read_only()))?;
        Ok(interface)
    }
}

/// A NumPy array over `memory`.
///
/// # Errors
/// ImportError when the type is one of `ml_dtypes`, and that isn't installed.
pub(super) fn numpy_array<'py>(
    py: Python<'py>,
    memory: Memory,
    shape: &[usize],
    dtype: DType,
) -> PyResult<Bound<'py, PyAny>> {
    let extended = extended_type(py, dtype)?;
    let array = Bound::new(py, HostArray { memory, shape: shape.into(), dtype })?;
    let array = py.import("numpy")?.call_method1("asarray", (array,))?;
    match extended {
        Some(extended) => array.call_method1("view", (extended,)),
        None => Ok(array),
    }
}

/// The array protocol's name of the type, or of one as wide where NumPy lacks it.
fn carrier(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "<f8",
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::BF16 => "<u2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::I16 => "<i2",
        DType::I8 => "|i1",
        DType::U64 => "<u8",
        DType::U32 => "<u4",
        DType::U16 => "<u2",
        DType::Bool => "|b1",
        DType::U8 | DType::F8E4M3 | DType::F8E5M2 => "|u1",
        DType::Q4_0 | DType::Q4_1 | DType::Q8_0 => "|u1",
    }
}

/// The type of `ml_dtypes` where NumPy has none.
fn extended_type<'py>(py: Python<'py>, dtype: DType) -> PyResult<Option<Bound<'py, PyAny>>> {
    if !matches!(dtype, DType::BF16 | DType::F8E4M3 | DType::F8E5M2) {
        return Ok(None);
    }
    let ml_dtypes = py.import("ml_dtypes").map_err(|_| {
        PyImportError::new_err(format!(
            "NumPy has no {dtype}: install ml_dtypes, or convert with .cast(\"float32\")"
        ))
    })?;
    ml_dtypes.getattr(dtype.name()).map(Some)
}
