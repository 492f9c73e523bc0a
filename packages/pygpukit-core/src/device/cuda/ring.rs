//! Pinned slots that bytes on their way to the GPU are produced in.

use cudarc::driver::result::DriverError;

use super::context::Context;
use super::memory::PinnedMemory;
use super::stream::{Stream, StreamEvent};
use crate::device::{Done, Fill};
use crate::error::Result;

/// Slots used in turn: while one is copied from, the next is filled.
pub(super) struct Ring {
    slots: Box<[Slot]>,
    next: usize,
}

/// Pinned memory, and the last copy from it.
pub(super) struct Slot {
    context: &'static Context,
    /// Bytes that its memory has at least, once it is used.
    bytes: usize,
    memory: Option<PinnedMemory>,
    end: StreamEvent,
    /// Told how the copy has ended.
    done: Option<Done>,
}

impl Ring {
    /// A ring of `count` slots of `bytes` bytes, which they take when they are first used.
    pub(super) fn new(
        context: &'static Context,
        count: usize,
        bytes: usize,
    ) -> Result<Self, DriverError> {
        let slot = |_| {
            let end = StreamEvent::new(context)?;
            Ok(Slot { context, bytes, memory: None, end, done: None })
        };
        Ok(Ring { slots: (0..count).map(slot).collect::<Result<_, _>>()?, next: 0 })
    }

    /// Has `fill` produce `bytes` bytes in the next slot, once that is free, and queues their copy to
    /// `target`. Returns the slot.
    ///
    /// # Errors
    /// What `fill` returns and what the driver refuses.
    ///
    /// # Safety
    /// `target` is the address of `bytes` bytes of live memory of the GPU that nothing outside `stream`
    /// touches until the copy is done.
    pub(super) unsafe fn send(
        &mut self,
        stream: &Stream,
        target: *mut u8,
        bytes: usize,
        fill: Fill<'_>,
    ) -> Result<&mut Slot> {
        let following = (self.next + 1) % self.slots.len();
        let slot = &mut self.slots[std::mem::replace(&mut self.next, following)];
        slot.finish();
        // SAFETY: the caller vouches for the target; the slot is free.
        unsafe { slot.send(stream, target, bytes, fill) }?;
        Ok(slot)
    }

    /// Waits for the copies under way, the oldest first.
    pub(super) fn finish(&mut self) {
        let (newer, older) = self.slots.split_at_mut(self.next);
        older.iter_mut().chain(newer).for_each(Slot::finish);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Slot {
    /// Has a later call of the ring, of any method, tell `done` how the copy from the slot has ended.
    pub(super) fn tell(&mut self, done: Done) {
        self.done = Some(done);
    }

    /// # Safety
    /// As for [`Ring::send`]; the last copy from the slot has ended.
    unsafe fn send(
        &mut self,
        stream: &Stream,
        target: *mut u8,
        bytes: usize,
        fill: Fill<'_>,
    ) -> Result<()> {
        let context = self.context;
        let memory = match self.memory.take().filter(|memory| memory.bytes() >= bytes) {
            Some(memory) => memory,
            None => PinnedMemory::new(context, bytes.max(self.bytes))
                .map_err(|error| context.explain("allocating page-locked memory", error))?,
        };
        let piece = &mut self.memory.insert(memory).as_mut_slice()[..bytes];
        fill(piece)?;
        // SAFETY: the caller vouches for the target; the slot keeps its bytes until `end`.
        unsafe { stream.upload(target, piece) }
            .and_then(|()| self.end.record(stream))
            .map_err(|error| explain(context, error))
    }

    /// Waits for the end of the copy, and tells.
    fn finish(&mut self) {
        let outcome = self.end.wait();
        if let Some(done) = self.done.take() {
            done(outcome.map_err(|error| explain(self.context, error)));
        }
    }
}

fn explain(context: &Context, error: DriverError) -> crate::error::Error {
    context.explain("copying to the GPU", error)
}
