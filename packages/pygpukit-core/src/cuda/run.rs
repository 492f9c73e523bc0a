//! Operations on a GPU: planned and launched, or captured as one graph.

use std::iter;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::CudaKernel;
use super::library::Library;
use super::operations;
use super::plan::{CudaLaunch, Plan};
use super::scratch::Scratch;
use crate::device::cuda::{CudaGraph, Function, LaunchCall, LaunchShape};
use crate::device::{Backend, Device, Ordinal};
use crate::dispatch::{KernelArgs, TensorArg};
use crate::error::Result;
use crate::memory::{Block, MemoryPool};

/// A launch with its entry point at hand.
struct Ready {
    kernel: &'static str,
    function: Arc<Function>,
    launch: CudaLaunch,
}

/// Queues `kernel` on the GPU.
///
/// # Errors
/// [`crate::device::DeviceError`] when the GPU has no such kernel, [`crate::memory::OutOfMemory`] for
/// its scratch memory, and [`crate::dispatch::KernelError`] when the launch is refused, or when a kernel
/// launched earlier broke.
pub(crate) fn run(ordinal: Ordinal, kernel: &CudaKernel, args: &KernelArgs<'_>) -> Result<()> {
    let mut ready = Vec::new();
    // What the launches work in may go to later launches of the same queue when this returns.
    let _scratch = plan(ordinal, kernel, args, Scratch::new(pool(ordinal)), &mut ready)?;
    for launch in &mut ready {
        // Who writes what it reads early isn't known.
        launch.launch.overlap &= launch.launch.reads_early.is_empty();
        // SAFETY: the arguments were checked; what `CudaKernel::plan` promises makes the launch valid for
        // them; the caller holds the tensors until they go back to the pool, whose memory is used in the
        // order of the queue, and has ordered the queue after the copies that fill them.
        unsafe { ordinal.cuda().launch(&launch.call()) }?;
    }
    Ok(())
}

/// Captured operations.
pub(crate) struct Program {
    ordinal: Ordinal,
    replay: Replay,
    _scratch: Scratch,
    _joined: Vec<Block>,
}

/// How a [`Program`] is queued.
enum Replay {
    /// As one graph of the GPU, which begins when all that came before has ended.
    Graph(CudaGraph),
    /// Launch by launch, the first of which may begin before the replay before has ended.
    Sequence { number: u64, ready: Vec<Ready> },
}

/// Launches that are queued one by one at most: the host has time for so many.
const MOST_OF_SEQUENCE: usize = 8;

impl Program {
    /// Plans the operations, and makes a graph of their launches unless they are few.
    ///
    /// # Errors
    /// As for [`run`].
    pub(crate) fn new<'a>(
        ordinal: Ordinal,
        operations: impl Iterator<Item = (&'static CudaKernel, KernelArgs<'a>)>,
    ) -> Result<Self> {
        let mut ready = Vec::new();
        let mut written = Vec::new();
        let mut scratch = Scratch::new(pool(ordinal));
        for (kernel, args) in operations {
            let first = ready.len();
            scratch = plan(ordinal, kernel, &args, scratch, &mut ready)?;
            for Ready { launch, .. } in &mut ready[first..] {
                let is_written = |early| written.iter().any(|range| !disjoint(range, early));
                launch.overlap &= !launch.reads_early.iter().any(is_written);
            }
            written.extend(args.written().map(TensorArg::addresses));
        }
        let joined = join(ordinal, &mut ready)?;
        // Who replays a graph takes small results after each; without the kernel they are copied.
        if let Ok(kernel) = Library::of(ordinal).function("step", "step_fetch") {
            ordinal.cuda().fetch_with(kernel);
        }
        let launches = ready.iter().map(|ready| &ready.launch);
        let replay = if may_overlap_itself(launches, &written) && ready.len() <= MOST_OF_SEQUENCE {
            static SEQUENCES: AtomicU64 = AtomicU64::new(0);
            if let Some((_, others)) = ready.split_last_mut() {
                // What comes behind them may write there, too.
                others.iter_mut().for_each(|ready| ready.launch.delivers = None);
            }
            Replay::Sequence { number: SEQUENCES.fetch_add(1, Ordering::Relaxed), ready }
        } else {
            let calls: Vec<_> = ready.iter().map(Ready::call).collect();
            // SAFETY: as in `run`; the graph's owner holds the tensors, and orders each replay after copies.
            Replay::Graph(unsafe { ordinal.cuda().graph(&calls) }?)
        };
        Ok(Program { ordinal, replay, _scratch: scratch, _joined: joined })
    }

    /// Queues all of it.
    ///
    /// # Errors
    /// [`crate::dispatch::KernelError`] when a kernel launched earlier broke.
    pub(crate) fn replay(&self) -> Result<()> {
        match &self.replay {
            // SAFETY: as in `new`.
            Replay::Graph(graph) => unsafe { graph.replay() },
            // SAFETY: as in `new`, for each launch.
            Replay::Sequence { number, ready } => unsafe {
                self.ordinal.cuda().launch_sequence(*number, ready.iter().map(Ready::call))
            },
        }
    }
}

