//! What the controller knows of a kernel, whatever device it runs on.

use super::args::KernelArgs;
use super::error::LaunchError;
use super::signature::Signature;
use crate::cuda::CudaKernel;
use crate::device::Ordinal;
use crate::host::HostKernel;

/// A kernel of one device.
#[derive(Clone, Copy)]
pub enum Kernel {
    /// It runs on the calling thread and its helpers.
    Host(&'static HostKernel),
    /// It is queued on the GPU.
    Cuda(Ordinal, &'static CudaKernel),
}

impl Kernel {
    /// Its name and parameters.
    pub fn signature(self) -> &'static Signature {
        match self {
            Kernel::Host(kernel) => kernel.signature,
            Kernel::Cuda(_, kernel) => kernel.signature,
        }
    }

    /// Checks how the shapes fit together, without touching memory.
    ///
    /// # Errors
    /// What doesn't fit.
    pub fn check(self, args: &KernelArgs<'_>) -> Result<(), LaunchError> {
        match self {
            Kernel::Host(kernel) => (kernel.check)(args),
            Kernel::Cuda(_, kernel) => (kernel.check)(args),
        }
    }
}
