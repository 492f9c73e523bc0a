//! `load_safetensors`, `load_gguf`, `load_tensors`, and the map of tensors that they give.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList, PyMapping};

use super::tensor_view::PyTensorView;
use crate::loader::{self, LoadError, LoadOptions, MetadataArray, MetadataValue, TensorMap};

/// Adds the loader to the native module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(load_safetensors, module)?)?;
    module.add_function(wrap_pyfunction!(load_gguf, module)?)?;
    module.add_function(wrap_pyfunction!(load_tensors, module)?)?;
    module.add_class::<PyTensorMap>()?;
    module.add_class::<PyTensorView>()?;
    module.add_class::<PyMetadata>()?;
    PyMapping::register::<PyTensorMap>(module.py())?;
    PyMapping::register::<PyMetadata>(module.py())
}

/// The tensors of a safetensors checkpoint, by name.
///
/// Files are mapped and only their headers are read: the size of a checkpoint doesn't matter.
///
/// Args:
///     path: A `.safetensors` file, the `*.index.json` of a sharded checkpoint, or a folder. In a
///         folder `model.safetensors.index.json` comes before `model.safetensors`, and that before
///         the only file of another name. With an index only what it names is loaded.
///     mmap: Whether to map the files, which then must not be changed while they are in use.
///         Otherwise they are read into memory.
///
/// Raises:
///     MissingFileError: The file, or shards that the index names, aren't there.
///     LoadError: Something is malformed or ambiguous; the message names file and tensor.
#[pyfunction]
#[pyo3(signature = (path, *, mmap=true))]
fn load_safetensors(py: Python<'_>, path: PathBuf, mmap: bool) -> PyResult<PyTensorMap> {
    load(py, || loader::load_safetensors(path, LoadOptions { mmap }))
}

/// The tensors of a GGUF file (version 2 or 3, little-endian), by name, with its metadata.
///
/// Shapes are row-major: the reverse of ggml's dimensions. A model that gguf-split has cut into
/// several files (`NAME-00001-of-00003.gguf`) is opened as one, with the first part's metadata.
///
/// Args:
///     path: The file, or any part of a split model.
///     mmap: As for `load_safetensors`.
///
/// Raises:
///     MissingFileError: The file isn't there.
///     LoadError: It is malformed or of an unsupported kind; the message names file and tensor.
#[pyfunction]
#[pyo3(signature = (path, *, mmap=true))]
fn load_gguf(py: Python<'_>, path: PathBuf, mmap: bool) -> PyResult<PyTensorMap> {
    load(py, || loader::load_gguf(path, LoadOptions { mmap }))
}

/// The tensors at a path, by name, whatever the format.
///
/// Args:
///     path: A safetensors or GGUF file (told apart by their first bytes), an `*.index.json`, or a
///         folder that holds one of them (safetensors first).
///     mmap: As for `load_safetensors`.
///
/// Raises:
///     MissingFileError: The file, or shards that an index names, aren't there.
///     LoadError: Something is malformed, ambiguous or of no known format.
#[pyfunction]
#[pyo3(signature = (path, *, mmap=true))]
fn load_tensors(py: Python<'_>, path: PathBuf, mmap: bool) -> PyResult<PyTensorMap> {
    load(py, || loader::load_tensors(path, LoadOptions { mmap }))
}

fn load(
    py: Python<'_>,
    load: impl FnOnce() -> Result<TensorMap, LoadError> + Send,
) -> PyResult<PyTensorMap> {
    Ok(PyTensorMap { map: Arc::new(py.detach(load)?) })
}

/// The tensors of a checkpoint, by name: a read-only mapping of str to TensorView.
///
/// They come in the order in which they lie in the files. A name that isn't there raises
/// UnknownTensorError, which is a KeyError and says which names are close.
#[pyclass(name = "TensorMap", module = "pygpukit.core", frozen, mapping)]
struct PyTensorMap {
    map: Arc<TensorMap>,
}

#[pymethods]
impl PyTensorMap {
    fn __getitem__(&self, name: &str) -> PyResult<PyTensorView> {
        Ok(PyTensorView::from(self.map.tensor(name)?.clone()))
    }

    fn __contains__(&self, name: &Bound<'_, PyAny>) -> bool {
        name.extract::<&str>().is_ok_and(|name| self.map.get(name).is_some())
    }

    fn __len__(&self) -> usize {
        self.map.len()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyList::new(py, self.map.names())?.try_iter()
    }

