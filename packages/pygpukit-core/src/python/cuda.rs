//! What is particular to GPUs: kernel images, and tensors shared with other libraries on a GPU.

use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;

use dlpark::DlpackFlags;
use dlpark::ffi::DLDevice;
use dlpark::python::consumer::stream;
use dlpark::python::{CudaStreamRequest, DlpackStream, ExportRequest, StreamArg};
use pyo3::exceptions::{PyAttributeError, PyBufferError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::dlpack::{self, Exported};
use super::dtype::{is_native, type_string};
use crate::cuda::register_images;
use crate::device::cuda::ForeignStream;
use crate::device::{Device, Ordinal};
use crate::dtype::DType;
use crate::memory::{Layout, MemoryPool, Storage, Tensor};
use crate::transfer::AsyncEngine;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(register_kernel_images, module)?)
}

/// Makes a folder of compiled CUDA kernels known; pygpukit.kernels does so when it is imported.
///
/// The files are called `<source>.sm_<N>.cubin` and `<source>.compute_<N>.ptx`. One is read when a
/// kernel in it is first launched. Of two folders with files of one source the one registered last is
/// used.
///
/// Args:
///     folder: The folder.
///
/// Raises:
///     DeviceError: The folder can't be read.
#[pyfunction]
#[pyo3(signature = (folder, /))]
fn register_kernel_images(folder: PathBuf) -> PyResult<()> {
    Ok(register_images(&folder)?)
}

/// Answers `__dlpack__` for a tensor on a GPU.
///
/// # Errors
/// BufferError when DLPack lacks the type; ValueError for a stream that isn't one.
pub(super) fn export<'py>(
    py: Python<'py>,
    ordinal: Ordinal,
    tensor: &Tensor,
    request: &ExportRequest<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let consumer = match request.cuda_stream()? {
        CudaStreamRequest::NoSync => None,
        CudaStreamRequest::Omitted | CudaStreamRequest::LegacyDefault => {
            Some(ForeignStream::LegacyDefault)
        }
        CudaStreamRequest::PerThreadDefault => Some(ForeignStream::PerThreadDefault),
        CudaStreamRequest::Pointer(handle) => Some(ForeignStream::Handle(handle)),
    };
    let mut flags = DlpackFlags::empty();
    let tensor = if request.copy() == Some(true) {
        flags.insert(DlpackFlags::IS_COPIED);
        py.detach(|| copy_of(tensor))?
    } else {
        tensor.clone()
    };
    if let Some(stream) = consumer {
        // SAFETY: the consumer gives a stream of its own, as the protocol asks.
        unsafe { ordinal.cuda().order_before(stream) }?;
    }
    let exported = Exported {
        address: tensor.address().addr(),
        dtype: tensor.dtype(),
        layout: tensor.layout().clone(),
        place: dlpack::device_of(tensor.device()),
        flags,
    };
    // SAFETY: the tensor lives in what is lent, and its memory may be written.
    unsafe { exported.into_capsule(py, request, Lent { tensor, ordinal, consumer }) }
}

fn copy_of(tensor: &Tensor) -> crate::Result<Tensor> {
    let copy = Tensor::empty(tensor.pool(), tensor.dtype(), tensor.shape().to_vec())?;
    AsyncEngine::default_of(tensor.device()).copy(tensor, &copy)?;
    Ok(copy)
}

/// A tensor that another library uses.
struct Lent {
    tensor: Tensor,
    ordinal: Ordinal,
    consumer: Option<ForeignStream>,
}

impl Drop for Lent {
    /// What reuses the memory comes after what the consumer has queued. That is so for its default stream
    /// only: another one may be gone by now.
    fn drop(&mut self) {
        if self.consumer == Some(ForeignStream::LegacyDefault) && self.tensor.nbytes() > 0 {
            // SAFETY: that stream always lives. An error would be one of the consumer's work, or mean
            // that the process is ending.
            let _ = unsafe { self.ordinal.cuda().order_after(ForeignStream::LegacyDefault) };
        }
    }
}

