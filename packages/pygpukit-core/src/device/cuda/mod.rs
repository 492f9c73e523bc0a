//! NVIDIA GPUs, through the driver API. Every driver call is in here.
//!
//! A GPU has one compute stream, which launches, host access and copies within the GPU go through in
//! order, and a copy stream for each fill thread. Events order them: a copy waits for what was computed
//! before its upload began, and the compute stream for the copies that fill what is launched on. Nothing
//! waits for the whole GPU, but the return of memory to it.

mod context;
mod download;
mod driver;
#[cfg(feature = "python")]
mod foreign;
mod graph;
mod journal;
mod lane;
mod launch;
mod limits;
mod memory;
mod module;
mod ring;
mod stream;
mod tensor_map;

use std::ffi::{CStr, c_int};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::result::{self, DriverError};

use self::context::{Context, text};
pub(crate) use self::download::Delivery;
use self::download::{CudaDownload, Delivered, DownloadSlots};
pub use self::driver::Ordinal;
#[cfg(feature = "python")]
pub(crate) use self::foreign::ForeignStream;
use self::graph::ExecutableGraph;
use self::lane::{CopyStreams, CudaLane};
pub(crate) use self::launch::{LaunchParameters, LaunchShape};
pub use self::limits::Limits;
use self::memory::DeviceMemory;
pub(crate) use self::module::{Function, Module};
use self::ring::Ring;
use self::stream::Stream;
pub(crate) use self::stream::StreamEvent;
pub(crate) use self::tensor_map::EncodedTensorMap;
pub use self::tensor_map::{TensorMap, TensorMapDimension};
use super::{Allocation, Backend, DeviceError, DeviceInfo, Download, Fence, Lane, MemoryInfo};
use crate::dispatch::KernelError;
use crate::error::{Error, Result};

/// The oldest GPUs that kernels are written for: Ampere.
const CAPABILITY_NEEDED: (u32, u32) = (8, 0);

/// The first GPUs that may start a kernel before the one before has ended: Hopper.
const OVERLAP_SINCE: (u32, u32) = (9, 0);

/// Writes up to this size go through pinned memory, which is quicker and doesn't keep the caller waiting.
const SMALL: usize = 64 << 10;

/// Small writes that may be under way at once.
const SMALL_WRITES: usize = 16;

/// A GPU.
pub(crate) struct Cuda {
    context: &'static Context,
    name: String,
    driver: (u32, u32),
    limits: Limits,
    /// Through [`Cuda::compute`], but for what may come between two runs of a sequence.
    compute: Stream,
    /// What was queued last there.
    latest: Mutex<Latest>,
    copies: CopyStreams,
    small_writes: Mutex<Ring>,
    download_slots: DownloadSlots,
    /// Makes short downloads, once it is known.
    fetch_kernel: OnceLock<Arc<Function>>,
    /// Whether the environment asks for launches to wait for their end.
    launches_block: bool,
    /// Whether steps of a graph that can run in one launch do.
    joins_steps: bool,
}

/// What is launched and with which parameters.
pub(crate) struct LaunchCall<'a> {
    /// The name of the operation, for errors.
    pub(crate) kernel: &'static str,
    pub(crate) function: &'a Function,
    pub(crate) shape: LaunchShape,
    pub(crate) parameters: LaunchParameters<'a>,
    /// The addresses of what it can deliver: its last parameter is a [`Delivery`].
    pub(crate) delivers: Option<&'a Range<usize>>,
}

/// What was queued last on the compute stream, but for downloads.
enum Latest {
    /// A sequence of launches, and what they deliver.
    Sequence(u64, Option<Delivered>),
    Other,
    /// Other libraries may queue something behind whatever it is.
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "Python gives the stream away"))]
    Unknown,
}

impl Latest {
    fn becomes(&mut self, next: Latest) {
        if !matches!(self, Latest::Unknown) {
            *self = next;
        }
    }
}

/// Launches that are replayed together.
pub(crate) struct CudaGraph {
    cuda: &'static Cuda,
    executable: Mutex<ExecutableGraph>,
    /// Every kernel once, for errors.
    kernels: Vec<&'static str>,
}

