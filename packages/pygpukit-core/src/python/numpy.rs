//! Tensors from and to NumPy arrays, without NumPy's C API: NumPy is imported when it is first needed.

use std::ffi::CStr;
use std::slice;

use pyo3::buffer::{ElementType, PyBuffer, PyUntypedBuffer};
use pyo3::exceptions::{PyImportError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyString, PyTuple};

use crate::dtype::DType;
use crate::memory::Tensor;
use crate::transfer::AsyncEngine;

/// A dtype given by name, as a NumPy dtype or as a NumPy scalar type.
#[derive(Clone, Copy)]
pub(super) struct DTypeArg(pub(super) DType);

impl<'a, 'py> FromPyObject<'a, 'py> for DTypeArg {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let name = if object.is_instance_of::<PyString>() {
            object.to_owned()
        } else {
            object.getattr_opt("name")?.map_or_else(|| object.getattr("__name__"), Ok)?
        };
        let name: String = name.extract()?;
        DType::from_name(&name).map(DTypeArg).ok_or_else(|| {
            let known: Vec<_> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
            PyValueError::new_err(format!(
                "unknown dtype {name:?}; expected one of {}",
                known.join(", ")
            ))
        })
    }
}

/// The elements of an array in row-major order and native byte order, held in place.
pub(super) struct HostArray {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    buffer: PyUntypedBuffer,
}

impl HostArray {
    /// Reads anything that NumPy makes an array of, converted to `dtype` if one is given.
    pub(super) fn new(array: &Bound<'_, PyAny>, dtype: Option<DType>) -> PyResult<Self> {
        match Self::of_buffer(array) {
            Some(found) if dtype.is_none_or(|dtype| dtype == found.dtype) => Ok(found),
            _ => Self::through_numpy(array, dtype),
        }
    }

    /// A buffer that can be read as it is, e.g. an `array.array`: what NumPy would find in it, without
    /// the tenth of a second that importing NumPy takes.
    fn of_buffer(array: &Bound<'_, PyAny>) -> Option<Self> {
        let buffer = PyUntypedBuffer::get(array).ok()?;
        if buffer.dimensions() == 0 || !buffer.is_c_contiguous() {
            return None;
        }
        let dtype = native_dtype(buffer.format())?;
        Some(HostArray { dtype, shape: buffer.shape().to_vec(), buffer })
    }

    fn through_numpy(array: &Bound<'_, PyAny>, dtype: Option<DType>) -> PyResult<Self> {
        let py = array.py();
        let numpy = py.import("numpy")?;
        let order = [("order", "C")].into_py_dict(py)?;
        let mut array = numpy.call_method("asarray", (array,), Some(&order))?;
        if !array.getattr("dtype")?.getattr("isnative")?.extract::<bool>()? {
            let native = array.getattr("dtype")?.call_method1("newbyteorder", ("=",))?;
            array = array.call_method1("astype", (native,))?;
        }
        let mut found = dtype_of(&array)?;
        if let Some(dtype) = dtype.filter(|&dtype| dtype != found) {
            array = array.call_method1("astype", (dtype_object(py, dtype)?,))?;
            found = dtype;
        }
        let shape = array.getattr("shape")?.extract()?;
        let bytes = array.call_method1("reshape", (-1,))?.call_method1("view", ("uint8",))?;
        Ok(HostArray { dtype: found, shape, buffer: PyUntypedBuffer::get(&bytes)? })
    }

    /// The elements' bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        if self.buffer.len_bytes() == 0 {
            return &[];
        }
        // SAFETY: a contiguous buffer of that many bytes, kept in place by `self`. Another thread that
        // writes the array while it is being copied breaks the contract of the array, not ours.
        unsafe { slice::from_raw_parts(self.buffer.buf_ptr().cast(), self.buffer.len_bytes()) }
    }
}

/// The dtype of a buffer's elements; None unless they are numbers in native byte order.
fn native_dtype(format: &CStr) -> Option<DType> {
    if matches!(format.to_bytes().first(), Some(b'<' | b'>' | b'!')) {
        return None;
    }
    match ElementType::from_format(format) {
        ElementType::Float { bytes: 8 } => Some(DType::F64),
        ElementType::Float { bytes: 4 } => Some(DType::F32),
        ElementType::Float { bytes: 2 } => Some(DType::F16),
        ElementType::SignedInteger { bytes: 8 } => Some(DType::I64),
        ElementType::SignedInteger { bytes: 4 } => Some(DType::I32),
        ElementType::SignedInteger { bytes: 2 } => Some(DType::I16),
        ElementType::SignedInteger { bytes: 1 } => Some(DType::I8),
        ElementType::UnsignedInteger { bytes: 8 } => Some(DType::U64),
        ElementType::UnsignedInteger { bytes: 4 } => Some(DType::U32),
        ElementType::UnsignedInteger { bytes: 2 } => Some(DType::U16),
        ElementType::UnsignedInteger { bytes: 1 } => Some(DType::U8),
        _ => None,
    }
}

