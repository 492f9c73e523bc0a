//! Uploads waiting for fill threads, handed out piece by piece.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::error::TransferError;
use crate::device::{Event, Failure, Lane};
use crate::error::panic_message;
use crate::loader::ByteSource;
use crate::memory::Storage;

/// One upload. Whoever lets go of the last reference to it, having written its piece, ends it.
pub(super) struct Upload {
    pub(super) source: Arc<dyn ByteSource>,
    pub(super) storage: Arc<Storage>,
    /// Where the bytes go in the storage, and how many there are.
    pub(super) offset: usize,
    pub(super) bytes: usize,
    /// Bytes of each piece but the last.
    pub(super) piece: usize,
    pub(super) failure: OnceLock<Failure>,
    pub(super) event: Event,
}

impl Upload {
    /// Copies the piece that starts at `start`, unless an earlier one failed.
    fn copy_piece(&self, start: usize, lane: &mut dyn Lane) {
        if self.failure.get().is_some() {
            return;
        }
        let bytes = self.piece.min(self.bytes - start);
        let target = self.storage.address(self.offset + start);
        let mut fill = |out: &mut [u8]| self.source.read(start, out);
        // SAFETY: the engine checked that the tensor's range holds all pieces; the storage lives as
        // long as `self`; the range is recorded as pending, so everyone else waits for the event.
        let copied =
            catch_unwind(AssertUnwindSafe(|| unsafe { lane.copy(target, bytes, &mut fill) }));
        let outcome = copied.unwrap_or_else(|panic| {
            Err(TransferError::SourcePanicked { message: panic_message(panic) }.into())
        });
        if let Err(error) = outcome {
            // Of several failures the first is told.
            let _ = self.failure.set(Failure::new(error));
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
            (None, Err(panic)) => {
                let error = TransferError::SourcePanicked { message: panic_message(panic) };
                Err(Failure::new(error.into()))
            }
        };
        event.complete(outcome);
    }
}

/// An upload and where the piece to copy starts in it.
type Piece = (Arc<Upload>, usize);

fn copy((upload, start): Piece, lane: &mut dyn Lane) {
    upload.copy_piece(start, lane);
    if let Some(upload) = Arc::into_inner(upload) {
        upload.finish();
    }
}

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
        let pieces = upload.bytes.div_ceil(upload.piece);
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
        while let Some(piece) = self.next_piece() {
            copy(piece, lane);
        }
    }

    /// Copies pieces until the queue is empty.
    pub(super) fn drain(&self, lane: &mut dyn Lane) {
        loop {
            let piece = self.state().take_piece();
            match piece {
                Some(piece) => copy(piece, lane),
                None => return,
            }
        }
    }

    fn next_piece(&self) -> Option<Piece> {
        let mut state = self.state();
        loop {
            if let Some(piece) = state.take_piece() {
                return Some(piece);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
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
        if *next < upload.bytes {
            return Some((Arc::clone(upload), start));
        }
        // The last piece goes with the queue's own reference.
        self.uploads.pop_front().map(|(upload, _)| (upload, start))
    }
}