impl Cuda {
    /// Opens the GPU with the number `index`, under a driver of that version.
    fn open(index: u32, driver: (u32, u32)) -> Result<Self, DeviceError> {
        let action = "opening the GPU";
        let failed = |error| DeviceError::Driver { index, action, reason: text(error) };
        let device = result::device::get(index as c_int).map_err(failed)?;
        let name = result::device::get_name(device).map_err(failed)?;
        let limits = Limits::of(device).map_err(failed)?;
        if limits.capability < CAPABILITY_NEEDED {
            let (found, needed) = (limits.capability, CAPABILITY_NEEDED);
            return Err(DeviceError::GpuTooOld { index, name, found, needed });
        }
        // Streams, memory and kernels refer to it until the process ends.
        let context: &'static Context =
            Box::leak(Box::new(Context::retain(index, device).map_err(failed)?));
        Ok(Cuda {
            context,
            name,
            driver,
            limits,
            compute: Stream::new(context).map_err(failed)?,
            latest: Mutex::new(Latest::Other),
            copies: CopyStreams::default(),
            small_writes: Mutex::new(Ring::new(context, SMALL_WRITES, SMALL).map_err(failed)?),
            download_slots: DownloadSlots::default(),
            fetch_kernel: OnceLock::new(),
            launches_block: std::env::var("CUDA_LAUNCH_BLOCKING").is_ok_and(|value| value == "1"),
            joins_steps: std::env::var("PYGPUKIT_JOIN_STEPS").map_or(true, |value| value != "0"),
        })
    }

    /// What a kernel may count on.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether steps of a graph that can run in one launch do, as the environment may forbid.
    pub(crate) fn joins_steps(&self) -> bool {
        self.joins_steps
    }

    /// Model name and number, for errors.
    pub(crate) fn describe(&self) -> String {
        let (major, minor) = self.limits.capability;
        format!("{} (compute capability {major}.{minor})", self.name)
    }

    /// Loads a cubin or PTX.
    ///
    /// # Errors
    /// What the driver, and its compiler, say.
    pub(crate) fn load_module(&self, image: Vec<u8>) -> Result<Module, String> {
        Module::load(self.context, image)
    }

    /// The entry point `name` of `module`.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn function(&self, module: &Module, name: &CStr) -> Result<Function, String> {
        module.function(name).map_err(text)
    }

    /// Has a kernel make short downloads from now on: `step_fetch` of step.cu, which this module, below
    /// those that find kernels, has to be given.
    pub(crate) fn fetch_with(&self, kernel: Arc<Function>) {
        let _ = self.fetch_kernel.set(kernel);
    }

    /// Queues a launch.
    ///
    /// # Errors
    /// [`KernelError`] when the driver refuses the launch, or a kernel launched earlier broke.
    ///
    /// # Safety
    /// As for [`Stream::launch`].
    pub(crate) unsafe fn launch(&self, call: &LaunchCall<'_>) -> Result<()> {
        self.context.journal().note(call.kernel);
        // SAFETY: the caller vouches for it.
        unsafe { self.launch_on(self.compute(), call) }?;
        if self.launches_block {
            self.context.journal().clear_until(&self.context.journal().mark());
        }
        Ok(())
    }

    /// Queues launches, one after the other. The first one may overlap what is before it only if that is a
    /// run of the same sequence, as its `number` tells, or downloads behind one.
    ///
    /// # Errors
    /// As for [`Cuda::launch`].
    ///
    /// # Safety
    /// As for [`Stream::launch`], for every launch.
    pub(crate) unsafe fn launch_sequence<'a>(
        &'static self,
        number: u64,
        calls: impl Iterator<Item = LaunchCall<'a>>,
    ) -> Result<()> {
        // Kept until all are queued, so that nothing comes between them.
        let mut latest = self.latest();
        let mut follows = matches!(*latest, Latest::Sequence(before, _) if before == number);
        latest.becomes(Latest::Other);
        let mut delivered = None;
        for mut call in calls {
            self.context.journal().note(call.kernel);
            call.shape.overlap &= follows;
            follows = true;
            // SAFETY: the caller vouches for it.
            unsafe {
                match call.delivers {
                    Some(words) => delivered = Delivered::launch(self, &call, words)?,
                    None => self.launch_on(&self.compute, &call)?,
                }
            }
        }
        latest.becomes(Latest::Sequence(number, delivered));
        Ok(())
    }

    /// The compute stream, to queue something else than a sequence.
    fn compute(&self) -> &Stream {
        self.latest().becomes(Latest::Other);
        &self.compute
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a graph of launches.
    ///
    /// # Errors
    /// As for [`Cuda::launch`].
    ///
    /// # Safety
    /// As for [`Stream::launch`], for every launch and each time that the graph is replayed.
    pub(crate) unsafe fn graph(&'static self, calls: &[LaunchCall<'_>]) -> Result<CudaGraph> {
        let executable = ExecutableGraph::capture(&self.compute, |stream| {
            // SAFETY: the caller vouches for each.
            calls.iter().try_for_each(|call| unsafe { self.launch_on(stream, call) })
        })?;
        let mut kernels: Vec<_> = calls.iter().map(|call| call.kernel).collect();
        kernels.sort_unstable();
        kernels.dedup();
        Ok(CudaGraph { cuda: self, executable: Mutex::new(executable), kernels })
    }

    /// # Safety
    /// As for [`Stream::launch`].
    unsafe fn launch_on(&self, stream: &Stream, call: &LaunchCall<'_>) -> Result<()> {
        let mut shape = call.shape;
        shape.overlap &= self.limits.capability >= OVERLAP_SINCE;
        // SAFETY: the caller vouches for it.
        let launched = unsafe { stream.launch(call.function, &shape, call.parameters) };
        launched.map_err(|error| match self.context.explain("a launch", error) {
            Error::Device(DeviceError::Driver { reason, .. }) => {
                let kernel = call.kernel;
                KernelError::Refused { kernel, reason: format!("{reason}: {shape:?}") }.into()
            }
            fault => fault,
        })
    }

    /// Waits until everything queued on the compute stream so far is done.
    fn wait(&self) -> Result<(), DriverError> {
        let (mark, event) = (self.context.journal().mark(), StreamEvent::new(self.context)?);
        event.record(&self.compute)?;
        event.wait()?;
        self.context.journal().clear_until(&mark);
        Ok(())
    }

    fn explained<T>(&self, action: &'static str, result: Result<T, DriverError>) -> Result<T> {
        result.map_err(|error| self.context.explain(action, error))
    }
}