/// The dtype of a NumPy array.
fn dtype_of(array: &Bound<'_, PyAny>) -> PyResult<DType> {
    let name: String = array.getattr("dtype")?.getattr("name")?.extract()?;
    DType::from_name(&name)
        .ok_or_else(|| PyTypeError::new_err(format!("an array of dtype {name} can't be a tensor")))
}

/// NumPy's dtype, or that of ml_dtypes where NumPy has none.
///
/// # Errors
/// ImportError when ml_dtypes is needed and not installed; TypeError for block-quantised types.
fn dtype_object(py: Python<'_>, dtype: DType) -> PyResult<Bound<'_, PyAny>> {
    match dtype {
        DType::BF16 | DType::F8E4M3 | DType::F8E5M2 => {
            let ml_dtypes = py.import("ml_dtypes").map_err(|_| {
                PyImportError::new_err(format!("NumPy has no {dtype}: install ml_dtypes"))
            })?;
            py.import("numpy")?.call_method1("dtype", (ml_dtypes.getattr(dtype.name())?,))
        }
        DType::Q4_0 | DType::Q4_1 | DType::Q8_0 => {
            Err(PyTypeError::new_err(format!("{dtype} has no NumPy dtype")))
        }
        _ => py.import("numpy")?.call_method1("dtype", (dtype.name(),)),
    }
}

/// A new array with the tensor's elements.
pub(super) fn download<'py>(
    py: Python<'py>,
    engine: &AsyncEngine,
    tensor: &Tensor,
) -> PyResult<Bound<'py, PyAny>> {
    let dtype = dtype_object(py, tensor.dtype())?;
    let bytes = py.import("numpy")?.call_method1("empty", (tensor.nbytes(), "uint8"))?;
    let buffer = PyBuffer::<u8>::get(&bytes)?;
    if tensor.nbytes() > 0 {
        // SAFETY: a new contiguous array of that many bytes, which nobody else knows yet.
        let out =
            unsafe { slice::from_raw_parts_mut(buffer.buf_ptr().cast::<u8>(), tensor.nbytes()) };
        py.detach(|| engine.download(tensor, out))?;
    }
    let shape = PyTuple::new(py, tensor.shape())?;
    bytes.call_method1("view", (dtype,))?.call_method1("reshape", (shape,))
}

/// An array over the tensor's own memory, which it keeps alive.
pub(super) fn share<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    let dtype = dtype_object(py, tensor.dtype())?;
    let memory = Bound::new(py, TensorMemory(tensor.clone()))?;
    let array = py.import("numpy")?.call_method1("asarray", (memory,))?;
    if has_numpy_dtype(tensor.dtype()) { Ok(array) } else { array.call_method1("view", (dtype,)) }
}

/// Whether NumPy itself has the type.
pub(super) fn has_numpy_dtype(dtype: DType) -> bool {
    !dtype.is_quantized() && !matches!(dtype, DType::BF16 | DType::F8E4M3 | DType::F8E5M2)
}

/// NumPy's array interface of a tensor, its elements as unsigned numbers of the same width where
/// NumPy lacks the type.
pub(super) fn array_interface<'py>(
    py: Python<'py>,
    tensor: &Tensor,
) -> PyResult<Bound<'py, PyDict>> {
    let size = tensor.dtype().block_bytes();
    let strides = tensor.layout().strides().iter().map(|stride| stride * size);
    let interface = PyDict::new(py);
    interface.set_item("version", 3)?;
    interface.set_item("shape", PyTuple::new(py, tensor.shape())?)?;
    interface.set_item("strides", PyTuple::new(py, strides.collect::<Vec<_>>())?)?;
    interface.set_item("typestr", type_string(tensor.dtype()))?;
    interface.set_item("data", (tensor.address().addr(), false))?;
    Ok(interface)
}

fn type_string(dtype: DType) -> &'static str {
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
        DType::Q4_0 | DType::Q4_1 | DType::Q8_0 => "|u1",
    }
}

/// What an array over a tensor's memory keeps alive.
#[pyclass(module = "pygpukit.core", frozen)]
struct TensorMemory(Tensor);

#[pymethods]
impl TensorMemory {
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        array_interface(py, &self.0)
    }
}
