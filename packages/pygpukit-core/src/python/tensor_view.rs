//! `TensorView`: a tensor in a weight file, as Python sees it.

use std::path::Path;

use dlpark::python::ExportRequest;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PySlice, PyTuple};

use super::array::HostElements;
use super::dlpack;
use super::dtype::DTypeArg;
use super::shape::reshaped;
use crate::loader::TensorView;

/// A tensor in a weight file: a name, a dtype, a shape and a byte range, nothing read yet.
///
/// Rows (`view[start:stop]`, along the first dimension), conversions, transpositions and
/// permutations are views too. They compose, and are carried out only when the elements are asked
/// for: by `numpy()`, by DLPack, or by `Tensor.from_safetensor`, which fills a tensor beside the
/// calling thread. A view keeps its file open. What the tensor doesn't allow raises LoadError,
/// naming the file and the tensor.
#[pyclass(name = "TensorView", module = "pygpukit.core", frozen, from_py_object)]
#[derive(Clone)]
pub(super) struct PyTensorView {
    /// What this is a Python object of.
    pub(super) view: TensorView,
}

impl From<TensorView> for PyTensorView {
    fn from(view: TensorView) -> Self {
        PyTensorView { view }
    }
}

#[pymethods]
impl PyTensorView {
    /// The tensor's name in its file.
    #[getter]
    fn name(&self) -> &str {
        self.view.name()
    }

