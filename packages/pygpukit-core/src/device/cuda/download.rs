//! Copies from the GPU through page-locked memory.

use std::hint;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use bytemuck::{NoUninit, Pod, Zeroable};
use cudarc::driver::result::DriverError;

use super::context::Context;
use super::journal::Mark;
use super::memory::PinnedMemory;
use super::stream::StreamEvent;
use super::{Cuda, Function, Latest, LaunchCall, LaunchParameters, LaunchShape};
use crate::device::Download;
use crate::error::Result;

const ACTION: &str = "copying from the GPU";

/// What a slot holds at least: ids and log-probabilities of many sequences.
const SLOT_BYTES: usize = 64 << 10;

/// What a kernel brings to the host sooner than the copy engine.
const SHORT: usize = 4 << 10;

/// Of the beginning of a slot, where only kernels write: words of 4 bytes, each with a tag.
const TAGGED_BYTES: usize = 2 * SHORT;

/// Questions for a word after which the GPU is asked how it is, and other threads are let go first.
const PATIENCE: u32 = 1 << 14;

/// `Delivery` of common/step_end.cuh: where a kernel brings words of 4 bytes on the host.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Delivery {
    out: u64,
    tag: u32,
    padding: u32,
}

/// `FetchArgs` of step.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct FetchArgs {
    to: Delivery,
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
    /// Of the words that a kernel brings next; other than of any before, nearly always. So nobody needs to
    /// wait for those that nobody wants.
    tag: u32,
}

impl DownloadSlots {
    fn take(&self, context: &'static Context, bytes: usize) -> Result<Slot, DriverError> {
        let free = || self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if bytes <= SLOT_BYTES
            && let Some(slot) = free()
        {
            return Ok(Slot { tag: slot.tag.wrapping_add(1), ..slot });
        }
        let memory = PinnedMemory::new(context, TAGGED_BYTES + bytes.max(SLOT_BYTES))?;
        Ok(Slot { memory, end: StreamEvent::new(context)?, tag: 1 })
    }

    fn give_back(&self, slot: Slot) {
        if slot.memory.bytes() == TAGGED_BYTES + SLOT_BYTES {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        }
    }
}

impl Slot {
    /// For a kernel that brings words here. The GPU has page-locked memory at the addresses that the host
    /// has it at.
    fn delivery(&mut self) -> Delivery {
        let out = self.memory.as_mut_slice().as_mut_ptr().addr() as u64;
        Delivery { out, tag: self.tag, padding: 0 }
    }

    /// What the copy engine brings.
    fn copied(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.memory.as_mut_slice()[TAGGED_BYTES..][..bytes]
    }

    /// What a kernel brings: a value, and above it the tag.
    fn tagged(&self, words: usize) -> &[AtomicU64] {
        &self.memory.as_words()[..words]
    }
}

/// Words that a launch brings to the host beside what it does, until a download asks for them.
pub(super) struct Delivered {
    cuda: &'static Cuda,
    source: Range<usize>,
    /// Absent only while it is dropped, or once it is a download's.
    slot: Option<Slot>,
}

impl Delivered {
    /// Queues a launch on the compute stream that delivers `words`, if those aren't too many.
    ///
    /// # Errors
    /// As for [`Cuda::launch`].
    ///
    /// # Safety
    /// As for [`Cuda::launch`].
    pub(super) unsafe fn launch(
        cuda: &'static Cuda,
        call: &LaunchCall<'_>,
        words: &Range<usize>,
    ) -> Result<Option<Self>> {
        if words.len() > SHORT {
            // SAFETY: the caller vouches for it.
            return unsafe { cuda.launch_on(&cuda.compute, call) }.map(|()| None);
        }
        let mut slot = cuda.explained(ACTION, cuda.download_slots.take(cuda.context, 0))?;
        let LaunchParameters { bytes, starts } = call.parameters;
        let (mut bytes, last) = (bytes.to_vec(), starts[starts.len() - 1]);
        bytes[last..].copy_from_slice(bytemuck::bytes_of(&slot.delivery()));
        let delivered = Delivered { cuda, source: words.clone(), slot: Some(slot) };
        let call = LaunchCall { parameters: LaunchParameters { bytes: &bytes, starts }, ..*call };
        // SAFETY: the caller vouches for it; only this writes there with the slot's tag.
        unsafe { cuda.launch_on(&cuda.compute, &call) }?;
        Ok(Some(delivered))
    }
}

impl Drop for Delivered {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.cuda.download_slots.give_back(slot);
        }
    }
}

/// How the end of a download shows.
#[derive(Clone, Copy)]
enum End {
    /// Each word has its tag.
    Tags { words: usize },
    /// By the slot's event.
    Event,
}

