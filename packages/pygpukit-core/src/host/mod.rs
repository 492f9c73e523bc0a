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

pub(crate) use activation::{ACTIVATION, SOFT_CAP};
pub(crate) use attention::ATTENTION;
pub(crate) use experts::{COMBINE_EXPERTS, ROUTE, ROUTE_BY_GROUP};
pub(crate) use linear::{EXPERT_LINEAR, LINEAR};
pub(crate) use norm::{LAYER_NORM, RMS_NORM};
pub use pool::ThreadPool;
pub(crate) use rope::{APPEND_KV, ROPE_ANGLES};
pub(crate) use rows::{ADD, EMBEDDING, GATHER_ROWS};
pub(crate) use sampling::{ADVANCE, ARGMAX, PENALIZE, SAMPLE, TOP_LOGPROBS};

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
    ACTIVATION,
    SOFT_CAP,
    ATTENTION,
    COMBINE_EXPERTS,
    EXPERT_LINEAR,
    ROUTE,
    ROUTE_BY_GROUP,
    LINEAR,
    LAYER_NORM,
    RMS_NORM,
    APPEND_KV,
    ROPE_ANGLES,
    ADD,
    EMBEDDING,
    GATHER_ROWS,
    ADVANCE,
    ARGMAX,
    PENALIZE,
    SAMPLE,
    TOP_LOGPROBS,
];