/// Memory that another library lends, as long as the value in here lives.
pub(super) struct Borrowed<K> {
    ordinal: Ordinal,
    keeper: Option<K>,
}

impl<K> Borrowed<K> {
    pub(super) fn new(ordinal: Ordinal, keeper: K) -> Self {
        Borrowed { ordinal, keeper: Some(keeper) }
    }
}

impl<K> Drop for Borrowed<K> {
    /// The memory goes back when nothing launched on it is still to run.
    fn drop(&mut self) {
        self.ordinal.cuda().finish();
        self.keeper = None;
    }
}

/// The stream that imported arrays must be ready on.
pub(super) struct ComputeStream(pub(super) Ordinal);

// SAFETY: the handle is that of the GPU's compute stream, which lives as long as the process.
unsafe impl DlpackStream for ComputeStream {
    fn as_python_arg(&self, _py: Python<'_>, _device: DLDevice) -> PyResult<StreamArg> {
        let handle = self.0.cuda().stream_handle();
        Ok(stream::cuda(ptr::without_provenance_mut(handle)))
    }

    unsafe fn wait_for_producer(
        &self,
        _device: DLDevice,
        producer: *mut std::ffi::c_void,
    ) -> PyResult<bool> {
        let stream = match producer.addr() {
            0 => ForeignStream::LegacyDefault,
            handle => ForeignStream::Handle(handle),
        };
        // SAFETY: the caller vouches that the producer's stream is live.
        unsafe { self.0.cuda().order_after(stream) }?;
        Ok(true)
    }
}

/// Answers `__cuda_array_interface__`, version 3, for a tensor that no copy is filling.
///
/// # Errors
/// AttributeError when the tensor isn't on a GPU, or the interface has no such type.
pub(super) fn cuda_array_interface<'py>(
    py: Python<'py>,
    tensor: &Tensor,
) -> PyResult<Bound<'py, PyDict>> {
    let Device::Cuda(ordinal) = tensor.device() else {
        return Err(PyAttributeError::new_err("the tensor is in host memory"));
    };
    let dtype = tensor.dtype();
    if !is_native(dtype) {
        return Err(PyAttributeError::new_err(format!(
            "the CUDA array interface has no {dtype}; use DLPack"
        )));
    }
    let address = if tensor.nbytes() == 0 { 0 } else { tensor.address().addr() };
    let strides = tensor.layout().strides().iter().map(|stride| stride * dtype.block_bytes());
    let interface = PyDict::new(py);
    interface.set_item("version", 3)?;
    interface.set_item("shape", PyTuple::new(py, tensor.shape())?)?;
    interface.set_item("typestr", type_string(dtype))?;
    interface.set_item("data", (address, false))?;
    if !tensor.layout().is_contiguous() {
        interface.set_item("strides", PyTuple::new(py, strides.collect::<Vec<_>>())?)?;
    }
    interface.set_item("stream", ordinal.cuda().stream_handle())?;
    Ok(interface)
}

