//! DLPack, both ways (<https://dmlc.github.io/dlpack/latest/>).

use std::any::Any;
use std::ptr;
use std::sync::Arc;

use dlpark::ffi::{DLDataType, DLDevice, DLDeviceType, DLManagedTensor, DLManagedTensorVersioned};
use dlpark::metadata::Dynamic;
use dlpark::python::{ExportAbi, ExportRequest, ImportRequest, ImportedDlpack, from_dlpack};
use dlpark::{DlpackFlags, Managed, ManagedTensorBase};
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;

use super::array::HostElements;
use super::cuda;
use crate::device::{Device, Ordinal};
use crate::dtype::{DType, quantised};
use crate::error::{Error, Result};
use crate::loader::TensorView;
use crate::memory::{Layout, MemoryPool, Storage, Tensor};
use crate::transfer::AsyncEngine;

/// What `__dlpack_device__` answers for host memory.
pub(super) const HOST: (u32, i32) = (DLDeviceType::CPU.0, 0);

/// DLPack's name of a device.
pub(super) fn device_of(device: Device) -> DLDevice {
    match device {
        Device::Cpu => DLDevice::CPU,
        Device::Cuda(ordinal) => {
            DLDevice { device_type: DLDeviceType::CUDA, device_id: ordinal.index() as i32 }
        }
    }
}

/// Answers `__dlpack__` for a tensor in a weight file.
///
/// A view of mapped memory is handed out as it is where the consumer understands the read-only flag,
/// and copied where it doesn't, or where the elements have to be computed.
///
/// # Errors
/// BufferError when that would need a copy and `copy` is false, when another device is asked for, or
/// when DLPack lacks the type.
pub(super) fn export_view<'py>(
    py: Python<'py>,
    view: &TensorView,
    request: &ExportRequest<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let dtype = view.dtype()?;
    check_type(dtype)?;
    let stored = HostElements::of_view(view)?;
    let understands_read_only = request.abi() == ExportAbi::Versioned;
    let shareable = stored
        .filter(|elements| understands_read_only && elements.address() % dtype.block_bytes() == 0);
    match (request.copy(), shareable) {
        (None | Some(false), Some(elements)) => export(py, elements, request),
        (Some(false), None) => Err(PyBufferError::new_err(
            "the elements can't be shared without a copy: they are computed, not aligned, or \
             read-only and the consumer asks for a DLPack version before 1.0",
        )),
        _ => export(py, py.detach(|| HostElements::copy_of_view(view))?, request),
    }
}

/// Answers `__dlpack__` for a tensor that no copy is filling.
///
/// # Errors
/// BufferError when a device is asked for that isn't the tensor's or the host, when the host is asked
/// for and `copy` is false, or when DLPack lacks the type.
pub(super) fn export_tensor<'py>(
    py: Python<'py>,
    tensor: &Tensor,
    request: &ExportRequest<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    check_type(tensor.dtype())?;
    let to_host = request.device() == Some(DLDevice::CPU);
    match tensor.device() {
        Device::Cuda(ordinal) if !to_host => {
            check_device(request, device_of(tensor.device()))?;
            cuda::export(py, ordinal, tensor, request)
        }
        Device::Cuda(_) if request.copy() == Some(false) => Err(PyBufferError::new_err(
            "the elements are in a GPU's memory: in host memory they are a copy",
        )),
        Device::Cpu if request.copy() != Some(true) => {
            export(py, HostElements::of_tensor(tensor), request)
        }
        device => {
            let elements = py.detach(|| -> Result<_> {
                let mut bytes = vec![0; tensor.nbytes()];
                AsyncEngine::default_of(device).download(tensor, &mut bytes)?;
                HostElements::owned(bytes, tensor.dtype(), tensor.shape())
            })?;
            export(py, elements, request)
        }
    }
}