/// Whether launches, which write to `written` together, may begin before their replay before has ended: one
/// holds those behind it back until that is so, and those up to it read nothing early that is written.
fn may_overlap_itself<'a>(
    launches: impl Iterator<Item = &'a CudaLaunch>,
    written: &[Range<usize>],
) -> bool {
    for launch in launches {
        let is_written = |early| written.iter().any(|range| !disjoint(range, early));
        if launch.reads_early.iter().any(is_written) {
            return false;
        }
        if launch.holds_back {
            return true;
        }
    }
    false
}

/// Adds what `kernel` launches to `ready`. Gives the scratch memory back, in use until they have run.
fn plan(
    ordinal: Ordinal,
    kernel: &CudaKernel,
    args: &KernelArgs<'_>,
    scratch: Scratch,
    ready: &mut Vec<Ready>,
) -> Result<Scratch> {
    let mut plan = Plan::new(*ordinal.cuda().limits(), scratch);
    (kernel.plan)(args, &mut plan);
    let (launches, scratch) = plan.finish()?;
    for mut launch in launches {
        launch.parameters.encode_tensor_maps(|map| ordinal.cuda().encode(map))?;
        let function = Library::of(ordinal).function(launch.source, launch.function)?;
        ready.push(Ready { kernel: kernel.signature.name, function, launch });
    }
    Ok(scratch)
}

/// Puts fewer launches in the place of those that can run so. Gives the memory that these work in.
fn join(ordinal: Ordinal, ready: &mut Vec<Ready>) -> Result<Vec<Block>> {
    let (cuda, mut blocks) = (ordinal.cuda(), Vec::new());
    if !cuda.joins_steps() {
        return Ok(blocks);
    }
    let launches: Vec<_> = ready.iter().map(|ready| &ready.launch).collect();
    // From the back, so that what is in front stays in its place.
    for joined in operations::join(&launches, cuda.limits()).into_iter().rev() {
        let mut memory = 0;
        if joined.bytes() > 0 {
            let block = pool(ordinal).allocate(joined.bytes())?;
            let content = joined.content();
            // SAFETY: the block is live and as long; nothing else knows of it.
            unsafe {
                cuda.zero(block.address(), joined.bytes())?;
                cuda.write(block.address(), &content)?;
            }
            memory = block.address().addr() as u64;
            blocks.push(block);
        }
        let (range, launches) = (joined.range(), joined.launches(memory, cuda.limits()));
        let [first, last] = [range.start, range.end - 1].map(|index| ready[index].kernel);
        let kernels = iter::once(first).chain(iter::repeat(last));
        let fewer: Result<Vec<_>> = kernels
            .zip(launches)
            .map(|(kernel, launch)| {
                let function = Library::of(ordinal).function(launch.source, launch.function)?;
                Ok(Ready { kernel, function, launch })
            })
            .collect();
        ready.splice(range, fewer?);
    }
    Ok(blocks)
}

fn disjoint(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start.max(b.start) >= a.end.min(b.end)
}

fn pool(ordinal: Ordinal) -> &'static Arc<MemoryPool> {
    MemoryPool::default_of(Device::Cuda(ordinal))
}

impl Ready {
    fn call(&self) -> LaunchCall<'_> {
        let CudaLaunch { grid, block, cluster, shared_bytes, overlap, .. } = self.launch;
        LaunchCall {
            kernel: self.kernel,
            function: &self.function,
            shape: LaunchShape { grid, block, cluster, shared_bytes, overlap },
            parameters: self.launch.parameters.launch_parameters(),
            delivers: self.launch.delivers.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Parameters;

    #[test]
    fn launches_that_read_early_what_their_replay_writes_wait_for_it() {
        let launch = |reads_early: &[Range<usize>], holds_back| CudaLaunch {
            source: "rows",
            function: "rows_gather",
            grid: [1; 3],
            block: [128, 1, 1],
            cluster: [1; 3],
            shared_bytes: 0,
            overlap: true,
            reads_early: reads_early.to_vec(),
            holds_back,
            delivers: None,
            parameters: Parameters::new(),
        };
        let written = [100..200, 300..400];
        let overlaps = |launches: &[CudaLaunch]| may_overlap_itself(launches.iter(), &written);
        let (first, last) = (launch(&[], false), launch(&[150..151, 160..161], false));
        assert!(overlaps(&[first.clone(), launch(&[0..100, 200..300], true), last.clone()]));
        assert!(!overlaps(&[first.clone(), launch(&[0..101, 200..201], true), last.clone()]));
        assert!(!overlaps(&[last.clone(), launch(&[], true)]));
        assert!(!overlaps(&[first, last]));
        assert!(!overlaps(&[]));
    }
}
