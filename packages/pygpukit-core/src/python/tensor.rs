//! `Tensor`.

use std::sync::Arc;

use pyo3::exceptions::{PyAttributeError, PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyList, PySlice, PyTuple};

use super::device::{self, DeviceArg, PyDevice};
use super::memory::{PyMemoryPool, pool_of};
use super::numpy::{self, DTypeArg, HostArray};
use super::tensor_view::PyTensorView;
use crate::memory::{Scalar, Tensor};
use crate::transfer::AsyncEngine;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyTensor>()
}

/// An array in device memory: dtype, shape and strides over memory of a pool.
///
/// Slices and reshapes are views of the same elements; the memory is freed with the last of them.
/// Launches and host access wait for the copies that fill a tensor.
#[pyclass(name = "Tensor", module = "pygpukit.core", frozen)]
pub(super) struct PyTensor(pub(super) Tensor);

#[pymethods]
impl PyTensor {
    /// A tensor whose elements are whatever its memory held.
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

    /// A tensor of zeros.
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

    /// A copy of an array, or of anything that NumPy makes one of, converted to `dtype` if given.
    /// What has the buffer protocol, such as `array.array`, is copied without importing NumPy.
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
        let array = HostArray::new(array, dtype.map(|dtype| dtype.0))?;
        let bytes = array.bytes();
        Ok(PyTensor(py.detach(|| -> crate::Result<Tensor> {
            let tensor = Tensor::empty(&pool, array.dtype, array.shape.clone())?;
            AsyncEngine::default_of(pool.device()).write(bytes, &tensor)?;
            Ok(tensor)
        })?))
    }

    /// A new tensor with the elements of a tensor in a weight file (of any format), converted to
    /// `dtype` if given. They are being read when this returns; launches and host access wait.
    ///
    /// Raises LoadError when the file's type can't be read or converted.
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

    /// Replaces all elements by those of a tensor of the same dtype and shape, or of an array or a
    /// tensor in a weight file of the same shape, which are converted. Returns the tensor itself.
    ///
    /// A tensor in a weight file is read beside the calling thread; launches and host access wait.
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
            let array = HostArray::new(source, Some(target.dtype()))?;
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

    /// Elements in each dimension.
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

    /// The address of the first element, on its device.
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

    /// Waits for the copies that fill the tensor, and raises what went wrong with them.
    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        for event in self.0.storage().pending(&self.0.range()) {
            device::wait(py, &event, None)?;
        }
        Ok(())
    }

    /// The same elements in another shape, as a view; one length may be -1. Raises ValueError when
    /// the elements aren't contiguous.
    #[pyo3(signature = (*shape))]
    fn reshape(&self, shape: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let lengths: Vec<i64> = match shape.len() {
            1 => shape.get_item(0)?.extract().or_else(|_| shape.extract())?,
            _ => shape.extract()?,
        };
        let shape = infer_length(&lengths, self.size())?;
        Ok(PyTensor(self.0.reshape(shape)?))
    }

    /// Elements `start` to `start + length` of dimension `dim`, as a view.
    fn narrow(&self, dim: usize, start: usize, length: usize) -> PyResult<Self> {
        Ok(PyTensor(self.0.slice(dim, start, start.saturating_add(length), 1)?))
    }

    /// The elements as a NumPy array: a copy, or with `copy=False` the tensor's own memory (on "cpu",
    /// where a later launch that writes the tensor changes the array too).
    ///
    /// Raises ImportError when the dtype is one of ml_dtypes, and that isn't installed.
    #[pyo3(signature = (*, copy=true))]
    fn numpy<'py>(&self, py: Python<'py>, copy: bool) -> PyResult<Bound<'py, PyAny>> {
        self.wait(py)?;
        if copy {
            numpy::download(py, AsyncEngine::default_of(self.0.device()), &self.0)
        } else {
            numpy::share(py, &self.0)
        }
    }

    /// The one element of a tensor of size 1, as a Python number.
    fn item<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.scalars(py)?[..] {
            [scalar] => number(py, scalar),
            _ => Err(PyValueError::new_err(format!(
                "item() needs a tensor of one element, found shape {:?}",
                self.0.shape()
            ))),
        }
    }

    /// The elements as nested lists of Python numbers; of a tensor without dimensions the number.
    fn tolist<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        nested(py, self.0.shape(), &self.scalars(py)?)
    }

    /// A view: whole numbers, slices with a positive step and `...`, for the first dimensions.
    fn __getitem__(&self, index: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut view = self.0.clone();
        let mut dim = 0;
        let indices = match index.cast::<PyTuple>() {
            Ok(indices) => indices.clone(),
            Err(_) => PyTuple::new(index.py(), [index])?,
        };
        for (position, index) in indices.iter().enumerate() {
            if index.is(index.py().Ellipsis()) {
                let left = indices.len() - position - 1;
                dim = view.layout().rank().saturating_sub(left).max(dim);
            } else if let Ok(slice) = index.cast::<PySlice>() {
                view = sliced(&view, dim, slice)?;
                dim += 1;
            } else {
                view = selected(&view, dim, &index)?;
            }
        }
        Ok(PyTensor(view))
    }

    fn __len__(&self) -> PyResult<usize> {
        let none = || PyTypeError::new_err("a tensor without dimensions has no length");
        self.0.shape().first().copied().ok_or_else(none)
    }

    /// NumPy's array interface, version 3, over the tensor's own memory.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if !numpy::has_numpy_dtype(self.0.dtype()) {
            // NumPy then asks for `__array__`.
            return Err(PyAttributeError::new_err(format!("NumPy has no {}", self.0.dtype())));
        }
        self.wait(py)?;
        numpy::array_interface(py, &self.0)
    }

    #[pyo3(signature = (dtype=None, *, copy=None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<&Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let array = self.numpy(py, copy == Some(true))?;
        match dtype {
            Some(dtype) => array.call_method1("astype", (dtype,)),
            None => Ok(array),
        }
    }

    fn __repr__(&self) -> String {
        let (dtype, shape) = (self.0.dtype(), self.0.shape());
        format!("<Tensor {dtype} {shape:?} on {}>", self.0.device())
    }
}

