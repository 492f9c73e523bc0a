//! DLPack export of host memory (<https://dmlc.github.io/dlpack/latest/>).

use std::ptr;

use dlpark::ffi::{DLDataType, DLDevice, DLDeviceType, DLManagedTensor, DLManagedTensorVersioned};
use dlpark::metadata::Dynamic;
use dlpark::python::{ExportAbi, ExportRequest};
use dlpark::{DlpackFlags, Managed, ManagedTensorBase};
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;

use super::array::Memory;
use crate::dtype::DType;
use crate::loader::TensorView;

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
    check_device(request)?;
    let dtype = view.dtype()?;
    let element = dlpack_type(dtype).ok_or_else(|| {
        PyBufferError::new_err(format!("DLPack has no {dtype}; convert with .cast(\"float32\")"))
    })?;
    let versioned = request.abi() == ExportAbi::Versioned;
    let shareable = versioned
        && view.bytes().is_some_and(|bytes| bytes.as_ptr().addr() % dtype.block_bytes() == 0);
    let memory = match request.copy() {
        Some(false) if !shareable => {
            return Err(PyBufferError::new_err(
                "the elements can't be shared without a copy: they are computed, not aligned, or \
                 read-only and the consumer asks for a DLPack version before 1.0",
            ));
        }
        Some(true) => Memory::copy_of(py, view)?,
        _ if shareable => Memory::of(py, view)?,
        _ => Memory::copy_of(py, view)?,
    };
    if versioned {
        managed::<DLManagedTensorVersioned>(memory, view.shape(), element)?.into_pyobject(py)
    } else {
        managed::<DLManagedTensor>(memory, view.shape(), element)?.into_pyobject(py)
    }
}

fn check_device(request: &ExportRequest<'_>) -> PyResult<()> {
    match request.device() {
        Some(device) if device != DLDevice::CPU => Err(PyBufferError::new_err(format!(
            "the tensor is in host memory, it can't be exported to DLPack device {:?}",
            (device.device_type.0, device.device_id)
        ))),
        _ => Ok(()),
    }
}

/// The managed tensor that owns `memory`.
fn managed<M: ManagedTensorBase>(
    memory: Memory,
    shape: &[usize],
    element: DLDataType,
) -> PyResult<Managed<M>> {
    let address = if shape.contains(&0) { 0 } else { memory.address() };
    let flags = match memory {
        Memory::File(_) => DlpackFlags::READ_ONLY,
        Memory::Owned(_) => DlpackFlags::IS_COPIED,
    };
    let mut tensor = Dynamic::compact(shape)
        .initialize_as::<M>(Box::new(memory))
        .map_err(|error| PyBufferError::new_err(error.to_string()))?;
    tensor
        .set_data(ptr::with_exposed_provenance_mut(address))
        .set_dtype(element)
        .set_device(DLDevice::CPU);
    // SAFETY: a mapped file is flagged as read-only, and other memory was copied for this export and
    // belongs to the tensor alone; the flags say so.
    unsafe { tensor.set_flags_unchecked(flags) };
    // SAFETY: the address is that of `memory`, which holds as many elements of that type as the shape
    // says and lives in the tensor until its deleter runs; shape and strides were copied.
    Ok(unsafe { tensor.finish() })
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
        DType::Q4_0 | DType::Q4_1 | DType::Q8_0 => return None,
    })
}
