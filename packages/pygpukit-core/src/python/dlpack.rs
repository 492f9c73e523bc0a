//! DLPack, both ways, of host memory (<https://dmlc.github.io/dlpack/latest/>).

use std::ptr;
use std::sync::Arc;

use dlpark::ffi::{DLDataType, DLDevice, DLDeviceType, DLManagedTensor, DLManagedTensorVersioned};
use dlpark::metadata::Dynamic;
use dlpark::python::{ExportAbi, ExportRequest, ImportRequest, ImportedDlpack, from_dlpack};
use dlpark::{DlpackFlags, Managed, ManagedTensorBase};
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;

use super::array::HostElements;
use crate::dtype::DType;
use crate::error::Result;
use crate::loader::TensorView;
use crate::memory::{Layout, MemoryPool, Storage, Tensor};

/// What `__dlpack_device__` answers: host memory.
pub(super) const HOST: (u32, i32) = (DLDeviceType::CPU.0, 0);

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

/// Answers `__dlpack__` for a tensor on the host that no copy is filling.
///
/// # Errors
/// BufferError when another device is asked for, or when DLPack lacks the type.
pub(super) fn export_tensor<'py>(
    py: Python<'py>,
    tensor: &Tensor,
    request: &ExportRequest<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    check_type(tensor.dtype())?;
    let elements = if request.copy() == Some(true) {
        py.detach(|| -> Result<_> {
            let mut bytes = vec![0; tensor.nbytes()];
            tensor.read(&mut bytes)?;
            HostElements::owned(bytes, tensor.dtype(), tensor.shape())
        })?
    } else {
        HostElements::of_tensor(tensor)
    };
    export(py, elements, request)
}

/// A tensor over the memory of an object that speaks DLPack, whose results go to `pool`.
///
/// # Errors
/// BufferError when the memory is read-only or on another device, or when the elements are of a type,
/// or in an order, that a tensor can't have.
pub(super) fn import(object: &Bound<'_, PyAny>, pool: &Arc<MemoryPool>) -> PyResult<Tensor> {
    let imported = import_managed(object)?;
    if imported.flags().contains(DlpackFlags::READ_ONLY) {
        return Err(PyBufferError::new_err(
            "the array is read-only, a tensor isn't; copy it with Tensor.from_numpy",
        ));
    }
    let (dtype, layout, address) = describe(&imported)?;
    let bytes = layout.extent() * dtype.block_bytes();
    let keeper = Box::new(imported.into_deleter());
    // SAFETY: the producer vouches that the memory holds elements of that shape, strides and type, and
    // stays in place until the deleter runs, which is when the storage drops it. It is writable.
    let storage = unsafe { Storage::foreign(pool, address, bytes, keeper) };
    Ok(Tensor::from_storage(Arc::new(storage), dtype, layout, 0)?)
}

/// Asks for the current version of the protocol, then for the first one.
fn import_managed(object: &Bound<'_, PyAny>) -> PyResult<ImportedDlpack> {
    let imported = ImportRequest::new(object.as_borrowed())?.import(None, None);
    match imported {
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
fn describe(imported: &ImportedDlpack) -> PyResult<(DType, Layout, *mut u8)> {
    let refuse = |reason: String| PyBufferError::new_err(reason);
    let tensor = imported.validate().map_err(|error| refuse(error.to_string()))?;
    if tensor.device() != DLDevice::CPU {
        return Err(refuse("the array isn't in host memory".to_owned()));
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

/// The capsule of `elements`, in the version that the consumer asks for.
fn export<'py>(
    py: Python<'py>,
    elements: HostElements,
    request: &ExportRequest<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    match request.device() {
        Some(device) if device != DLDevice::CPU => {
            return Err(PyBufferError::new_err(format!(
                "the elements are in host memory, they can't be exported to DLPack device {:?}",
                (device.device_type.0, device.device_id)
            )));
        }
        _ => {}
    }
    match request.abi() {
        ExportAbi::Versioned => managed::<DLManagedTensorVersioned>(elements)?.into_pyobject(py),
        ExportAbi::Legacy => managed::<DLManagedTensor>(elements)?.into_pyobject(py),
    }
}

/// The managed tensor that owns `elements`.
fn managed<M: ManagedTensorBase>(elements: HostElements) -> PyResult<Managed<M>> {
    let element = check_type(elements.dtype())?;
    let layout = elements.layout().clone();
    let address = if layout.elements() == 0 { 0 } else { elements.address() };
    let mut flags = DlpackFlags::empty();
    flags.set(DlpackFlags::READ_ONLY, elements.is_read_only());
    flags.set(DlpackFlags::IS_COPIED, elements.is_copy());
    let mut tensor = Dynamic::new(layout.shape(), layout.strides())
        .initialize_as::<M>(Box::new(elements))
        .map_err(|error| PyBufferError::new_err(error.to_string()))?;
    tensor
        .set_data(ptr::with_exposed_provenance_mut(address))
        .set_dtype(element)
        .set_device(DLDevice::CPU);
    // SAFETY: a mapped file is flagged as read-only; a copy was made for this export and belongs to
    // the tensor alone; a tensor's memory is neither, and the flags say so.
    unsafe { tensor.set_flags_unchecked(flags) };
    // SAFETY: the address is that of `elements`, which hold as many elements of that type as the shape
    // says, at those strides, and live in the tensor until its deleter runs; shape and strides were
    // copied.
    Ok(unsafe { tensor.finish() })
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
        DType::Q4_0
        | DType::Q4_1
        | DType::Q5_0
        | DType::Q5_1
        | DType::Q8_0
        | DType::Q2K
        | DType::Q3K
        | DType::Q4K
        | DType::Q5K
        | DType::Q6K
        | DType::IQ4NL
        | DType::IQ4XS => return None,
    })
}
