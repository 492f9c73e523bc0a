//! `Tensor`.

use std::sync::{Arc, Mutex, PoisonError};

use dlpark::python::ExportRequest;
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PySlice, PyTuple};

use super::array::HostElements;
use super::cuda;
use super::device::{self, DeviceArg, PyDevice};
use super::dlpack;
use super::dtype::DTypeArg;
use super::memory::{PyMemoryPool, pool_of};
use super::numpy::{self, ArrayBytes};
use super::shape::{ShapeArg, reshaped};
use super::tensor_view::PyTensorView;
use crate::device::Device;
use crate::dtype::DType;
use crate::memory::{Fetch, Scalar, Tensor};
use crate::transfer::AsyncEngine;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyTensor>()?;
    module.add_class::<PyFetch>()
}

/// An array in device memory: dtype, shape and strides over memory of a pool.
///
/// Make one with `empty`, `zeros`, `from_numpy`, `from_dlpack` or `from_safetensor`. Indexing (with
/// whole numbers, slices of a positive step and `...`), `narrow` and `reshape` give views of the
/// same elements; the memory is freed with the last of them. Launches and host access wait for the
/// copies that fill a tensor. Two tensors are equal only if they are the same object.
#[pyclass(name = "Tensor", module = "pygpukit.core", frozen)]
pub(super) struct PyTensor(pub(super) Tensor);

#[pymethods]
impl PyTensor {
    /// A tensor whose elements are whatever its memory held.
    ///
    /// Args:
    ///     shape: Elements in each dimension.
    ///     dtype: The elements' type, by name or as a NumPy dtype.
    ///     device: Where it lives: "cpu" unless the pool says otherwise.
    ///     pool: Where its memory comes from: the device's default pool if not given.
    ///
    /// Raises:
    ///     OutOfMemoryError: Neither the pool nor the device has the memory.
    ///     ValueError: There is no such shape or dtype.
    #[staticmethod]
    #[pyo3(signature = (shape, dtype, *, device=None, pool=None))]
    fn empty(
        py: Python<'_>,
        shape: ShapeArg,
        dtype: DTypeArg,
        device: Option<DeviceArg>,
        pool: Option<&Bound<'_, PyMemoryPool>>,
    ) -> PyResult<Self> {
        let pool = pool_of(device, pool)?;
        Ok(PyTensor(py.detach(|| Tensor::empty(&pool, dtype.0, shape.0))?))
    }

    /// A tensor of zeros, with the arguments and errors of `empty`.
    #[staticmethod]
    #[pyo3(signature = (shape, dtype, *, device=None, pool=None))]
    fn zeros(
        py: Python<'_>,
        shape: ShapeArg,
        dtype: DTypeArg,
        device: Option<DeviceArg>,
        pool: Option<&Bound<'_, PyMemoryPool>>,
    ) -> PyResult<Self> {
        let pool = pool_of(device, pool)?;
        Ok(PyTensor(py.detach(|| Tensor::zeros(&pool, dtype.0, shape.0))?))
    }

    /// A copy of an array, or of anything that NumPy makes one of.
    ///
    /// What has the buffer protocol, such as `array.array`, is copied without importing NumPy.
    ///
    /// Args:
    ///     array: The elements.
    ///     dtype: The type to convert them to; between floating-point types rounded to nearest
    ///         even, which needs no ml_dtypes.
    ///     device: As for `empty`.
    ///     pool: As for `empty`.
    ///
    /// Raises:
    ///     OutOfMemoryError: Neither the pool nor the device has the memory.
    ///     TypeError: The elements are of a type that a tensor can't have.
    #[staticmethod]
    #[pyo3(signature = (array, dtype=None, *, device=None, pool=None))]
    fn from_numpy(
        py: Python<'_>,
        array: &Bound<'_, PyAny>,
        dtype: Option<DTypeArg>,
        device: Option<DeviceArg>,
        pool: Option<&Bound<'_, PyMemoryPool>>,
    ) -> PyResult<Self> {
        let pool = pool_of(device, pool)?;
        let array = ArrayBytes::new(array, dtype.map(|dtype| dtype.0))?;
        let bytes = array.bytes();
        Ok(PyTensor(py.detach(|| -> crate::Result<Tensor> {
            let tensor = Tensor::empty(&pool, array.dtype, array.shape.clone())?;
            AsyncEngine::default_of(pool.device()).write(bytes, &tensor)?;
            Ok(tensor)
        })?))
    }