/// A tensor over the memory of an array with the CUDA array interface, whose results go to `pool`, or to
/// the default pool of its GPU.
///
/// # Errors
/// TypeError for an object without the interface; BufferError when the memory is read-only or masked, or
/// when the elements are of a type, or in an order, that a tensor can't have, or the pool is of another
/// device.
pub(super) fn import_interface(
    array: &Bound<'_, PyAny>,
    pool: Option<Arc<MemoryPool>>,
) -> PyResult<Tensor> {
    let missing = |_| PyTypeError::new_err("expected an array with __cuda_array_interface__");
    let interface = array.getattr("__cuda_array_interface__").map_err(missing)?;
    let Interface { dtype, layout, address, stream } = Interface::read(&interface)?;
    let ordinal = match (&pool, address) {
        // Without elements there is no memory that could tell.
        (Some(pool), 0) => match pool.device() {
            Device::Cuda(ordinal) => ordinal,
            Device::Cpu => Ordinal::first()?,
        },
        (None, 0) => Ordinal::first()?,
        _ => Ordinal::of_memory(address)?,
    };
    let device = Device::Cuda(ordinal);
    let pool = pool.unwrap_or_else(|| MemoryPool::default_of(device).clone());
    if pool.device() != device {
        return Err(PyBufferError::new_err(format!(
            "the array is on {device} and the pool on {}",
            pool.device()
        )));
    }
    if let Some(stream) = stream {
        // SAFETY: the producer gives a stream of its own, as the protocol asks.
        unsafe { ordinal.cuda().order_after(stream) }?;
    }
    let bytes = layout.extent() * dtype.block_bytes();
    let keeper = Box::new(Borrowed::new(ordinal, array.clone().unbind()));
    // SAFETY: the producer vouches that the memory holds elements of that shape, strides and type, that
    // are writable and stay in place as long as it lives, which the keeper sees to.
    let storage =
        unsafe { Storage::foreign(&pool, ptr::without_provenance_mut(address), bytes, keeper) };
    Ok(Tensor::from_storage(Arc::new(storage), dtype, layout, 0)?)
}

/// What a CUDA array interface says, once it is known that we can use it.
struct Interface {
    dtype: DType,
    layout: Layout,
    address: usize,
    /// The stream that is still writing the elements.
    stream: Option<ForeignStream>,
}

impl Interface {
    fn read(interface: &Bound<'_, PyAny>) -> PyResult<Self> {
        let refuse = |reason: String| PyBufferError::new_err(reason);
        let get = |key: &str| interface.call_method1("get", (key,));
        let type_name: String = get("typestr")?.extract()?;
        let known = DType::ALL.into_iter().filter(|&dtype| is_native(dtype));
        let dtype = known
            .into_iter()
            .find(|&dtype| type_string(dtype) == type_name)
            .ok_or_else(|| refuse(format!("a tensor can't have {type_name:?} elements")))?;
        let (address, read_only): (usize, bool) = get("data")?.extract()?;
        if read_only || !get("mask")?.is_none() {
            return Err(refuse("the array is read-only or masked, a tensor isn't".to_owned()));
        }
        let shape: Vec<usize> = get("shape")?.extract()?;
        let strides: Option<Vec<isize>> = get("strides")?.extract()?;
        let layout = layout(shape, strides.as_deref(), dtype)
            .ok_or_else(|| refuse(format!("a tensor can't have strides {strides:?}")))?;
        let version: u32 = get("version")?.extract()?;
        let stream = match get("stream")?.extract::<Option<usize>>()? {
            Some(0) => return Err(PyValueError::new_err("stream 0 is ambiguous: expected 1 or 2")),
            Some(1) => Some(ForeignStream::LegacyDefault),
            Some(2) => Some(ForeignStream::PerThreadDefault),
            Some(handle) => Some(ForeignStream::Handle(handle)),
            // Before version 3 there was no word for it.
            None if version < 3 => Some(ForeignStream::LegacyDefault),
            None => None,
        };
        Ok(Interface { dtype, layout, address, stream })
    }
}

/// The layout of elements whose strides are in bytes.
fn layout(shape: Vec<usize>, strides: Option<&[isize]>, dtype: DType) -> Option<Layout> {
    let elements = |&stride: &isize| {
        let bytes = usize::try_from(stride).ok()?;
        bytes.is_multiple_of(dtype.block_bytes()).then_some(bytes / dtype.block_bytes())
    };
    match strides {
        Some(strides) if !shape.contains(&0) => {
            Layout::strided(shape, strides.iter().map(elements).collect::<Option<_>>()?)
        }
        _ => Layout::contiguous(shape),
    }
}