/// A tensor over the memory of an object that speaks DLPack, whose results go to `pool`, or to the
/// default pool of its device.
///
/// # Errors
/// BufferError when the memory is read-only or on a device that isn't the pool's or can't be used, or
/// when the elements are of a type, or in an order, that a tensor can't have.
pub(super) fn import(object: &Bound<'_, PyAny>, pool: Option<Arc<MemoryPool>>) -> PyResult<Tensor> {
    let request = ImportRequest::new(object.as_borrowed())?;
    // What doesn't say where it is before it is imported, a capsule say, is taken to be on the host.
    let place = request.device().unwrap_or(DLDevice::CPU);
    let device = device_named(place)?;
    let pool = pool.unwrap_or_else(|| MemoryPool::default_of(device).clone());
    if pool.device() != device {
        return Err(PyBufferError::new_err(format!(
            "the array is on {device} and the pool on {}",
            pool.device()
        )));
    }
    let imported = match device {
        Device::Cpu => import_from_host(object, request)?,
        Device::Cuda(ordinal) => request.import(Some(&cuda::ComputeStream(ordinal)), None)?,
    };
    if imported.flags().contains(DlpackFlags::READ_ONLY) {
        return Err(PyBufferError::new_err(
            "the array is read-only, a tensor isn't; copy it with Tensor.from_numpy",
        ));
    }
    let (dtype, layout, address) = describe(&imported, place)?;
    let bytes = layout.extent() * dtype.block_bytes();
    let deleter = imported.into_deleter();
    let keeper: Box<dyn Any + Send + Sync> = match device {
        Device::Cpu => Box::new(deleter),
        Device::Cuda(ordinal) => Box::new(cuda::Borrowed::new(ordinal, deleter)),
    };
    // SAFETY: the producer vouches that the memory holds elements of that shape, strides and type, and
    // stays in place until the deleter runs, which is when the storage drops it. It is writable.
    let storage = unsafe { Storage::foreign(&pool, address, bytes, keeper) };
    Ok(Tensor::from_storage(Arc::new(storage), dtype, layout, 0)?)
}

/// The device that DLPack names so.
fn device_named(place: DLDevice) -> PyResult<Device> {
    match place {
        DLDevice { device_type: DLDeviceType::CUDA, device_id } => {
            let index = device_id.try_into().unwrap_or(u32::MAX);
            Ok(Device::Cuda(Ordinal::open(index).map_err(Error::from)?))
        }
        DLDevice::CPU => Ok(Device::Cpu),
        other => Err(PyBufferError::new_err(format!(
            "the array is on DLPack device {:?}; a tensor can be in host memory, (1, 0), or on a CUDA \
             GPU, (2, N)",
            (other.device_type.0, other.device_id)
        ))),
    }
}

/// Asks for the current version of the protocol, then for the first one.
fn import_from_host(
    object: &Bound<'_, PyAny>,
    request: ImportRequest<'_>,
) -> PyResult<ImportedDlpack> {
    match request.import(None, None) {
        Err(error)
            if error.is_instance_of::<PyTypeError>(object.py())
                && object.hasattr("__dlpack__")? =>
        {
            from_dlpack(object.call_method0("__dlpack__")?.as_borrowed(), None, None)
        }
        imported => imported,
    }
}

/// What an imported tensor is, once it is known to be one that we can use.
fn describe(imported: &ImportedDlpack, expected: DLDevice) -> PyResult<(DType, Layout, *mut u8)> {
    let refuse = |reason: String| PyBufferError::new_err(reason);
    let tensor = imported.validate().map_err(|error| refuse(error.to_string()))?;
    if tensor.device() != expected {
        return Err(refuse("the array isn't on the device that it named".to_owned()));
    }
    let dtype = DType::ALL
        .into_iter()
        .find(|&dtype| dlpack_type(dtype) == Some(tensor.dtype()))
        .ok_or_else(|| refuse(format!("a tensor can't have {:?} elements", tensor.dtype())))?;
    let strides = tensor.strides_or_compact().map_err(|error| refuse(error.to_string()))?;
    let counts = |numbers: &[i64]| numbers.iter().map(|&n| usize::try_from(n).ok()).collect();
    let shape: Option<Vec<usize>> = counts(tensor.shape());
    // Without elements the strides say nothing, whatever they are.
    let layout = match shape {
        Some(shape) if shape.contains(&0) => Layout::contiguous(shape),
        Some(shape) => counts(&strides).and_then(|strides| Layout::strided(shape, strides)),
        None => None,
    };
    let layout =
        layout.ok_or_else(|| refuse(format!("a tensor can't have strides {strides:?}")))?;
    let start = tensor.data_ptr().addr() + tensor.byte_offset() as usize;
    if !start.is_multiple_of(dtype.block_bytes()) {
        return Err(refuse(format!(
            "the elements aren't aligned to {} bytes",
            dtype.block_bytes()
        )));
    }
    let address = if layout.elements() == 0 {
        ptr::dangling_mut()
    } else {
        tensor.data_ptr().cast::<u8>().cast_mut().wrapping_add(tensor.byte_offset() as usize)
    };
    Ok((dtype, layout, address))
}

