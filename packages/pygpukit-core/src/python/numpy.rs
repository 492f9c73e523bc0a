//! NumPy arrays to tensors and tensors to NumPy arrays, converted on the way where that is asked for.

use std::ffi::CStr;
use std::slice;

use pyo3::buffer::{ElementType, PyBuffer, PyUntypedBuffer};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyTuple};

use super::array::HostElements;
use super::dtype::{dtype_of, numpy_dtype};
use crate::convert;
use crate::dtype::DType;
use crate::memory::Tensor;
use crate::transfer::AsyncEngine;

/// The elements of an array in row-major order and native byte order.
pub(super) struct ArrayBytes {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    bytes: Bytes,
}

enum Bytes {
    /// The array's own, held in place.
    Array(PyUntypedBuffer),
    Converted(Vec<u8>),
}

impl ArrayBytes {
    /// Reads anything that NumPy makes an array of, converted to `dtype` if one is given.
    pub(super) fn new(array: &Bound<'_, PyAny>, dtype: Option<DType>) -> PyResult<Self> {
        let py = array.py();
        let reads_as_wanted =
            |found| dtype.is_none_or(|wanted| wanted == found || convert::supports(found, wanted));
        if let Some(found) = Self::of_buffer(array).filter(|found| reads_as_wanted(found.dtype)) {
            return Ok(found.converted(py, dtype));
        }
        let mut array = native_array(array)?;
        let mut found = dtype_of(&array)?;
        if let Some(wanted) = dtype.filter(|_| !reads_as_wanted(found)) {
            array = array.call_method1("astype", (numpy_dtype(py, wanted)?,))?;
            found = wanted;
        }
        Ok(Self::of_array(&array, found)?.converted(py, dtype))
    }

    /// A buffer that can be read as it is, e.g. an `array.array`: what NumPy would find in it, without
    /// the tenth of a second that importing NumPy takes.
    fn of_buffer(array: &Bound<'_, PyAny>) -> Option<Self> {
        let buffer = PyUntypedBuffer::get(array).ok()?;
        if buffer.dimensions() == 0 || !buffer.is_c_contiguous() {
            return None;
        }
        let dtype = native_dtype(buffer.format())?;
        Some(ArrayBytes { dtype, shape: buffer.shape().to_vec(), bytes: Bytes::Array(buffer) })
    }

    /// A NumPy array in row-major order of elements of type `dtype`.
    fn of_array(array: &Bound<'_, PyAny>, dtype: DType) -> PyResult<Self> {
        let shape = array.getattr("shape")?.extract()?;
        let bytes = array.call_method1("reshape", (-1,))?.call_method1("view", ("uint8",))?;
        Ok(ArrayBytes { dtype, shape, bytes: Bytes::Array(PyUntypedBuffer::get(&bytes)?) })
    }

    /// The elements' bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Array(buffer) if buffer.len_bytes() == 0 => &[],
            // SAFETY: a contiguous buffer of that many bytes, kept in place by `self`. Another thread
            // that writes the array while it is being read breaks the array's contract, not ours.
            Bytes::Array(buffer) => unsafe {
                slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.len_bytes())
            },
            Bytes::Converted(bytes) => bytes,
        }
    }

    /// The same elements as type `dtype`, if one is given.
    fn converted(self, py: Python<'_>, dtype: Option<DType>) -> Self {
        match dtype {
            Some(dtype) if dtype != self.dtype => {
                let (from, input) = (self.dtype, self.bytes());
                let bytes = py.detach(|| convert::convert(from, dtype, input));
                ArrayBytes { dtype, shape: self.shape, bytes: Bytes::Converted(bytes) }
            }
            _ => self,
        }
    }
}

/// `array` as a NumPy array in row-major order and native byte order.
fn native_array<'py>(array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = array.py();
    let order = [("order", "C")].into_py_dict(py)?;
    let array = py.import("numpy")?.call_method("asarray", (array,), Some(&order))?;
    let dtype = array.getattr("dtype")?;
    if dtype.getattr("isnative")?.extract()? {
        return Ok(array);
    }
    array.call_method1("astype", (dtype.call_method1("newbyteorder", ("=",))?,))
}

/// The type of a buffer's elements; `None` unless they are numbers in native byte order.
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

/// A new array with the tensor's elements as type `wanted`.
pub(super) fn download<'py>(
    py: Python<'py>,
    engine: &AsyncEngine,
    tensor: &Tensor,
    wanted: DType,
) -> PyResult<Bound<'py, PyAny>> {
    let stored = tensor.dtype();
    if stored == wanted {
        return copy_out(py, engine, tensor);
    }
    if !convert::supports(stored, wanted) {
        return copy_out(py, engine, tensor)?.call_method1("astype", (numpy_dtype(py, wanted)?,));
    }
    let elements = py.detach(|| {
        let mut bytes = vec![0; tensor.nbytes()];
        engine.download(tensor, &mut bytes)?;
        HostElements::owned(convert::convert(stored, wanted, &bytes), wanted, tensor.shape())
    })?;
    elements.into_numpy(py)
}

/// A new array with the tensor's elements, of its own type.
fn copy_out<'py>(
    py: Python<'py>,
    engine: &AsyncEngine,
    tensor: &Tensor,
) -> PyResult<Bound<'py, PyAny>> {
    let dtype = numpy_dtype(py, tensor.dtype())?;
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
