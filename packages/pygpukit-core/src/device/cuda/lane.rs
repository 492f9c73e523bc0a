//! Copies to the GPU beside its computing: what each fill thread works with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cudarc::driver::result::DriverError;

use super::context::Context;
use super::ring::Ring;
use super::stream::{Stream, StreamEvent};
use crate::device::{Done, Fence, Fill, Lane, PIECE_BYTES};
use crate::error::Result;

/// One slot is filled while the other is copied from.
const SLOTS: usize = 2;

/// The streams of all lanes of a GPU.
#[derive(Default)]
pub(super) struct CopyStreams(Mutex<Vec<Weak<CopyStream>>>);

struct CopyStream {
    stream: Stream,
    /// Recorded anew whenever somebody is to wait for the stream.
    moment: StreamEvent,
}

impl CopyStreams {
    fn open(&self, context: &'static Context) -> Result<Arc<CopyStream>, DriverError> {
        let (stream, moment) = (Stream::new(context)?, StreamEvent::new(context)?);
        let stream = Arc::new(CopyStream { stream, moment });
        let mut streams = self.streams();
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(&stream));
        Ok(stream)
    }

    /// Makes `stream` wait for every copy that any lane has queued so far.
    pub(super) fn order_before(&self, stream: &Stream) -> Result<(), DriverError> {
        for copies in self.streams().iter().filter_map(Weak::upgrade) {
            copies.moment.record(&copies.stream)?;
            stream.wait_for(&copies.moment)?;
        }
        Ok(())
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Weak<CopyStream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream of its own, and pinned slots; both are made when they are first needed.
pub(super) struct CudaLane {
    context: &'static Context,
    streams: &'static CopyStreams,
    open: Option<(Ring, Arc<CopyStream>)>,
}

impl CudaLane {
    pub(super) fn new(context: &'static Context, streams: &'static CopyStreams) -> Self {
        CudaLane { context, streams, open: None }
    }

    /// The ring and the stream, with the stream waiting for `fence`.
    fn prepare(&mut self, fence: &Fence) -> Result<(&mut Ring, &Stream)> {
        let context = self.context;
        let explain = |error| context.explain("preparing a copy to the GPU", error);
        if self.open.is_none() {
            let ring = Ring::new(context, SLOTS, PIECE_BYTES).map_err(explain)?;
            self.open = Some((ring, self.streams.open(context).map_err(explain)?));
        }
        let (ring, copies) = self.open.as_mut().expect("opened above");
        if let Some(event) = &fence.0 {
            copies.stream.wait_for(event).map_err(explain)?;
        }
        Ok((ring, &copies.stream))
    }
}

impl Lane for CudaLane {
    unsafe fn copy(
        &mut self,
        target: *mut u8,
        bytes: usize,
        fence: &Fence,
        fill: Fill<'_>,
        done: Done,
    ) {
        let sent = self.prepare(fence).and_then(|(ring, stream)| {
            // SAFETY: the caller vouches for the target; what the GPU was to do with it before is done
            // when the fence is reached.
            unsafe { ring.send(stream, target, bytes, fill) }
        });
        match sent {
            Ok(slot) => slot.tell(done),
            Err(error) => done(Err(error)),
        }
    }

    fn finish(&mut self) {
        if let Some((ring, _)) = &mut self.open {
            ring.finish();
        }
    }
}