/// The capsule of elements in host memory.
fn export<'py>(
    py: Python<'py>,
    elements: HostElements,
    request: &ExportRequest<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    check_device(request, DLDevice::CPU)?;
    let mut flags = DlpackFlags::empty();
    flags.set(DlpackFlags::READ_ONLY, elements.is_read_only());
    flags.set(DlpackFlags::IS_COPIED, elements.is_copy());
    let exported = Exported {
        address: elements.address(),
        dtype: elements.dtype(),
        layout: elements.layout().clone(),
        place: DLDevice::CPU,
        flags,
    };
    // SAFETY: the elements lie there for as long as `elements` lives. A mapped file is flagged as
    // read-only; a copy was made for this export and belongs to it alone; a tensor's memory is neither.
    unsafe { exported.into_capsule(py, request, elements) }
}

fn check_device(request: &ExportRequest<'_>, place: DLDevice) -> PyResult<()> {
    let numbers = |device: DLDevice| (device.device_type.0, device.device_id);
    match request.device() {
        Some(device) if device != place => Err(PyBufferError::new_err(format!(
            "the elements are on DLPack device {:?}, they can't be exported to {:?}",
            numbers(place),
            numbers(device)
        ))),
        _ => Ok(()),
    }
}

/// Elements to hand out.
pub(super) struct Exported {
    pub(super) address: usize,
    pub(super) dtype: DType,
    pub(super) layout: Layout,
    pub(super) place: DLDevice,
    pub(super) flags: DlpackFlags,
}

impl Exported {
    /// The capsule of the elements, in the version that the consumer asks for; it drops `keeper` when
    /// the consumer is done with them.
    ///
    /// # Errors
    /// BufferError when DLPack lacks the type.
    ///
    /// # Safety
    /// Elements of that type and layout are at the address, on that device, as long as `keeper` lives,
    /// and may be used as the flags say.
    pub(super) unsafe fn into_capsule<'py, K: Send + 'static>(
        self,
        py: Python<'py>,
        request: &ExportRequest<'py>,
        keeper: K,
    ) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: the caller's, for both.
        unsafe {
            match request.abi() {
                ExportAbi::Versioned => {
                    self.managed::<DLManagedTensorVersioned, K>(keeper)?.into_pyobject(py)
                }
                ExportAbi::Legacy => self.managed::<DLManagedTensor, K>(keeper)?.into_pyobject(py),
            }
        }
    }

    /// # Safety
    /// As for [`Exported::into_capsule`].
    unsafe fn managed<M: ManagedTensorBase, K: Send + 'static>(
        self,
        keeper: K,
    ) -> PyResult<Managed<M>> {
        let element = check_type(self.dtype)?;
        let address = if self.layout.elements() == 0 { 0 } else { self.address };
        let mut tensor = Dynamic::new(self.layout.shape(), self.layout.strides())
            .initialize_as::<M>(Box::new(keeper))
            .map_err(|error| PyBufferError::new_err(error.to_string()))?;
        tensor
            .set_data(ptr::with_exposed_provenance_mut(address))
            .set_dtype(element)
            .set_device(self.place);
        // SAFETY: the caller vouches for the flags.
        unsafe { tensor.set_flags_unchecked(self.flags) };
        // SAFETY: the caller vouches for the elements, which live in the tensor until its deleter runs;
        // shape and strides were copied.
        Ok(unsafe { tensor.finish() })
    }
}

fn check_type(dtype: DType) -> PyResult<DLDataType> {
    dlpack_type(dtype).ok_or_else(|| {
        PyBufferError::new_err(format!("DLPack has no {dtype}; dequantise it, e.g. to float32"))
    })
}

/// DLPack's name of a type.
fn dlpack_type(dtype: DType) -> Option<DLDataType> {
    Some(match dtype {
        DType::F64 => DLDataType::F64,
        DType::F32 => DLDataType::F32,
        DType::F16 => DLDataType::F16,
        DType::BF16 => DLDataType::BF16,
        DType::F8E4M3 => DLDataType::F8E4M3FN,
        DType::F8E5M2 => DLDataType::F8E5M2,
        DType::I64 => DLDataType::I64,
        DType::I32 => DLDataType::I32,
        DType::I16 => DLDataType::I16,
        DType::I8 => DLDataType::I8,
        DType::U64 => DLDataType::U64,
        DType::U32 => DLDataType::U32,
        DType::U16 => DLDataType::U16,
        DType::U8 => DLDataType::U8,
        DType::Bool => DLDataType::BOOL,
        quantised!() => return None,
    })
}
