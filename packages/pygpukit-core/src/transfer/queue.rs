//! Uploads waiting for fill threads, handed out piece by piece.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::error::TransferError;
use crate::device::{Event, Failure, Fence, Lane};
use crate::error::{Error, Result, panic_message};
use crate::loader::ByteSource;
use crate::memory::Storage;

/// One upload. Whoever lets go of the last reference to it, its pieces being copied, ends it.
pub(super) struct Upload {
    source: Arc<dyn ByteSource>,
    storage: Arc<Storage>,
    /// Where the bytes go in the storage, and how many there are.
    range: Range<usize>,
    /// Bytes of each piece but the last.
    piece: usize,
    /// What the device must have done before.
    fence: Fence,
    /// Pieces whose copies haven't begun.
    waiting: AtomicUsize,
    failure: OnceLock<Failure>,
    event: Event,
}

impl Upload {
    /// An upload of `source`, which has bytes, to `range` of `storage`, in pieces of `piece` bytes.
    pub(super) fn new(
        source: Arc<dyn ByteSource>,
        storage: Arc<Storage>,
        range: Range<usize>,
        piece: usize,
        fence: Fence,
    ) -> Self {
        Upload {
            waiting: AtomicUsize::new(range.len().div_ceil(piece)),
            failure: OnceLock::new(),
            event: Event::new(),
            source,
            storage,
            range,
            piece,
            fence,
        }
    }

    /// The event of its end.
    pub(super) fn event(&self) -> &Event {
        &self.event
    }

    /// Begins to copy the piece that starts at `start`, unless an earlier one failed.
    fn copy_piece(self: Arc<Self>, start: usize, lane: &mut dyn Lane) {
        if self.failure.get().is_none() {
            let bytes = self.piece.min(self.range.len() - start);
            let target = self.storage.address(self.range.start + start);
            let upload = Arc::clone(&self);
            let done = Box::new(move |outcome| {
                if let Err(error) = outcome {
                    upload.fail(error);
                }
                upload.let_go();
            });
            // SAFETY: the engine checked that the range holds all pieces; the storage lives as long as
            // the upload, which `done` lets go of; the range is recorded as pending, so everyone else
            // waits for the event, and earlier work on it is done when the fence is reached.
            unsafe {
                lane.copy(target, bytes, &self.fence, &mut |out| self.read(start, out), done);
            }
        }
        // The one who takes the last piece sees the failures of all others.
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 && self.failure.get().is_none() {
            self.event.begin();
        }
        self.let_go();
    }

    /// Reads a piece; a panic of the source is its failure.
    fn read(&self, start: usize, out: &mut [u8]) -> Result<()> {
        let read = catch_unwind(AssertUnwindSafe(|| self.source.read(start, out)));
        read.unwrap_or_else(|panic| Err(panicked(panic).into()))
    }

    /// Of several failures the first is told.
    fn fail(&self, error: Error) {
        self.failure.get_or_init(|| Failure::new(error));
    }

    fn let_go(self: Arc<Self>) {
        if let Some(upload) = Arc::into_inner(self) {
            upload.finish();
        }
    }

    /// Releases what the upload held and tells those who wait: in this order, so that whoever has
    /// waited finds the source's pages and, if the tensor is gone, its memory free.
    fn finish(self) {
        let Upload { source, storage, failure, event, .. } = self;
        let released = catch_unwind(AssertUnwindSafe(|| source.release()));
        drop(source);
        drop(storage);
        let outcome = match (failure.into_inner(), released) {
            (Some(failure), _) => Err(failure),
            (None, Ok(())) => Ok(()),
            (None, Err(panic)) => Err(Failure::new(panicked(panic).into())),
        };
        event.complete(outcome);
    }
}

fn panicked(panic: Box<dyn Any + Send>) -> TransferError {
    TransferError::SourcePanicked { message: panic_message(panic) }
}

/// An upload and where the piece to copy starts in it.
type Piece = (Arc<Upload>, usize);

/// The queue that fill threads take pieces from.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// Uploads that have pieces left, each with the start of the next one.
    uploads: VecDeque<Piece>,
    /// Threads that wait for work.
    idle: usize,
    closed: bool,
}

impl Queue {
    /// Adds an upload of at least one byte. Returns how many more threads would be of use.
    pub(super) fn push(&self, upload: Upload) -> usize {
        let pieces = upload.waiting.load(Ordering::Relaxed);
        let mut state = self.state();
        state.uploads.push_back((Arc::new(upload), 0));
        if pieces == 1 {
            self.work.notify_one();
        } else {
            self.work.notify_all();
        }
        pieces.saturating_sub(state.idle)
    }

    /// Lets the threads end once everything queued is done.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.work.notify_all();
    }

    /// Copies pieces until the queue is closed and empty.
    pub(super) fn serve(&self, lane: &mut dyn Lane) {
        loop {
            self.drain(lane);
            if !self.wait_for_work() {
                return;
            }
        }
    }

    /// Copies pieces until the queue is empty, and waits for the copies.
    pub(super) fn drain(&self, lane: &mut dyn Lane) {
        while let Some((upload, start)) = self.take_piece() {
            upload.copy_piece(start, lane);
        }
        lane.finish();
    }

    fn take_piece(&self) -> Option<Piece> {
        self.state().take_piece()
    }

    /// Waits until there are uploads, or returns false once the queue is closed.
    fn wait_for_work(&self) -> bool {
        let mut state = self.state();
        while state.uploads.is_empty() && !state.closed {
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
        !state.uploads.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_piece(&mut self) -> Option<Piece> {
        let (upload, next) = self.uploads.front_mut()?;
        let start = *next;
        *next += upload.piece;
        if *next < upload.range.len() {
            return Some((Arc::clone(upload), start));
        }
        // The last piece goes with the queue's own reference.
        self.uploads.pop_front().map(|(upload, _)| (upload, start))
    }
}