    /// A tensor over the memory of an array that speaks DLPack, such as NumPy's and PyTorch's.
    ///
    /// Nothing is copied: either sees what is written to the other.
    ///
    /// Args:
    ///     array: The array, in host memory or on a GPU.
    ///     pool: Where results computed from the tensor go: the device's default pool if not given.
    ///
    /// Raises:
    ///     BufferError: The array is read-only, isn't aligned, or is on another device than the pool
    ///         or on one of another kind, or its dtype or strides are such as a tensor can't have.
    ///     DeviceError: The array is on a GPU that can't be used.
    #[staticmethod]
    #[pyo3(signature = (array, /, *, pool=None))]
    fn from_dlpack(
        array: &Bound<'_, PyAny>,
        pool: Option<&Bound<'_, PyMemoryPool>>,
    ) -> PyResult<Self> {
        Ok(PyTensor(dlpack::import(array, pool.map(|pool| Arc::clone(&pool.get().0)))?))
    }

    /// A tensor over the memory of an array on a GPU with the CUDA array interface.
    ///
    /// CuPy's and Numba's have it. Nothing is copied: either sees what is written to the other.
    ///
    /// Args:
    ///     array: The array.
    ///     pool: As for `from_dlpack`.
    ///
    /// Raises:
    ///     BufferError: The array is read-only or masked, is on another device than the pool, or its
    ///         dtype or strides are such as a tensor can't have.
    ///     DeviceError: The array is on a GPU that can't be used.
    ///     TypeError: The array doesn't have the interface.
    #[staticmethod]
    #[pyo3(signature = (array, /, *, pool=None))]
    fn from_cuda_array_interface(
        array: &Bound<'_, PyAny>,
        pool: Option<&Bound<'_, PyMemoryPool>>,
    ) -> PyResult<Self> {
        let pool = pool.map(|pool| Arc::clone(&pool.get().0));
        Ok(PyTensor(cuda::import_interface(array, pool)?))
    }

    /// A new tensor with the elements of a tensor in a weight file, of any format.
    ///
    /// They are being read when this returns; launches and host access wait for them.
    ///
    /// Args:
    ///     view: The tensor in the file.
    ///     dtype: The type to convert the elements to, as by `TensorView.cast`.
    ///     device: As for `empty`.
    ///     pool: As for `empty`.
    ///
    /// Raises:
    ///     LoadError: The file's type can't be read or converted.
    ///     OutOfMemoryError: Neither the pool nor the device has the memory.
    #[staticmethod]
    #[pyo3(signature = (view, /, *, dtype=None, device=None, pool=None))]
    fn from_safetensor(
        py: Python<'_>,
        view: &PyTensorView,
        dtype: Option<DTypeArg>,
        device: Option<DeviceArg>,
        pool: Option<&Bound<'_, PyMemoryPool>>,
    ) -> PyResult<Self> {
        let pool = pool_of(device, pool)?;
        let view = match dtype {
            Some(dtype) => view.view.cast(dtype.0)?,
            None => view.view.clone(),
        };
        Ok(PyTensor(py.detach(|| Tensor::from_safetensor(&view, &pool))?))
    }

