//! CUDA kernels: what each operation launches on an NVIDIA GPU.
//!
//! The device code lies in images, files that are registered by folder ([`register_images`]) and
//! loaded when a kernel of theirs is first launched; `docs/cuda.md` has their names. An operation has
//! the name and the parameters of the host kernel beside it.

mod images;
mod library;
mod operations;
mod parameters;
mod plan;
mod run;
mod scratch;

pub use images::register_images;
pub use library::loaded_images;
pub use parameters::{Address, Parameters};
pub use plan::{CudaLaunch, Plan};
pub(crate) use run::{Program, run};

pub use crate::device::cuda::{TensorMap, TensorMapDimension};
use crate::dispatch::{KernelArgs, LaunchError, Signature};

/// A kernel of the devices "cuda:N".
#[derive(Clone, Copy)]
pub struct CudaKernel {
    /// Its name and parameters.
    pub signature: &'static Signature,
    /// Checks how the shapes fit together, without touching memory: a launch calls it once, also
    /// when the launch is only captured.
    pub check: fn(&KernelArgs<'_>) -> Result<(), LaunchError>,
    /// Says what is launched. Called only with arguments that `check` has passed.
    ///
    /// The launches take what their entry points declare, stay within the tensors of the arguments and
    /// the plan's scratch memory, and write only tensors that the signature declares as written.
    pub plan: fn(&KernelArgs<'_>, &mut Plan),
}

/// Every CUDA kernel.
pub fn kernels() -> &'static [CudaKernel] {
    &operations::KERNELS
}