    /// The name of the elements' type, after any conversion, e.g. "bfloat16" or "q4_0".
    ///
    /// A type that can't be read, e.g. "q6_k", has a name all the same.
    #[getter]
    fn dtype(&self) -> &'static str {
        self.view.type_name()
    }

    /// Elements in each dimension, the last one varying fastest.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.view.shape())
    }

    /// Bytes of all elements, after any conversion.
    #[getter]
    fn nbytes(&self) -> usize {
        self.view.nbytes()
    }

    /// The file that holds the tensor.
    #[getter]
    fn file(&self) -> &Path {
        self.view.file()
    }

    /// Where the bytes that the view reads start and end in the file.
    ///
    /// A permuted or transposed view reads all of its tensor's.
    #[getter]
    fn byte_range(&self) -> (usize, usize) {
        let range = self.view.byte_range();
        (range.start, range.end)
    }

    fn __getitem__(&self, rows: &Bound<'_, PyAny>) -> PyResult<PyTensorView> {
        let Ok(slice) = rows.cast::<PySlice>() else {
            return Err(PyTypeError::new_err(
                "a view of a file is indexed by rows, view[start:stop]; for more use its numpy()",
            ));
        };
        let len = self.view.shape().first().copied().unwrap_or(0);
        let indices = slice.indices(len as isize)?;
        if indices.step != 1 {
            return Err(PyValueError::new_err(format!(
                "rows can only be taken with a step of 1, found {}; see permute_rows",
                indices.step
            )));
        }
        let start = indices.start as usize;
        Ok(self.view.slice(start, start + indices.slicelength)?.into())
    }

    /// The elements as another floating-point type, as a view.
    ///
    /// They are rounded to nearest, ties to even; quantised ones are dequantised as ggml does it.
    ///
    /// Args:
    ///     dtype: float64, float32, float16 or bfloat16.
    ///
    /// Raises:
    ///     LoadError: The elements aren't floating-point or quantised numbers, or can't be read.
    fn cast(&self, dtype: DTypeArg) -> PyResult<PyTensorView> {
        Ok(self.view.cast(dtype.0)?.into())
    }

    /// A matrix as float32, each element times the scale of its block, as a view.
    ///
    /// That is how FP8 checkpoints are stored.
    ///
    /// Args:
    ///     scales: One floating-point number for each block, row by row, in whatever shape.
    ///     block: Rows and columns of a block; blocks at the edges may be cut.
    ///
    /// Raises:
    ///     LoadError: It isn't a matrix, the number of scales is another, or either can't be read.
    fn scaled(&self, scales: &PyTensorView, block: [usize; 2]) -> PyResult<PyTensorView> {
        Ok(self.view.scaled(&scales.view, block)?.into())
    }

    /// Blocks of MXFP4, (…, n, 16) uint8 with two elements a byte, as float32 of (…, 32 n).
    ///
    /// That is how gpt-oss is stored. The numbers are exact in bfloat16, too.
    ///
    /// Args:
    ///     scales: (…, n) uint8: the exponents of the blocks, 127 for 1.
    ///
    /// Raises:
    ///     LoadError: The shapes or types are others, or either can't be read.
    fn mxfp4(&self, scales: &PyTensorView) -> PyResult<PyTensorView> {
        Ok(self.view.mxfp4(&scales.view)?.into())
    }

    /// The transpose of a matrix.
    ///
    /// Raises:
    ///     LoadError: It isn't a matrix, or its elements are quantised: cast them first.
    fn transpose(&self) -> PyResult<PyTensorView> {
        Ok(self.view.transpose()?.into())
    }

    /// The rows along the first dimension in another order.
    ///
    /// Args:
    ///     indices: Row `i` of the result is row `indices[i]` of this view. Rows may be left out or
    ///         repeated.
    ///
    /// Raises:
    ///     LoadError: There is no such row.
    fn permute_rows(&self, indices: &Bound<'_, PyAny>) -> PyResult<PyTensorView> {
        let indices = indices
            .try_iter()?
            .map(|index| {
                let index: i64 = index?.extract()?;
                usize::try_from(index).map_err(|_| {
                    PyValueError::new_err(format!(
                        "expected row numbers of 0 or more, found {index}"
                    ))
                })
            })
            .collect::<PyResult<Vec<_>>>()?;
        Ok(self.view.permute_rows(&indices)?.into())
    }

    /// The same elements in another shape, of which one length may be -1.
    ///
    /// Raises:
    ///     LoadError: The number of elements differs, or quantised blocks would be cut.
    #[pyo3(signature = (*shape))]
    fn reshape(&self, shape: &Bound<'_, PyTuple>) -> PyResult<PyTensorView> {
        let shape = reshaped(shape, self.view.elements())?;
        Ok(self.view.reshape(&shape)?.into())
    }

    /// Lets go of the memory that holds this tensor's part of a mapped file.
    ///
    /// That is for a tensor that was copied elsewhere. Arrays made of it stay valid: what is
    /// touched again is read again.
    fn release(&self) {
        self.view.release();
    }

    /// The elements as a NumPy array of this view's shape and dtype.
    ///
    /// Where they lie in the file as they are, the array is read-only, shares the file's memory and
    /// keeps it open. Otherwise they are computed into a new array.
    ///
    /// Raises:
    ///     TypeError: The elements are quantised: `cast` them first.
    ///     ImportError: The dtype is one of ml_dtypes (bfloat16, float8), and that isn't installed.
    ///     LoadError: The file's type can't be read.
    fn numpy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match HostElements::of_view(&self.view)? {
            Some(stored) => stored.into_numpy(py),
            None => py.detach(|| HostElements::copy_of_view(&self.view))?.into_numpy(py),
        }
    }

    /// The bytes of the file that the view reads, as a read-only uint8 array of shape (n,).
    ///
    /// They are `byte_range` of the file, shared without a copy, and also there for types that
    /// can't be read.
    fn raw<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        HostElements::stored_bytes_of(&self.view)?.into_numpy(py)
    }

    #[pyo3(signature = (dtype=None, *, copy=None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let converted = dtype.as_ref().and_then(|dtype| self.converted(dtype));
        let view = converted.as_ref().unwrap_or(self);
        if copy == Some(false) && view.view.bytes().is_none() {
            return Err(ruled_out());
        }
        let array = view.numpy(py)?;
        let Some(dtype) = dtype.filter(|_| converted.is_none()) else {
            return if copy == Some(true) { array.call_method0("copy") } else { Ok(array) };
        };
        // A type that only NumPy converts to.
        if copy == Some(false) {
            return Err(ruled_out());
        }
        array.call_method1("astype", (dtype,))
    }

    fn __dlpack_device__(&self) -> (u32, i32) {
        dlpack::HOST
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
        let request = ExportRequest::parse(stream.as_ref(), max_version, dl_device, copy)?;
        dlpack::export_view(py, &self.view, &request)
    }

    fn __repr__(&self) -> String {
        let (name, dtype) = (self.view.name(), self.view.type_name());
        format!("TensorView({name:?}, {dtype}, shape={:?})", self.view.shape())
    }
}

impl PyTensorView {
    /// The elements as the NumPy dtype `dtype`, if the core itself can convert them.
    fn converted(&self, dtype: &Bound<'_, PyAny>) -> Option<PyTensorView> {
        let DTypeArg(dtype) = dtype.extract().ok()?;
        self.view.cast(dtype).ok().map(PyTensorView::from)
    }
}

fn ruled_out() -> PyErr {
    PyValueError::new_err(
        "the elements have to be computed, which is a copy; copy=False rules that out",
    )
}