    /// Replaces all elements, and returns the tensor itself.
    ///
    /// Args:
    ///     source: A tensor of the same dtype and shape; or an array, or a tensor in a weight file,
    ///         of the same shape, whose elements are converted. The latter is read beside the
    ///         calling thread; launches and host access wait for it.
    ///
    /// Raises:
    ///     ValueError: The shape differs, or the dtype of a tensor.
    #[pyo3(signature = (source, /))]
    fn copy_<'py>(
        slf: &Bound<'py, Self>,
        source: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        let target = &slf.get().0;
        let engine = AsyncEngine::default_of(target.device());
        if let Ok(source) = source.cast::<PyTensor>() {
            let source = &source.get().0;
            py.detach(|| engine.copy(source, target))?;
        } else if let Ok(view) = source.cast::<PyTensorView>() {
            let view = &view.get().view;
            py.detach(|| engine.upload_view(view, target))?;
        } else {
            let array = ArrayBytes::new(source, Some(target.dtype()))?;
            if array.shape != target.shape() {
                return Err(PyValueError::new_err(format!(
                    "expected an array of shape {:?}, found {:?}",
                    target.shape(),
                    array.shape
                )));
            }
            let bytes = array.bytes();
            py.detach(|| engine.write(bytes, target))?;
        }
        Ok(slf.clone())
    }

    /// Elements in each dimension, the last one varying fastest.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.shape())
    }

    /// Elements from one index to the next in each dimension.
    #[getter]
    fn strides<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.layout().strides())
    }

    /// The name of the elements' type, e.g. "float32".
    #[getter]
    fn dtype(&self) -> &'static str {
        self.0.dtype().name()
    }

    /// The number of dimensions.
    #[getter]
    fn ndim(&self) -> usize {
        self.0.layout().rank()
    }

    /// Elements in all.
    #[getter]
    fn size(&self) -> usize {
        self.0.layout().elements()
    }

    /// Bytes of all elements, gaps between them not counted.
    #[getter]
    fn nbytes(&self) -> usize {
        self.0.nbytes()
    }

    /// The device that it lives on.
    #[getter]
    fn device(&self) -> PyDevice {
        PyDevice(self.0.device())
    }

    /// The pool that it came from and that results computed from it go to.
    #[getter]
    fn pool(&self) -> PyMemoryPool {
        PyMemoryPool(Arc::clone(self.0.pool()))
    }

    /// The address of the first element, on its device; no copy is waited for.
    #[getter]
    fn data_ptr(&self) -> usize {
        self.0.address().addr()
    }

    /// Whether the elements lie in row-major order without gaps.
    #[getter]
    fn is_contiguous(&self) -> bool {
        self.0.layout().is_contiguous()
    }

    /// Whether no copy into the tensor is under way.
    #[getter]
    fn ready(&self) -> bool {
        self.0.is_ready()
    }

    /// Waits for the copies that fill the tensor. Ctrl-C interrupts it.
    ///
    /// Raises:
    ///     PygpukitError: What went wrong with a copy, e.g. LoadError when a file couldn't be read.
    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        for event in self.0.storage().pending(&self.0.range()) {
            device::wait(py, &event, None)?;
        }
        Ok(())
    }

    /// The same elements in another shape, of which one length may be -1, as a view.
    ///
    /// Raises:
    ///     ValueError: The number of elements differs, or they aren't contiguous.
    #[pyo3(signature = (*shape))]
    fn reshape(&self, shape: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let shape = reshaped(shape, self.size())?;
        Ok(PyTensor(self.0.reshape(shape)?))
    }

    /// Elements `start` to `start + length` of dimension `dim`, as a view.
    ///
    /// Raises:
    ///     IndexError: There is no such dimension.
    ///     ValueError: There are no such elements.
    fn narrow(&self, dim: usize, start: usize, length: usize) -> PyResult<Self> {
        Ok(PyTensor(self.0.slice(dim, start, start.saturating_add(length), 1)?))
    }

    /// The elements as a NumPy array.
    ///
    /// Args:
    ///     dtype: The type to convert them to. Quantised elements need one, e.g. "float32": they
    ///         are dequantised as ggml does it.
    ///     copy: Whether to copy them. Otherwise the array is the tensor's own memory, where a later
    ///         launch that writes the tensor changes the array.
    ///
    /// Raises:
    ///     TypeError: Elements are quantised and no dtype was given.
    ///     ImportError: The dtype is one of ml_dtypes (bfloat16, float8), and that isn't installed.
    ///     ValueError: `copy=False`, and the dtype differs or the tensor is on a GPU.
    ///     KernelError: A kernel that was launched before broke.
    #[pyo3(signature = (dtype=None, *, copy=true))]
    fn numpy<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<DTypeArg>,
        copy: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.wait(py)?;
        let dtype = dtype.map_or(self.0.dtype(), |dtype| dtype.0);
        if copy {
            let engine = AsyncEngine::default_of(self.0.device());
            return numpy::download(py, engine, &self.0, dtype);
        }
        if dtype != self.0.dtype() || !self.is_on_host() {
            return Err(PyValueError::new_err(format!(
                "{} elements on {} as {dtype} in host memory are a copy; copy=False rules that out",
                self.0.dtype(),
                self.0.device()
            )));
        }
        HostElements::of_tensor(&self.0).into_numpy(py)
    }

    /// The one element as a Python number.
    ///
    /// Raises:
    ///     ValueError: There are more elements, or none.
    ///     TypeError: The element is quantised.
    fn item<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.scalars(py)?[..] {
            [scalar] => number(py, scalar),
            _ => Err(PyValueError::new_err(format!(
                "item() needs a tensor of one element, found shape {:?}",
                self.0.shape()
            ))),
        }
    }

    /// Begins to copy the elements to the host, as they are when what was launched has run.
    ///
    /// Launches that come after it don't wait for the host to take them, though they may write the
    /// tensor: a loop on a GPU can launch its next step before it looks at the last one's result.
    ///
    /// Raises:
    ///     KernelError: A kernel that was launched before broke.
    fn fetch(&self, py: Python<'_>) -> PyResult<PyFetch> {
        let fetch = py.detach(|| AsyncEngine::default_of(self.0.device()).fetch(&self.0))?;
        Ok(PyFetch(Mutex::new(Some(fetch))))
    }

    /// The elements as nested lists of Python numbers; without dimensions, the number.
    ///
    /// Raises:
    ///     TypeError: The elements are quantised.
    fn tolist<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        nested(py, self.0.shape(), &self.scalars(py)?)
    }

    fn __getitem__(&self, index: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut view = self.0.clone();
        let rank = view.layout().rank();
        let mut dim = 0;
        let indices = match index.cast::<PyTuple>() {
            Ok(indices) => indices.clone(),
            Err(_) => PyTuple::new(index.py(), [index])?,
        };
        let ellipsis = index.py().Ellipsis();
        let given = indices.iter().filter(|index| !index.is(&ellipsis)).count();
        if given > rank || indices.len() > given + 1 {
            return Err(PyIndexError::new_err(format!(
                "expected at most {rank} indices and one `...`, found {index}"
            )));
        }
        // Dimensions of the tensor and of the view, which a whole number takes one from.
        let mut axis = 0;
        for (position, index) in indices.iter().enumerate() {
            if index.is(&ellipsis) {
                let skipped = rank - (indices.len() - position - 1) - axis;
                (axis, dim) = (axis + skipped, dim + skipped);
                continue;
            }
            if let Ok(slice) = index.cast::<PySlice>() {
                view = sliced(&view, dim, slice)?;
                dim += 1;
            } else {
                view = view.select(dim, position_in(&view, dim, axis, &index)?)?;
            }
            axis += 1;
        }
        Ok(PyTensor(view))
    }

    fn __len__(&self) -> PyResult<usize> {
        let none = || PyTypeError::new_err("a tensor without dimensions has no length");
        self.0.shape().first().copied().ok_or_else(none)
    }

    #[pyo3(signature = (dtype=None, *, copy=None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<&Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(dtype) = dtype else {
            return self.numpy(py, None, copy.unwrap_or(!self.is_on_host()));
        };
        match dtype.extract() {
            Ok(DTypeArg(known)) => {
                let copy = copy.unwrap_or(known != self.0.dtype() || !self.is_on_host());
                self.numpy(py, Some(DTypeArg(known)), copy)
            }
            Err(_) if copy == Some(false) => Err(PyValueError::new_err(format!(
                "{} elements as {dtype} are a copy; copy=False rules that out",
                self.0.dtype()
            ))),
            // One that only NumPy has.
            Err(_) => self.numpy(py, None, true)?.call_method1("astype", (dtype,)),
        }
    }

    /// The CUDA array interface, version 3, of a tensor on a GPU.
    #[getter]
    fn __cuda_array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.wait(py)?;
        cuda::cuda_array_interface(py, &self.0)
    }

    fn __dlpack_device__(&self) -> (u32, i32) {
        let device = dlpack::device_of(self.0.device());
        (device.device_type.0, device.device_id)
    }

    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(u32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.wait(py)?;
        let request = ExportRequest::parse(stream.as_ref(), max_version, dl_device, copy)?;
        dlpack::export_tensor(py, &self.0, &request)
    }

    fn __repr__(&self) -> String {
        let (dtype, shape) = (self.0.dtype(), self.0.shape());
        format!("<Tensor {dtype} {shape:?} on {}>", self.0.device())
    }
}

