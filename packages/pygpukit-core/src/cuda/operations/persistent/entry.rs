//! Which kernel runs the steps: code that a model has no use for makes a kernel slower.

use super::super::arguments::entry;
use super::super::attention::AttentionArgs;
use super::super::linear::LinearArgs;
use super::Step;
use super::shape::{linears, most_queries};
use crate::dtype::DType;

/// Values that the threads of a block normalise at a time.
const NORM_GROUPS: usize = 1024;

/// The source and the name of a kernel; `stream` is the type of the residual stream.
pub(super) fn kernel(
    steps: &[Step],
    attention: &AttentionArgs,
    stream: DType,
) -> (&'static str, &'static str) {
    match (norm_groups(steps), attention.dim, most_queries(attention)) {
        (Some(1), 64, 8) => ("layers_1k_persistent", entry!("layers_1k_persistent_64_8", stream)),
        (Some(1), _, 8) => ("layers_1k_persistent", entry!("layers_1k_persistent_128_8", stream)),
        (Some(2), 64, 8) => ("layers_2k_persistent", entry!("layers_2k_persistent_64_8", stream)),
        (Some(2), _, 8) => ("layers_2k_persistent", entry!("layers_2k_persistent_128_8", stream)),
        (Some(3), 128, 8) => ("layers_3k_persistent", entry!("layers_3k_persistent_128_8", stream)),
        (Some(4), 128, 8) => ("layers_4k_persistent", entry!("layers_4k_persistent_128_8", stream)),
        (_, 64, 8) => ("layers_persistent", entry!("layers_persistent_64_8", stream)),
        (_, 64, _) => ("layers_persistent", entry!("layers_persistent_64_16", stream)),
        (_, _, 8) => ("layers_persistent", entry!("layers_persistent_128_8", stream)),
        (_, _, _) => ("layers_persistent", entry!("layers_persistent_128_16", stream)),
    }
}

/// How many groups of eight values each thread has of what is normalised, if all norms are plain and of one
/// such width.
fn norm_groups(steps: &[Step]) -> Option<usize> {
    let normed: Vec<LinearArgs> = linears(steps).filter(|args| args.norm.kind != 0).collect();
    let groups = |args: &LinearArgs| (args.k as usize).div_ceil(NORM_GROUPS);
    let first = groups(normed.first()?);
    normed.iter().all(|args| args.norm.is_plain() && groups(args) == first).then_some(first)
}
