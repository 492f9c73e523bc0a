//! `TensorView`: a tensor in a weight file, as Python sees it.

use std::path::Path;

use dlpark::python::ExportRequest;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PySlice, PyTuple};

use super::array::{self, Memory};
use super::dlpack;
use crate::dtype::DType;
use crate::loader::TensorView;

/// A tensor in a weight file: nothing is read before its elements are asked for.
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

    /// The name of the type of the elements, after any conversion.
    #[getter]
    fn dtype(&self) -> &'static str {
        self.view.type_name()
    }

    /// The shape, row-major.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.view.shape())
    }

    /// The bytes of the elements, after any conversion.
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
    #[getter]
    fn byte_range(&self) -> (usize, usize) {
        let range = self.view.byte_range();
        (range.start, range.end)
    }

    /// Rows along the first dimension: `view[start:stop]`.
    fn __getitem__(&self, rows: &Bound<'_, PyAny>) -> PyResult<PyTensorView> {
        let Ok(slice) = rows.cast::<PySlice>() else {
            return Err(PyTypeError::new_err("only rows can be taken: view[start:stop]"));
        };
        let len = self.view.shape().first().copied().unwrap_or(0);
        let indices = slice.indices(len as isize)?;
        if indices.step != 1 {
            return Err(PyValueError::new_err("rows can only be taken with a step of 1"));
        }
        let start = indices.start as usize;
        Ok(self.view.slice(start, start + indices.slicelength)?.into())
    }

    /// The elements as another floating-point type, rounded to nearest even; dequantised.
    fn cast(&self, dtype: &str) -> PyResult<PyTensorView> {
        let to = DType::from_name(dtype)
            .ok_or_else(|| PyValueError::new_err(format!("unknown dtype {dtype:?}")))?;
        Ok(self.view.cast(to)?.into())
    }

    /// The transpose of a matrix.
    fn transpose(&self) -> PyResult<PyTensorView> {
        Ok(self.view.transpose()?.into())
    }

    /// Row `i` of the result is row `indices[i]` of this view.
    fn permute_rows(&self, indices: &Bound<'_, PyAny>) -> PyResult<PyTensorView> {
        let indices = indices
            .try_iter()?
            .map(|index| index?.extract::<usize>())
            .collect::<PyResult<Vec<_>>>()?;
        Ok(self.view.permute_rows(&indices)?.into())
    }

    /// The same elements in another shape.
    fn reshape(&self, shape: Vec<usize>) -> PyResult<PyTensorView> {
        Ok(self.view.reshape(&shape)?.into())
    }

    /// Lets go of the memory that holds this tensor's part of a mapped file.
    fn release(&self) {
        self.view.release();
    }

    /// The elements as an array: without a copy and read-only where they lie in the file as they are.
    fn numpy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let dtype = self.view.dtype()?;
        array::numpy_array(py, Memory::of(py, &self.view)?, self.view.shape(), dtype)
    }

    #[pyo3(signature = (dtype=None, copy=None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if copy == Some(false) && self.view.bytes().is_none() {
            return Err(PyValueError::new_err(
                "the elements have to be computed, which is a copy; copy=False rules that out",
            ));
        }
        let array = self.numpy(py)?;
        if dtype.is_none() && copy != Some(true) {
            return Ok(array);
        }
        let options = PyDict::new(py);
        options.set_item("dtype", dtype)?;
        options.set_item("copy", copy)?;
        py.import("numpy")?.call_method("array", (array,), Some(&options))
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
