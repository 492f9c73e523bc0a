//! What one operation launches on a GPU.

use std::ops::Range;
use std::ptr;

use super::parameters::Parameters;
use super::scratch::Scratch;
use crate::device::Limits;
use crate::error::{Error, Result};

/// One launch of an entry point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaLaunch {
    /// The name of the image, a file of kernels.
    pub source: &'static str,
    /// The entry point in it: `<source>_<variant>`.
    pub function: &'static str,
    /// Blocks in each dimension. Where one of them is 0 there is nothing to do.
    pub grid: [u32; 3],
    /// Threads of a block in each dimension.
    pub block: [u32; 3],
    /// Blocks of a cluster in each dimension; `[1, 1, 1]` for none.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Programmatic dependent launch: it may start before the launch before it has ended, and executes
    /// `griddepcontrol.wait` before it reads what another kernel writes or writes anything. GPUs older
    /// than Hopper don't start it early.
    pub overlap: bool,
    /// Addresses that it reads before that wait where it overlaps: those of weights, and of what a step
    /// is about. It overlaps only within a graph, and if no operation before it there writes to them.
    pub reads_early: Vec<Range<usize>>,
    /// Whether it lets what overlaps it start only when all that came before it has ended.
    pub holds_back: bool,
    /// The addresses of words that it can bring to the host beside what it does, by its last parameter: a
    /// `Delivery`, at first zeros.
    pub delivers: Option<Range<usize>>,
    /// What the entry point takes.
    pub parameters: Parameters,
}

/// What one operation launches: filled by its `plan`, once for each launch or capture.
pub struct Plan {
    limits: Limits,
    scratch: Scratch,
    launches: Vec<CudaLaunch>,
    failure: Option<Error>,
}

impl Plan {
    /// An empty plan for one operation.
    pub(super) fn new(limits: Limits, mut scratch: Scratch) -> Self {
        scratch.next_operation();
        Plan { limits, scratch, launches: Vec::new(), failure: None }
    }

    /// What the GPU has.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The address of `bytes` bytes of scratch memory, aligned to at least 64, with whatever they held
    /// before. They are the operation's own until its last launch has run.
    ///
    /// Where there is no memory left the operation fails, without launching anything, when its plan is
    /// complete.
    pub fn scratch(&mut self, bytes: usize) -> *mut u8 {
        self.scratch.take(bytes).unwrap_or_else(|error| {
            self.failure.get_or_insert(error);
            ptr::null_mut()
        })
    }

    /// Adds a launch, which runs after those added before.
    pub fn launch(&mut self, launch: CudaLaunch) {
        if !launch.grid.contains(&0) {
            self.launches.push(launch);
        }
    }

    /// The launches, and the scratch memory that must outlive them.
    pub(super) fn finish(self) -> Result<(Vec<CudaLaunch>, Scratch)> {
        match self.failure {
            Some(error) => Err(error),
            None => Ok((self.launches, self.scratch)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::memory::MemoryPool;

    fn plan(quota: Option<usize>) -> Plan {
        let limits = Limits {
            capability: (9, 0),
            sm_count: 132,
            shared_bytes_per_block: 227 << 10,
            shared_bytes_per_sm: 228 << 10,
            l2_bytes: 50 << 20,
        };
        Plan::new(limits, Scratch::new(&MemoryPool::new(Device::Cpu, quota)))
    }

    fn launch(grid: [u32; 3]) -> CudaLaunch {
        CudaLaunch {
            source: "rows",
            function: "rows_gather_f32",
            grid,
            block: [256, 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: 0,
            overlap: false,
            reads_early: Vec::new(),
            holds_back: false,
            delivers: None,
            parameters: Parameters::new(),
        }
    }

    #[test]
    fn empty_launches_are_left_out() {
        let mut plan = plan(None);
        plan.launch(launch([4, 1, 1]));
        plan.launch(launch([4, 0, 1]));
        let (launches, _) = plan.finish().unwrap();
        assert_eq!(launches, [launch([4, 1, 1])]);
    }

    #[test]
    fn a_plan_without_memory_fails() {
        let mut plan = plan(Some(1 << 10));
        assert!(!plan.scratch(100).is_null());
        assert!(plan.scratch(1 << 20).is_null());
        plan.launch(launch([1, 1, 1]));
        let error = plan.finish().err().unwrap().to_string();
        assert!(error.starts_with("out of memory"), "{error}");
    }
}
