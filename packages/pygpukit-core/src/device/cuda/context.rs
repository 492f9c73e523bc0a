//! A GPU's primary context: what this process and every library in it share of the GPU.

use std::marker::PhantomData;
use std::sync::OnceLock;

use cudarc::driver::result::{DriverError, primary_ctx};
use cudarc::driver::sys::{self, CUresult};

use super::journal::Journal;
use crate::device::DeviceError;
use crate::dispatch::KernelError;
use crate::error::Error;

/// The primary context of a GPU, retained until the process ends.
pub(crate) struct Context {
    index: u32,
    raw: sys::CUcontext,
    /// What may be at fault when the GPU reports an error.
    journal: Journal,
    /// The error that ended the use of the GPU in this process.
    fault: OnceLock<KernelError>,
}

// SAFETY: the driver lets every thread use a context.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// While it lives, the calling thread's driver calls go to the context.
pub(super) struct Bound {
    /// It belongs to the thread that it was made on.
    _thread: PhantomData<*mut ()>,
}

impl Context {
    /// Retains the primary context of a GPU.
    pub(super) fn retain(index: u32, device: sys::CUdevice) -> Result<Self, DriverError> {
        // SAFETY: a device that the driver has named.
        let raw = unsafe { primary_ctx::retain(device) }?;
        Ok(Context { index, raw, journal: Journal::default(), fault: OnceLock::new() })
    }

    /// The kernels that were launched since the GPU was last known to be well.
    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Makes the context the calling thread's own; the thread gets back the one it had when the guard
    /// is dropped, so that other libraries don't notice.
    pub(super) fn bind(&self) -> Result<Bound, DriverError> {
        // SAFETY: the context is retained for as long as the process lives.
        unsafe { sys::cuCtxPushCurrent_v2(self.raw) }.result()?;
        Ok(Bound { _thread: PhantomData })
    }

    /// Makes one driver call in the context.
    pub(super) fn call(&self, call: impl FnOnce() -> CUresult) -> Result<(), DriverError> {
        let _bound = self.bind()?;
        call().result()
    }

    /// The driver's `error` on the way to `action`, as an error of this library.
    ///
    /// A kernel that broke shows at whatever call comes next, and at every one after that.
    pub(super) fn explain(&self, action: &'static str, error: DriverError) -> Error {
        if is_fault(error.0) {
            let fault = self.fault.get_or_init(|| KernelError::Fault {
                device: format!("cuda:{}", self.index),
                kernels: self.journal.suspects(),
                reason: text(error),
            });
            return fault.clone().into();
        }
        DeviceError::Driver { index: self.index, action, reason: text(error) }.into()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let mut previous = std::ptr::null_mut();
        // SAFETY: pops what `bind` pushed on this very thread. An error means that the driver is
        // shutting down with the process.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut previous) };
    }
}

/// Whether the error is one of a kernel that ran, after which the context is lost.
fn is_fault(error: CUresult) -> bool {
    matches!(
        error,
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_CONTAINED
            | CUresult::CUDA_ERROR_TENSOR_MEMORY_LEAK
    )
}

/// Name and description of the error, in the driver's words.
pub(super) fn text(error: DriverError) -> String {
    let name = error.error_name().map_or("an unknown error".into(), |name| name.to_string_lossy());
    match error.error_string() {
        Ok(description) => format!("{name} ({})", description.to_string_lossy()),
        Err(_) => format!("{name}, code {}", error.0 as u32),
    }
}
