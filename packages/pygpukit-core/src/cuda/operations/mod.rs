//! What each operation launches on an NVIDIA GPU.
//!
//! The launch rules and the structs of arguments are those stated in the `.cu` files of
//! pygpukit-kernels; how shapes must fit together is what the host kernel of the name checks.

mod append;
mod arguments;
mod attention;
mod elementwise;
mod experts;
mod joined;
mod linear;
mod maxima;
mod norm;
mod persistent;
mod rope;
mod rows;
mod sampling;
mod signature;
#[cfg(test)]
mod tests;

pub(super) use self::joined::join;
use super::CudaKernel;

/// Every CUDA kernel.
pub(super) static KERNELS: [CudaKernel; 20] = [
    attention::ATTENTION,
    elementwise::ACTIVATION,
    elementwise::SOFT_CAP,
    experts::COMBINE_EXPERTS,
    experts::EXPERT_LINEAR,
    experts::ROUTE,
    experts::ROUTE_BY_GROUP,
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
