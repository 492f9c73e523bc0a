//! Captured launches that run again and again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::args::KernelArgs;
use super::controller::Counters;
use super::kernel::Kernel;
use super::launch::{Entry, Launch, Used};
use crate::cuda::{self, CudaKernel};
use crate::device::Device;
use crate::error::Result;
use crate::memory::Kept;

/// A list of launches, in order, with the tensors that they use.
///
/// It is made by [`super::KernelDispatchController::capture`]. The tensors stay alive and in place as
/// long as the graph does, so a replay sees what was written into them since; those of an arena that were
/// dropped before the end of the capture have none but what the replay itself puts there.
pub struct Graph {
    launches: Vec<Launch>,
    /// Every storage once, with the range that some launch uses.
    memory: Vec<Used>,
    /// Every kernel once, with the number of its launches.
    kernels: Vec<(Arc<Entry>, u64)>,
    counters: Arc<Counters>,
    /// What a GPU runs in place of the launches.
    program: Option<cuda::Program>,
    /// Keeps the memory of the tensors that `memory` doesn't have.
    _arena: Option<Kept>,
    /// Two replays at once would work on the same tensors.
    replaying: Mutex<()>,
}

impl Graph {
    pub(super) fn new(
        device: Device,
        launches: Vec<Launch>,
        counters: Arc<Counters>,
        alive: Vec<Used>,
        arena: Option<Kept>,
    ) -> Result<Self> {
        let program = match device {
            Device::Cpu => None,
            Device::Cuda(ordinal) => Some(cuda::Program::new(ordinal, cuda_operations(&launches))?),
        };
        Ok(Graph {
            memory: distinct_memory(
                launches.iter().flat_map(|launch| &launch.memory).chain(&alive),
            ),
            kernels: distinct_kernels(&launches),
            launches,
            counters,
            program,
            _arena: arena,
            replaying: Mutex::new(()),
        })
    }

    /// Runs the launches in order, or queues them where the device has a queue. Threads that replay the
    /// same graph take turns.
    ///
    /// # Errors
    /// The failure of a copy that was to fill one of the tensors, before anything runs;
    /// [`super::KernelError`] when a kernel breaks, the launches after it not having run, of a queued one
    /// when something next waits for it.
    pub fn replay(&self) -> Result<()> {
        let _turn = self.replaying.lock().unwrap_or_else(PoisonError::into_inner);
        for (storage, range) in &self.memory {
            storage.order_after_copies(range)?;
        }
        match &self.program {
            Some(program) => program.replay()?,
            None => self.launches.iter().try_for_each(Launch::run)?,
        }
        for (entry, launches) in &self.kernels {
            entry.runs.fetch_add(*launches, Ordering::Relaxed);
        }
        self.counters.launches.fetch_add(self.launches.len() as u64, Ordering::Relaxed);
        self.counters.replays.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The launches, in order.
    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }
}

/// The kernels of a GPU with their arguments; a controller has those of its own device only.
fn cuda_operations(
    launches: &[Launch],
) -> impl Iterator<Item = (&'static CudaKernel, KernelArgs<'_>)> {
    launches.iter().filter_map(|launch| match launch.entry.kernel {
        Kernel::Cuda(_, kernel) => Some((kernel, launch.args())),
        Kernel::Host(_) => None,
    })
}

fn distinct_memory<'a>(used: impl Iterator<Item = &'a Used>) -> Vec<Used> {
    let mut memory: Vec<Used> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for (storage, range) in used {
        let place = *places.entry(Arc::as_ptr(storage)).or_insert_with(|| {
            memory.push((Arc::clone(storage), range.clone()));
            memory.len() - 1
        });
        let whole = &mut memory[place].1;
        *whole = whole.start.min(range.start)..whole.end.max(range.end);
    }
    memory
}

fn distinct_kernels(launches: &[Launch]) -> Vec<(Arc<Entry>, u64)> {
    let mut kernels: Vec<(Arc<Entry>, u64)> = Vec::new();
    for launch in launches {
        match kernels.iter_mut().find(|(entry, _)| Arc::ptr_eq(entry, &launch.entry)) {
            Some((_, count)) => *count += 1,
            None => kernels.push((Arc::clone(&launch.entry), 1)),
        }
    }
    kernels
}