/// A copy that the compute stream makes when it gets there.
pub(super) struct CudaDownload {
    cuda: &'static Cuda,
    /// Absent only while it is dropped.
    slot: Option<Slot>,
    bytes: usize,
    end: End,
    /// What had been launched before.
    mark: Mark,
}

impl CudaDownload {
    /// Queues the copy, unless the launches before deliver it anyway.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// `source` is the address of `bytes` bytes of live memory of the GPU that nothing outside the compute
    /// stream writes until the copy has been made.
    pub(super) unsafe fn new(cuda: &'static Cuda, source: *const u8, bytes: usize) -> Result<Self> {
        let mark = cuda.context.journal().mark();
        let words = End::Tags { words: bytes / 4 };
        if let Some(slot) = delivered(cuda, source.addr()..source.addr() + bytes) {
            return Ok(CudaDownload { cuda, slot: Some(slot), bytes, end: words, mark });
        }
        let mut slot = cuda.explained(ACTION, cuda.download_slots.take(cuda.context, bytes))?;
        let is_short = bytes <= SHORT && bytes.is_multiple_of(4) && source.addr().is_multiple_of(4);
        let end = match cuda.fetch_kernel.get().filter(|_| is_short) {
            Some(kernel) => {
                // SAFETY: the caller vouches for the source.
                unsafe { fetch(cuda, kernel, slot.delivery(), source, bytes) }?;
                words
            }
            None => {
                let stream = cuda.compute();
                // SAFETY: as above; the slot is this download's until it has ended.
                let copied = unsafe { stream.download(source, slot.copied(bytes)) };
                cuda.explained(ACTION, copied.and_then(|()| slot.end.record(stream)))?;
                End::Event
            }
        };
        Ok(CudaDownload { cuda, slot: Some(slot), bytes, end, mark })
    }

    /// Waits until the copy has been made.
    fn arrive(&self, slot: &Slot) -> Result<()> {
        let End::Tags { words } = self.end else {
            return self.cuda.explained(ACTION, slot.end.wait());
        };
        for word in slot.tagged(words) {
            let mut asked = 0u32;
            while word.load(Ordering::Acquire) >> 32 != u64::from(slot.tag) {
                hint::spin_loop();
                asked = asked.wrapping_add(1);
                if asked.is_multiple_of(PATIENCE) {
                    // Also an error of an earlier kernel ends the wait.
                    self.cuda.explained(ACTION, self.cuda.compute.is_idle())?;
                    thread::yield_now();
                }
            }
        }
        Ok(())
    }
}

/// The slot that what lies at `source` is delivered to by what was queued last.
fn delivered(cuda: &Cuda, source: Range<usize>) -> Option<Slot> {
    match &mut *cuda.latest() {
        Latest::Sequence(_, Some(found)) if found.source == source => found.slot.take(),
        _ => None,
    }
}

/// Has `kernel` bring words to the host.
///
/// # Errors
/// As for [`Cuda::launch`].
///
/// # Safety
/// As for [`CudaDownload::new`].
unsafe fn fetch(
    cuda: &Cuda,
    kernel: &Function,
    to: Delivery,
    source: *const u8,
    bytes: usize,
) -> Result<()> {
    let (source, words) = (source.addr() as u64, (bytes / 4) as i32);
    let arguments = FetchArgs { to, source, words, padding: 0 };
    let (grid, block, cluster) = ([1; 3], [128, 1, 1], [1; 3]);
    let shape = LaunchShape { grid, block, cluster, shared_bytes: 0, overlap: true };
    let parameters = LaunchParameters { bytes: bytemuck::bytes_of(&arguments), starts: &[0] };
    let call = LaunchCall { kernel: "fetch", function: kernel, shape, parameters, delivers: None };
    // SAFETY: the caller vouches for the source; the kernel takes this and writes to the slot.
    unsafe { cuda.launch_on(&cuda.compute, &call) }
}

impl Download for CudaDownload {
    fn wait(mut self: Box<Self>) -> Result<Vec<u8>> {
        let mut slot = self.slot.take().expect("there until now");
        let arrived = self.arrive(&slot);
        let content = match self.end {
            End::Event => slot.copied(self.bytes).to_vec(),
            End::Tags { words } => {
                let value = |word: &AtomicU64| (word.load(Ordering::Relaxed) as u32).to_le_bytes();
                slot.tagged(words).iter().flat_map(value).collect()
            }
        };
        self.slot = Some(slot);
        arrived?;
        self.cuda.context.journal().clear_until(&self.mark);
        Ok(content)
    }
}

impl Drop for CudaDownload {
    fn drop(&mut self) {
        let slot = self.slot.take().expect("dropped once");
        if matches!(self.end, End::Event) {
            // Where waiting fails nothing runs any more, and later calls report it.
            let _ = self.arrive(&slot);
        }
        self.cuda.download_slots.give_back(slot);
    }
}
