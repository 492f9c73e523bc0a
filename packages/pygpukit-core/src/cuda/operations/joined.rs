//! Launches of a graph that run as one.

use std::ops::Range;

use super::{append, persistent};
use crate::cuda::CudaLaunch;
use crate::device::Limits;

/// One launch in the place of several that follow each other.
pub(in crate::cuda) trait Joined {
    /// Which ones.
    fn launches(&self) -> Range<usize>;

    /// Bytes of the memory that it works in, if it needs any.
    fn bytes(&self) -> usize {
        0
    }

    /// What the beginning of that memory holds before the first launch; zeros follow.
    fn content(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The launch, with its memory at `memory`.
    fn launch(&self, memory: u64, limits: &Limits) -> CudaLaunch;
}

/// Finds the launches that can run as one, those that a GPU runs faster so, in their order.
///
/// A launch's weights aren't written by others of its graph if it `overlap`s.
pub(in crate::cuda) fn join(launches: &[&CudaLaunch], limits: &Limits) -> Vec<Box<dyn Joined>> {
    let mut found: Vec<Box<dyn Joined>> = Vec::new();
    let mut start = 0;
    let pairs = |range: Range<usize>, found: &mut Vec<Box<dyn Joined>>| {
        for first in range.clone().take(range.len().saturating_sub(1)) {
            if let Some(joined) = append::join(first, launches[first], launches[first + 1]) {
                found.push(Box::new(joined));
            }
        }
    };
    for steps in persistent::join(launches, limits) {
        pairs(start..steps.launches.start, &mut found);
        start = steps.launches.end;
        found.push(Box::new(steps));
    }
    pairs(start..launches.len(), &mut found);
    found
}
