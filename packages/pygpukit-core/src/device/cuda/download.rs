//! Copies from the GPU through page-locked memory.

use std::sync::{Mutex, PoisonError};

use cudarc::driver::result::DriverError;

use super::Cuda;
use super::context::Context;
use super::journal::Mark;
use super::memory::PinnedMemory;
use super::stream::{Stream, StreamEvent};
use crate::device::Download;
use crate::error::Result;

/// What a slot holds at least: ids and log-probabilities of many sequences.
const SLOT_BYTES: usize = 64 << 10;

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
    /// As for [`Stream::download`], until the copy has been made.
    pub(super) unsafe fn new(
        cuda: &'static Cuda,
        stream: &Stream,
        source: *const u8,
        bytes: usize,
    ) -> Result<Self, DriverError> {
        let mut slot = cuda.download_slots.take(cuda.context, bytes)?;
        let mark = cuda.context.journal().mark();
        // SAFETY: the caller vouches for the source; the slot is this download's until it has ended.
        unsafe { stream.download(source, &mut slot.memory.as_mut_slice()[..bytes]) }?;
        slot.end.record(stream)?;
        Ok(CudaDownload { cuda, slot: Some(slot), bytes, mark })
    }
}

impl Download for CudaDownload {
    fn wait(mut self: Box<Self>) -> Result<Vec<u8>> {
        let slot = self.slot.as_mut().expect("there until it is dropped");
        self.cuda.explained("copying from the GPU", slot.end.wait())?;
        self.cuda.context.journal().clear_until(&self.mark);
        Ok(slot.memory.as_mut_slice()[..self.bytes].to_vec())
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
