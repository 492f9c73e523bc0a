//! The one way to launch a kernel.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::error::LaunchError;
use super::graph::Graph;
use super::kernel::Kernel;
use super::launch::{Argument, Entry, Launch, Used};
use crate::cuda;
use crate::device::{Device, PerDevice};
use crate::error::Result;
use crate::host;
use crate::memory::{Kept, MemoryPool, Storage};

/// Launches the kernels of one device: checks the arguments, orders them after the copies that fill
/// them, runs, queues or captures, counts.
pub struct KernelDispatchController {
    device: Device,
    kernels: HashMap<&'static str, Arc<Entry>>,
    counters: Arc<Counters>,
}

/// Counters of a controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DispatchStats {
    /// Kernels run, those of replays included.
    pub launches: u64,
    /// Graphs replayed.
    pub replays: u64,
    /// How often each kernel ran, for those that did, by name.
    pub kernels: Vec<(&'static str, u64)>,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) launches: AtomicU64,
    pub(super) replays: AtomicU64,
}

/// What a thread is capturing.
struct Recording {
    /// The controller's counters, which tell controllers apart.
    controller: Arc<Counters>,
    launches: Vec<Launch>,
    /// What lends memory to the tensors that nobody has beside the launches, and those.
    arena: Option<Kept>,
    lent: Vec<(Weak<Storage>, Range<usize>)>,
}

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

static DEFAULT_CONTROLLERS: PerDevice<KernelDispatchController> = PerDevice::new();

impl KernelDispatchController {
    /// A controller of `kernels`, which run on `device`.
    pub fn new(device: Device, kernels: impl IntoIterator<Item = Kernel>) -> Self {
        let entry = |kernel: Kernel| {
            (kernel.signature().name, Arc::new(Entry { kernel, runs: AtomicU64::new(0) }))
        };
        KernelDispatchController {
            device,
            kernels: kernels.into_iter().map(entry).collect(),
            counters: Arc::default(),
        }
    }

    /// The controller of all kernels that this library has for `device`.
    pub fn default_of(device: Device) -> &'static Self {
        DEFAULT_CONTROLLERS.get_or_init(device, || match device {
            Device::Cpu => Self::new(device, host::kernels().iter().map(Kernel::Host)),
            Device::Cuda(ordinal) => Self::new(
                device,
                cuda::kernels().iter().map(|kernel| Kernel::Cuda(ordinal, kernel)),
            ),
        })
    }

    /// The device that it launches on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The names of the kernels, sorted.
    pub fn kernels(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.kernels.keys().copied().collect();
        names.sort_unstable();
        names
    }

    /// Runs the kernel `name` on `arguments`, or queues it where the device has a queue; within a capture
    /// of this thread it is recorded instead.
    ///
    /// # Errors
    /// [`LaunchError`] before anything runs; the failure of a copy that was to fill an argument;
    /// [`super::KernelError`] when the kernel breaks, of a queued one when something next waits for it.
    pub fn launch(&self, name: &str, arguments: Vec<Argument>) -> Result<()> {
        let entry = self.kernels.get(name).ok_or_else(|| self.unknown(name))?;
        let launch = Launch::new(entry, self.device, arguments)?;
        let Some(launch) = self.record(launch) else {
            return Ok(());
        };
        launch.order_after_copies()?;
        launch.run()?;
        entry.runs.fetch_add(1, Ordering::Relaxed);
        self.counters.launches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Captures the launches that `work` makes on this thread.
    ///
    /// # Errors
    /// What `work` returns; [`LaunchError::Capture`] if this thread is capturing already.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.begin_capture(None)?;
        let guard = DiscardOnDrop(self);
        work()?;
        std::mem::forget(guard);
        self.end_capture()
    }

    /// From here on launches of this thread are recorded; [`Self::capture`] in two halves, for callers
    /// that can't pass a closure.
    ///
    /// Tensors of `arena` that are dropped before the end of the capture lend their memory to those that
    /// come after them. Graphs of one arena work in the same memory: a replay leaves nothing in it that
    /// another replay doesn't overwrite, but for tensors that are alive when their capture ends.
    ///
    /// # Errors
    /// [`LaunchError::Capture`] if this thread is capturing already, on any device.
    pub fn begin_capture(&self, arena: Option<&Arc<MemoryPool>>) -> Result<(), LaunchError> {
        RECORDING.with_borrow_mut(|recording| match recording {
            Some(_) => Err(LaunchError::Capture("this thread is capturing a graph already")),
            None => {
                let controller = Arc::clone(&self.counters);
                let arena = arena.map(MemoryPool::keep);
                let (launches, lent) = (Vec::new(), Vec::new());
                *recording = Some(Recording { controller, launches, arena, lent });
                Ok(())
            }
        })
    }

    /// Ends the capture of this thread.
    ///
    /// # Errors
    /// [`LaunchError::Capture`] if this thread captures nothing on this controller; why a GPU can't run
    /// the launches.
    pub fn end_capture(&self) -> Result<Graph> {
        let missing = LaunchError::Capture("this thread has not begun to capture on this device");
        let Recording { controller, launches, arena, lent } =
            self.take_recording().ok_or(missing)?;
        let alive = |(storage, range): (Weak<Storage>, _)| Some((storage.upgrade()?, range));
        let alive = lent.into_iter().filter_map(alive).collect();
        Graph::new(self.device, launches, controller, alive, arena)
    }

    /// Ends the capture of this thread, if there is one on this controller, and forgets it.
    pub fn discard_capture(&self) {
        drop(self.take_recording());
    }

    /// The counters, as of now.
    pub fn stats(&self) -> DispatchStats {
        let runs = |name| self.kernels[name].runs.load(Ordering::Relaxed);
        let counts = self.kernels().into_iter().map(|name| (name, runs(name)));
        DispatchStats {
            launches: self.counters.launches.load(Ordering::Relaxed),
            replays: self.counters.replays.load(Ordering::Relaxed),
            kernels: counts.filter(|&(_, runs)| runs > 0).collect(),
        }
    }

    /// What this thread has captured on this controller, if it captures.
    fn take_recording(&self) -> Option<Recording> {
        RECORDING.with_borrow_mut(|recording| {
            recording.take_if(|recording| Arc::ptr_eq(&recording.controller, &self.counters))
        })
    }

    /// Records the launch if this thread captures on this controller, else gives it back.
    fn record(&self, launch: Launch) -> Option<Launch> {
        RECORDING.with_borrow_mut(|recording| match recording {
            Some(recording) if Arc::ptr_eq(&recording.controller, &self.counters) => {
                recording.push(launch);
                None
            }
            _ => Some(launch),
        })
    }

    fn unknown(&self, name: &str) -> LaunchError {
        LaunchError::UnknownKernel {
            name: name.to_owned(),
            device: self.device.to_string(),
            known: self.kernels().join(", "),
        }
    }
}

impl Recording {
    fn push(&mut self, mut launch: Launch) {
        if let Some(arena) = &self.arena {
            let lends = |used: &mut Used| Arc::ptr_eq(used.0.pool(), arena.pool());
            let lent = launch.memory.extract_if(.., lends);
            self.lent.extend(lent.map(|(storage, range)| (Arc::downgrade(&storage), range)));
        }
        self.launches.push(launch);
    }
}

/// Forgets a capture that an error or a panic cuts short.
struct DiscardOnDrop<'a>(&'a KernelDispatchController);

impl Drop for DiscardOnDrop<'_> {
    fn drop(&mut self) {
        self.0.discard_capture();
    }
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