impl PyTensor {
    fn is_on_host(&self) -> bool {
        self.0.device() == Device::Cpu
    }

    fn scalars(&self, py: Python<'_>) -> PyResult<Vec<Scalar>> {
        self.wait(py)?;
        let scalars = py.detach(|| self.0.scalars())?;
        scalars.ok_or_else(|| not_numbers(self.0.dtype()))
    }
}

/// Elements of a tensor on their way to the host: from `Tensor.fetch`.
#[pyclass(name = "Fetch", module = "pygpukit.core", frozen)]
pub(super) struct PyFetch(Mutex<Option<Fetch>>);

#[pymethods]
impl PyFetch {
    /// Waits for the elements, which can be taken once: nested lists of Python numbers.
    ///
    /// Raises:
    ///     KernelError: A kernel that was launched before broke.
    ///     TypeError: The elements are quantised.
    ///     ValueError: They have been taken.
    fn tolist<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let taken = || PyValueError::new_err("the elements have been taken; fetch them again");
        let fetch = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let fetch = fetch.ok_or_else(taken)?;
        let (dtype, shape) = (fetch.dtype(), fetch.shape().to_vec());
        let scalars = py.detach(|| fetch.scalars())?.ok_or_else(|| not_numbers(dtype))?;
        nested(py, &shape, &scalars)
    }
}

