//! Elements in host memory as NumPy arrays, without NumPy's C API.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::dtype::{is_native, numpy_dtype, type_string};
use crate::dtype::DType;
use crate::error::Result;
use crate::loader::TensorView;
use crate::memory::{Layout, Tensor, TensorError};

/// Elements in host memory, and what keeps them there.
pub(super) struct HostElements {
    address: usize,
    dtype: DType,
    layout: Layout,
    keeper: Keeper,
}

/// What the elements belong to, and live as long as.
enum Keeper {
    /// A weight file: they are read-only.
    File { _view: TensorView },
    /// A tensor on the host.
    Tensor { _tensor: Tensor },
    /// The array that they are given to, and nothing else.
    Array { _bytes: Vec<u8> },
}

impl HostElements {
    /// The elements of `view` where they lie in the file; `None` when they have to be computed.
    pub(super) fn of_view(view: &TensorView) -> Result<Option<Self>> {
        let dtype = view.dtype()?;
        let in_file = |bytes| Self::in_file(view, bytes, dtype, view.shape());
        view.bytes().map(in_file).transpose()
    }

    /// The bytes that `view` reads, as they are stored.
    pub(super) fn stored_bytes_of(view: &TensorView) -> Result<Self> {
        let bytes = view.stored_bytes();
        Self::in_file(view, bytes, DType::U8, &[bytes.len()])
    }

    /// A copy of the elements of `view`.
    pub(super) fn copy_of_view(view: &TensorView) -> Result<Self> {
        Self::owned(view.to_vec()?, view.dtype()?, view.shape())
    }

    /// The elements of `tensor`, which lives on the host, in place.
    pub(super) fn of_tensor(tensor: &Tensor) -> Self {
        HostElements {
            address: tensor.address().addr(),
            dtype: tensor.dtype(),
            layout: tensor.layout().clone(),
            keeper: Keeper::Tensor { _tensor: tensor.clone() },
        }
    }

    /// The elements of type `dtype` in `bytes`, in row-major order.
    pub(super) fn owned(bytes: Vec<u8>, dtype: DType, shape: &[usize]) -> Result<Self> {
        let address = bytes.as_ptr().addr();
        Self::contiguous(address, dtype, shape, Keeper::Array { _bytes: bytes })
    }

    fn in_file(view: &TensorView, bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Self> {
        let keeper = Keeper::File { _view: view.clone() };
        Self::contiguous(bytes.as_ptr().addr(), dtype, shape, keeper)
    }

    fn contiguous(address: usize, dtype: DType, shape: &[usize], keeper: Keeper) -> Result<Self> {
        let layout = Layout::contiguous(shape.to_vec());
        let layout =
            layout.ok_or_else(|| TensorError::TooLarge { dtype, shape: shape.to_vec() })?;
        Ok(HostElements { address, dtype, layout, keeper })
    }

    /// The type of the elements.
    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape and strides.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The address of the first element.
    pub(super) fn address(&self) -> usize {
        self.address
    }

    /// Whether the elements must not be written to.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self.keeper, Keeper::File { .. })
    }

    /// Whether nobody else sees the elements.
    pub(super) fn is_copy(&self) -> bool {
        matches!(self.keeper, Keeper::Array { .. })
    }

    /// A NumPy array of the elements, in place.
    ///
    /// # Errors
    /// ImportError when the type is one of ml_dtypes, and that isn't installed; TypeError when it is
    /// block-quantised.
    pub(super) fn into_numpy(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let dtype = self.dtype;
        let array_type = numpy_dtype(py, dtype)?;
        let interface = Bound::new(py, ArrayInterface(self))?;
        let array = py.import("numpy")?.call_method1("asarray", (interface,))?;
        if is_native(dtype) { Ok(array) } else { array.call_method1("view", (array_type,)) }
    }
}

/// What NumPy makes an array of, and then keeps alive: the array interface, version 3.
#[pyclass(module = "pygpukit.core", frozen)]
struct ArrayInterface(HostElements);

#[pymethods]
impl ArrayInterface {
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let HostElements { address, dtype, layout, .. } = &self.0;
        let size = dtype.block_bytes();
        // Only those of a tensor without elements can be as large as to overflow; NumPy refuses them.
        let strides = layout.strides().iter().map(|stride| stride.saturating_mul(size));
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("shape", PyTuple::new(py, layout.shape())?)?;
        interface.set_item("strides", PyTuple::new(py, strides.collect::<Vec<_>>())?)?;
        interface.set_item("typestr", type_string(*dtype))?;
        interface.set_item("data", (address, self.0.is_read_only()))?;
        Ok(interface)
    }
}
