//! Launches of a graph that run as fewer.

use std::ops::Range;

use super::{append, maxima, persistent};
use crate::cuda::CudaLaunch;
use crate::device::Limits;

/// Launches in the place of others that follow each other.
pub(in crate::cuda) trait Joined {
    /// Which ones.
    fn range(&self) -> Range<usize>;

    /// Bytes of the memory that they work in, if they need any.
    fn bytes(&self) -> usize {
        0
    }

    /// What the beginning of that memory holds before the first of them; zeros follow.
    fn content(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The launches, with their memory at `memory`. Those behind the first one do what the last one of the
    /// range did.
    fn launches(&self, memory: u64, limits: &Limits) -> Vec<CudaLaunch>;
}

/// Finds the launches that can run as fewer, those that a GPU runs faster so, in their order.
///
/// A launch's weights aren't written by others of its graph if it `overlap`s.
pub(in crate::cuda) fn join(launches: &[&CudaLaunch], limits: &Limits) -> Vec<Box<dyn Joined>> {
    let mut found: Vec<Box<dyn Joined>> = Vec::new();
    let mut start = 0;
    let few = |range: Range<usize>, found: &mut Vec<Box<dyn Joined>>| {
        for first in range.clone() {
            if let Some(joined) = append::join(first, &launches[..range.end]) {
                found.push(Box::new(joined));
            } else if let Some(joined) = maxima::join(first, &launches[..range.end]) {
                found.push(Box::new(joined));
            }
        }
    };
    for steps in persistent::join(launches, limits) {
        few(start..steps.range.start, &mut found);
        start = steps.range.end;
        found.push(Box::new(steps));
    }
    few(start..launches.len(), &mut found);
    found
}
