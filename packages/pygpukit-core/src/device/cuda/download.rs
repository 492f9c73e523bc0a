//! Copies from the GPU through page-locked memory.

use std::sync::{Mutex, PoisonError};

use bytemuck::NoUninit;
use cudarc::driver::result::DriverError;

use super::context::Context;
use super::journal::Mark;
use super::memory::PinnedMemory;
use super::stream::StreamEvent;
use super::{Cuda, LaunchCall, LaunchParameters, LaunchShape};
use crate::device::Download;
use crate::error::Result;

/// What a slot holds at least: ids and log-probabilities of many sequences.
const SLOT_BYTES: usize = 64 << 10;

/// What a kernel brings to the host sooner than the copy engine.
const SHORT: usize = 4 << 10;

/// `FetchArgs` of step.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct FetchArgs {
    out: u64,
    source: u64,
    words: i32,
    padding: i32,
}

/// Slots that no download is using.
#[derive(Default)]
pub(super) struct DownloadSlots(Mutex<Vec<Slot>>);

/// Page-locked memory, and the end of the copy into it.
struct Slot {
    memory: PinnedMemory,
    end: StreamEvent,
}

impl DownloadSlots {
    fn take(&self, context: &'static Context, bytes: usize) -> Result<Slot, DriverError> {
        if bytes <= SLOT_BYTES
            && let Some(slot) = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
        {
            return Ok(slot);
        }
        let memory = PinnedMemory::new(context, bytes.max(SLOT_BYTES))?;
        Ok(Slot { memory, end: StreamEvent::new(context)? })
    }

    fn give_back(&self, slot: Slot) {
        if slot.memory.bytes() == SLOT_BYTES {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        }
    }
}

/// A copy that the compute stream makes when it gets there.
pub(super) struct CudaDownload {
    cuda: &'static Cuda,
    /// Absent only while it is dropped.
    slot: Option<Slot>,
    bytes: usize,
    /// What had been launched before.
    mark: Mark,
}

impl CudaDownload {
    /// Queues the copy.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// `source` is the address of `bytes` bytes of live memory of the GPU that nothing outside the compute
    /// stream writes until the copy has been made.
    pub(super) unsafe fn new(cuda: &'static Cuda, source: *const u8, bytes: usize) -> Result<Self> {
        let action = "copying from the GPU";
        let slot = cuda.explained(action, cuda.download_slots.take(cuda.context, bytes))?;
        let mark = cuda.context.journal().mark();
        let mut download = CudaDownload { cuda, slot: Some(slot), bytes, mark };
        // SAFETY: the caller vouches for the source; the slot is this download's until it has ended.
        unsafe { download.queue(source) }?;
        cuda.explained(action, download.slot().end.record(&cuda.compute))?;
        Ok(download)
    }

    /// # Safety
    /// As for [`CudaDownload::new`].
    unsafe fn queue(&mut self, source: *const u8) -> Result<()> {
        let (cuda, bytes) = (self.cuda, self.bytes);
        let out = &mut self.slot().memory.as_mut_slice()[..bytes];
        let is_short = bytes <= SHORT && bytes.is_multiple_of(4) && source.addr().is_multiple_of(4);
        let Some(kernel) = cuda.fetch_kernel.get().filter(|_| is_short) else {
            // SAFETY: the caller vouches for the source.
            let copied = unsafe { cuda.compute.download(source, out) };
            return cuda.explained("copying from the GPU", copied);
        };
        // The GPU has page-locked memory at the addresses that the host has it at.
        let (out, source) = (out.as_mut_ptr().addr() as u64, source.addr() as u64);
        let arguments = FetchArgs { out, source, words: (bytes / 4) as i32, padding: 0 };
        let (grid, block, cluster) = ([1; 3], [128, 1, 1], [1; 3]);
        let shape = LaunchShape { grid, block, cluster, shared_bytes: 0, overlap: true };
        let parameters = LaunchParameters { bytes: bytemuck::bytes_of(&arguments), starts: &[0] };
        let call = LaunchCall { kernel: "fetch", function: kernel, shape, parameters };
        // SAFETY: the caller vouches for the source; the kernel takes this and writes to the slot.
        unsafe { cuda.launch_on(&cuda.compute, &call) }
    }

    fn slot(&mut self) -> &mut Slot {
        self.slot.as_mut().expect("there until it is dropped")
    }
}

impl Download for CudaDownload {
    fn wait(mut self: Box<Self>) -> Result<Vec<u8>> {
        let (cuda, bytes) = (self.cuda, self.bytes);
        cuda.explained("copying from the GPU", self.slot().end.wait())?;
        cuda.context.journal().clear_until(&self.mark);
        Ok(self.slot().memory.as_mut_slice()[..bytes].to_vec())
    }
}

impl Drop for CudaDownload {
    fn drop(&mut self) {
        let slot = self.slot.take().expect("dropped once");
        // Where waiting fails nothing runs any more, and later calls report it.
        let _ = slot.end.wait();
        self.cuda.download_slots.give_back(slot);
    }
}
