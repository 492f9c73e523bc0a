//! What the controller knows of a kernel, whatever device it runs on.

use super::args::KernelArgs;
use super::error::LaunchError;
use super::signature::Signature;
use crate::host::HostKernel;

/// A kernel of one device.
pub trait Kernel: Send + Sync {
    /// Its name and parameters.
    fn signature(&self) -> &'static Signature;

    /// Checks how the shapes fit together, without touching memory.
    ///
    /// # Errors
    /// What doesn't fit.
    fn check(&self, args: &KernelArgs<'_>) -> Result<(), LaunchError>;

    /// Runs it: on the device's queue, or to the end where the device is the host itself. The caller
    /// has checked the arguments and waited for copies into them.
    fn run(&self, args: &KernelArgs<'_>);
}

impl Kernel for HostKernel {
    fn signature(&self) -> &'static Signature {
        self.signature
    }

    fn check(&self, args: &KernelArgs<'_>) -> Result<(), LaunchError> {
        (self.check)(args)
    }

    fn run(&self, args: &KernelArgs<'_>) {
        (self.run)(args);
    }
}
