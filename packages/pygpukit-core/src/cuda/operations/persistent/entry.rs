//! Which kernel runs the steps: code that a model has no use for makes a kernel slower.

use super::super::arguments::entry;
use super::super::attention::AttentionArgs;
use super::Step;
use super::shape::{linears, most_queries};
use crate::dtype::DType;

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

/// `Norm::short_groups` of all that is normalised, if it is the same.
fn norm_groups(steps: &[Step]) -> Option<usize> {
    let normed = linears(steps).filter(|args| args.norm.kind != 0);
    let mut groups = normed.map(|args| args.norm.short_groups(args.k as usize));
    let first = groups.next()??;
    groups.all(|other| other == Some(first)).then_some(first)
}