impl CudaGraph {
    /// Queues all launches.
    ///
    /// # Errors
    /// As for [`Cuda::launch`].
    ///
    /// # Safety
    /// As for [`Cuda::graph`].
    pub(crate) unsafe fn replay(&self) -> Result<()> {
        for kernel in &self.kernels {
            self.cuda.context.journal().note(kernel);
        }
        let mut executable = self.executable.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller vouches for the launches.
        unsafe { executable.launch(self.cuda.compute()) }
    }
}

impl Backend for Cuda {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: self.name.clone(),
            cores: self.limits.sm_count as usize,
            memory: self.memory(),
            capability: Some(self.limits.capability),
            driver: Some(self.driver),
        }
    }

    fn memory(&self) -> MemoryInfo {
        let info = self.context.bind().and_then(|_bound| result::mem_get_info());
        // A GPU that can't say has none to give.
        let (available, total) = info.unwrap_or_default();
        MemoryInfo { total: total as u64, available: available as u64 }
    }

    fn allocate(&self, bytes: usize) -> Result<Option<Box<dyn Allocation>>> {
        let memory = self.explained("allocating", DeviceMemory::new(self.context, bytes))?;
        Ok(memory.map(|memory| Box::new(memory) as _))
    }

    fn lane(&'static self) -> Box<dyn Lane> {
        Box::new(CudaLane::new(self.context, &self.copies))
    }

    fn fence(&self) -> Result<Fence> {
        let event = self.compute.is_idle().and_then(|idle| match idle {
            true => Ok(None),
            false => self.compute.event().map(|event| Some(Arc::new(event))),
        });
        self.explained("ordering a copy", event).map(Fence)
    }

    fn order_after_copies(&self) -> Result<()> {
        self.explained("waiting for copies", self.copies.order_before(self.compute()))
    }

    unsafe fn read(&self, source: *const u8, out: &mut [u8]) -> Result<()> {
        // SAFETY: the caller vouches for the source; `out` is its own memory, and is left alone until
        // the copy is done.
        let copied = unsafe { self.compute().download(source, out) }.and_then(|()| self.wait());
        self.explained("copying from the GPU", copied)
    }

    unsafe fn fetch(&'static self, source: *const u8, bytes: usize) -> Result<Box<dyn Download>> {
        // SAFETY: the caller vouches for the source.
        Ok(Box::new(unsafe { CudaDownload::new(self, source, bytes) }?))
    }

    unsafe fn write(&self, target: *mut u8, bytes: &[u8]) -> Result<()> {
        if bytes.len() > SMALL {
            // SAFETY: the caller vouches for the target; `bytes` are there until the copy is done.
            let copied = unsafe { self.compute().upload(target, bytes) }.and_then(|()| self.wait());
            return self.explained("copying to the GPU", copied);
        }
        let mut fill = |slot: &mut [u8]| {
            slot.copy_from_slice(bytes);
            Ok(())
        };
        let mut ring = self.small_writes.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller vouches for the target; the stream orders it with everything else.
        unsafe { ring.send(self.compute(), target, bytes.len(), &mut fill) }.map(drop)
    }

    unsafe fn copy(&self, source: *const u8, target: *mut u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller vouches for both; the stream orders them with everything else.
        self.explained("copying", unsafe { self.compute().copy(source, target, bytes) })
    }

    unsafe fn zero(&self, target: *mut u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller vouches for the target; the stream orders it with everything else.
        self.explained("clearing memory", unsafe { self.compute().zero(target, bytes) })
    }
}