fn not_numbers(dtype: DType) -> PyErr {
    PyTypeError::new_err(format!("{dtype} elements are not numbers by themselves"))
}

fn sliced(view: &Tensor, dim: usize, slice: &Bound<'_, PySlice>) -> PyResult<Tensor> {
    let length = view.shape()[dim];
    let indices = slice.indices(length.try_into()?)?;
    let step = usize::try_from(indices.step)
        .map_err(|_| PyValueError::new_err("a tensor's slice needs a positive step"))?;
    let start = usize::try_from(indices.start)?;
    let stop = usize::try_from(indices.stop)?.max(start);
    Ok(view.slice(dim, start, stop, step)?)
}

/// The position from the front that a whole number means in dimension `dim` of the view, which is
/// dimension `axis` of the tensor that is indexed.
fn position_in(
    view: &Tensor,
    dim: usize,
    axis: usize,
    index: &Bound<'_, PyAny>,
) -> PyResult<usize> {
    let length = view.shape()[dim];
    let index: isize = index.extract().map_err(|_| {
        PyTypeError::new_err("a tensor is indexed by whole numbers, slices and `...`")
    })?;
    let from_end = if index < 0 { length } else { 0 };
    let position = usize::try_from(index.saturating_add_unsigned(from_end));
    position.ok().filter(|&position| position < length).ok_or_else(|| {
        PyIndexError::new_err(format!(
            "index {index} is out of range for dimension {axis} of length {length}"
        ))
    })
}

fn number(py: Python<'_>, scalar: Scalar) -> PyResult<Bound<'_, PyAny>> {
    Ok(match scalar {
        Scalar::Float(value) => value.into_pyobject(py)?.into_any(),
        Scalar::Int(value) => value.into_pyobject(py)?.into_any(),
        Scalar::UInt(value) => value.into_pyobject(py)?.into_any(),
        Scalar::Bool(value) => value.into_pyobject(py)?.to_owned().into_any(),
    })
}

fn nested<'py>(
    py: Python<'py>,
    shape: &[usize],
    scalars: &[Scalar],
) -> PyResult<Bound<'py, PyAny>> {
    let Some((&length, inner)) = shape.split_first() else {
        return number(py, scalars[0]);
    };
    let size: usize = inner.iter().product();
    let rows = (0..length).map(|row| nested(py, inner, &scalars[row * size..][..size]));
    Ok(PyList::new(py, rows.collect::<PyResult<Vec<_>>>()?)?.into_any())
}