impl PyTensor {
    fn scalars(&self, py: Python<'_>) -> PyResult<Vec<Scalar>> {
        self.wait(py)?;
        py.detach(|| self.0.scalars())?.ok_or_else(|| {
            PyTypeError::new_err(format!(
                "{} elements are not numbers by themselves",
                self.0.dtype()
            ))
        })
    }
}

/// A shape given as a whole number or a sequence of them.
struct ShapeArg(Vec<usize>);

impl<'a, 'py> FromPyObject<'a, 'py> for ShapeArg {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if object.is_instance_of::<PyInt>() {
            return Ok(ShapeArg(vec![object.extract()?]));
        }
        object.extract().map(ShapeArg)
    }
}

/// Replaces a length of -1 by what is left of `elements`.
fn infer_length(lengths: &[i64], elements: usize) -> PyResult<Vec<usize>> {
    let refuse =
        || PyValueError::new_err(format!("can't view {elements} elements as shape {lengths:?}"));
    let known = lengths
        .iter()
        .filter(|&&length| length != -1)
        .try_fold(1_usize, |product, &length| product.checked_mul(usize::try_from(length).ok()?));
    let inferred = known.and_then(|known| elements.checked_div(known));
    let unknown = lengths.iter().filter(|&&length| length == -1).count();
    if known.is_none() || unknown > 1 || (unknown == 1 && inferred.is_none()) {
        return Err(refuse());
    }
    let length = |length: &i64| usize::try_from(*length).ok().or(inferred).ok_or_else(refuse);
    lengths.iter().map(length).collect()
}

fn sliced(view: &Tensor, dim: usize, slice: &Bound<'_, PySlice>) -> PyResult<Tensor> {
    let length = *view.shape().get(dim).ok_or_else(|| too_many_indices(view))?;
    let indices = slice.indices(length.try_into()?)?;
    let step = usize::try_from(indices.step)
        .map_err(|_| PyValueError::new_err("a tensor's slice needs a positive step"))?;
    let start = usize::try_from(indices.start)?;
    let stop = usize::try_from(indices.stop)?.max(start);
    Ok(view.slice(dim, start, stop, step)?)
}

fn selected(view: &Tensor, dim: usize, index: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let length = *view.shape().get(dim).ok_or_else(|| too_many_indices(view))?;
    let index: isize = index.extract().map_err(|_| {
        PyTypeError::new_err("a tensor is indexed by whole numbers, slices and `...`")
    })?;
    let from_end = if index < 0 { length } else { 0 };
    let position = usize::try_from(index.saturating_add_unsigned(from_end)).map_err(|_| {
        PyIndexError::new_err(format!(
            "index {index} is out of range for dimension {dim} of length {length}"
        ))
    })?;
    Ok(view.select(dim, position)?)
}

fn too_many_indices(view: &Tensor) -> PyErr {
    PyIndexError::new_err(format!("too many indices for what is left: shape {:?}", view.shape()))
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