    /// The tensor of that name, or `default`.
    #[pyo3(signature = (name, default=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.map.get(name) {
            Some(view) => Ok(Some(Bound::new(py, PyTensorView::from(view.clone()))?.into_any())),
            None => Ok(default),
        }
    }

    /// The names, as a set-like view.
    fn keys<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        mapping_view(slf.as_any(), "KeysView")
    }

    /// The tensors, as a view.
    fn values<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        mapping_view(slf.as_any(), "ValuesView")
    }

    /// The (name, tensor) pairs, as a set-like view.
    fn items<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        mapping_view(slf.as_any(), "ItemsView")
    }

    /// What the files say about themselves, by key.
    ///
    /// Of several files the first that has a key is heard.
    #[getter]
    fn metadata(&self) -> PyMetadata {
        PyMetadata { map: Arc::clone(&self.map) }
    }

    /// Bytes of all tensors as stored.
    #[getter]
    fn nbytes(&self) -> usize {
        self.map.nbytes()
    }

    /// The files that hold the tensors.
    #[getter]
    fn files(&self) -> Vec<&Path> {
        self.map.files().collect()
    }

    /// What was loaded: a file, or the index of several.
    #[getter]
    fn path(&self) -> &Path {
        self.map.path()
    }

    fn __repr__(&self) -> String {
        let (tensors, nbytes) = (self.map.len(), self.map.nbytes());
        format!("TensorMap({:?}, {tensors} tensors, {nbytes} bytes)", self.map.path())
    }
}

/// The metadata of a checkpoint: a read-only mapping of str to plain Python values.
///
/// Values are int, float, bool, str or (nested) lists of them; safetensors files hold strings only.
/// Each is converted when it is asked for.
#[pyclass(name = "Metadata", module = "pygpukit.core", frozen, mapping)]
struct PyMetadata {
    map: Arc<TensorMap>,
}

#[pymethods]
impl PyMetadata {
    fn __getitem__<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Bound<'py, PyAny>> {
        match self.map.metadata().get(key) {
            Some(value) => value_to_python(py, value),
            None => Err(PyKeyError::new_err(key.to_owned())),
        }
    }

    fn __contains__(&self, key: &Bound<'_, PyAny>) -> bool {
        key.extract::<&str>().is_ok_and(|key| self.map.metadata().contains_key(key))
    }

    fn __len__(&self) -> usize {
        self.map.metadata().len()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyList::new(py, self.map.metadata().keys())?.try_iter()
    }

    /// The value of that key, or `default`.
    #[pyo3(signature = (key, default=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        key: &str,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.map.metadata().get(key) {
            Some(value) => value_to_python(py, value).map(Some),
            None => Ok(default),
        }
    }

    /// The keys, as a set-like view.
    fn keys<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        mapping_view(slf.as_any(), "KeysView")
    }

    /// The values, as a view.
    fn values<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        mapping_view(slf.as_any(), "ValuesView")
    }

    /// The (key, value) pairs, as a set-like view.
    fn items<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        mapping_view(slf.as_any(), "ItemsView")
    }

    fn __repr__(&self) -> String {
        format!("Metadata({:?})", self.map.metadata().keys().collect::<Vec<_>>())
    }
}

/// One of the views that `collections.abc` makes of any mapping.
fn mapping_view<'py>(mapping: &Bound<'py, PyAny>, kind: &str) -> PyResult<Bound<'py, PyAny>> {
    mapping.py().import("collections.abc")?.getattr(kind)?.call1((mapping,))
}

fn value_to_python<'py>(py: Python<'py>, value: &MetadataValue) -> PyResult<Bound<'py, PyAny>> {
    match value {
        MetadataValue::U8(value) => value.into_bound_py_any(py),
        MetadataValue::I8(value) => value.into_bound_py_any(py),
        MetadataValue::U16(value) => value.into_bound_py_any(py),
        MetadataValue::I16(value) => value.into_bound_py_any(py),
        MetadataValue::U32(value) => value.into_bound_py_any(py),
        MetadataValue::I32(value) => value.into_bound_py_any(py),
        MetadataValue::U64(value) => value.into_bound_py_any(py),
        MetadataValue::I64(value) => value.into_bound_py_any(py),
        MetadataValue::F32(value) => value.into_bound_py_any(py),
        MetadataValue::F64(value) => value.into_bound_py_any(py),
        MetadataValue::Bool(value) => value.into_bound_py_any(py),
        MetadataValue::String(value) => value.into_bound_py_any(py),
        MetadataValue::Array(value) => Ok(array_to_python(py, value)?.into_any()),
    }
}

fn array_to_python<'py>(py: Python<'py>, array: &MetadataArray) -> PyResult<Bound<'py, PyList>> {
    match array {
        // As a list, where a conversion of the whole would give bytes.
        MetadataArray::U8(values) => PyList::new(py, values.iter().copied()),
        MetadataArray::I8(values) => PyList::new(py, values),
        MetadataArray::U16(values) => PyList::new(py, values),
        MetadataArray::I16(values) => PyList::new(py, values),
        MetadataArray::U32(values) => PyList::new(py, values),
        MetadataArray::I32(values) => PyList::new(py, values),
        MetadataArray::U64(values) => PyList::new(py, values),
        MetadataArray::I64(values) => PyList::new(py, values),
        MetadataArray::F32(values) => PyList::new(py, values),
        MetadataArray::F64(values) => PyList::new(py, values),
        MetadataArray::Bool(values) => PyList::new(py, values),
        MetadataArray::String(values) => PyList::new(py, values.iter()),
        MetadataArray::Array(arrays) => {
            let lists: PyResult<Vec<_>> =
                arrays.iter().map(|array| array_to_python(py, array)).collect();
            PyList::new(py, lists?)
        }
    }
}
