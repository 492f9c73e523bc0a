//! Host kernels: what each operation does on the device "cpu".

mod activation;
mod attention;
mod experts;
mod linear;
mod norm;
mod pool;
mod rope;
mod rows;
mod sampling;
mod scratch;
pub mod simd;
#[cfg(test)]
mod tests;
mod topology;
mod view;

pub use pool::ThreadPool;

use crate::dispatch::{KernelArgs, LaunchError, Signature};

/// A kernel of the device "cpu".
#[derive(Clone, Copy)]
pub struct HostKernel {
    /// Its name and parameters.
    pub signature: &'static Signature,
    /// Checks how the shapes fit together, without touching memory: a launch calls it once, also
    /// when the launch is only captured.
    pub check: fn(&KernelArgs<'_>) -> Result<(), LaunchError>,
    /// Computes. Called only with arguments that `check` has passed.
    pub run: fn(&KernelArgs<'_>),
}

/// Every host kernel, found by name.
pub fn find(name: &str) -> Option<&'static HostKernel> {
    kernels().iter().find(|kernel| kernel.signature.name == name)
}

/// Every host kernel.
pub fn kernels() -> &'static [HostKernel] {
    &KERNELS
}

static KERNELS: [HostKernel; 20] = [
    activation::ACTIVATION,
    activation::SOFT_CAP,
    attention::ATTENTION,
    experts::COMBINE_EXPERTS,
    experts::ROUTE,
    experts::ROUTE_BY_GROUP,
    linear::EXPERT_LINEAR,
    linear::LINEAR,
    norm::LAYER_NORM,
    norm::RMS_NORM,
    rope::APPEND_KV,
    rope::ROPE_ANGLES,
    rows::ADD,
    rows::EMBEDDING,
    rows::GATHER_ROWS,
    sampling::ADVANCE,
    sampling::ARGMAX,
    sampling::PENALIZE,
    sampling::SAMPLE,
    sampling::TOP_LOGPROBS,
];
