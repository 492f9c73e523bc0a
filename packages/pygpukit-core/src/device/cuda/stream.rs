//! Streams, and events that order them.

use std::ptr;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{self, CUevent_flags, CUresult, CUstream_flags};

use super::context::Context;

/// A queue of work on a GPU. Work of one stream runs in order; streams run beside one another.
pub(crate) struct Stream {
    context: &'static Context,
    raw: sys::CUstream,
}

/// A moment of a stream: reached when everything queued before it is done.
pub(crate) struct StreamEvent {
    context: &'static Context,
    raw: sys::CUevent,
}

// SAFETY: the driver lets every thread use a stream.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}
// SAFETY: the driver lets every thread use an event.
unsafe impl Send for StreamEvent {}
// SAFETY: as above.
unsafe impl Sync for StreamEvent {}

impl Stream {
    /// A stream that doesn't wait for the default stream of other libraries.
    pub(super) fn new(context: &'static Context) -> Result<Self, DriverError> {
        let mut raw = ptr::null_mut();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: writes one handle.
        context.call(|| unsafe { sys::cuStreamCreate(&mut raw, flags) })?;
        Ok(Stream { context, raw })
    }

    pub(super) fn context(&self) -> &'static Context {
        self.context
    }

    /// The driver's handle, valid as long as the stream.
    pub(super) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Makes work queued from here on wait for `event`, without the host waiting.
    pub(super) fn wait_for(&self, event: &StreamEvent) -> Result<(), DriverError> {
        // SAFETY: the stream lives.
        unsafe { event.hold_up(self.raw) }
    }

    /// A new event at this moment.
    pub(super) fn event(&self) -> Result<StreamEvent, DriverError> {
        let event = StreamEvent::new(self.context)?;
        event.record(self)?;
        Ok(event)
    }

    /// Whether nothing is queued or running.
    pub(super) fn is_idle(&self) -> Result<bool, DriverError> {
        // SAFETY: the handle lives as long as `self`.
        match self.context.call(|| unsafe { sys::cuStreamQuery(self.raw) }) {
            Ok(()) => Ok(true),
            Err(error) if error.0 == CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Queues a copy from the host.
    ///
    /// # Safety
    /// `target` is the address of `source.len()` bytes of live memory of the GPU that nothing outside
    /// this stream touches, and `source` lives, unchanged, until the copy is done.
    pub(super) unsafe fn upload(&self, target: *mut u8, source: &[u8]) -> Result<(), DriverError> {
        let (from, bytes) = (source.as_ptr().cast(), source.len());
        // SAFETY: the caller vouches for both sides.
        self.context.call(|| unsafe {
            sys::cuMemcpyHtoDAsync_v2(target.addr() as u64, from, bytes, self.raw)
        })
    }

    /// Queues a copy to the host.
    ///
    /// # Safety
    /// `source` is the address of `out.len()` bytes of live memory of the GPU that nothing outside this
    /// stream writes, and nothing touches `out` until the copy is done.
    pub(super) unsafe fn download(
        &self,
        source: *const u8,
        out: &mut [u8],
    ) -> Result<(), DriverError> {
        let (to, bytes) = (out.as_mut_ptr().cast(), out.len());
        // SAFETY: the caller vouches for both sides.
        self.context.call(|| unsafe {
            sys::cuMemcpyDtoHAsync_v2(to, source.addr() as u64, bytes, self.raw)
        })
    }

    /// Queues a copy within the GPU.
    ///
    /// # Safety
    /// Both are addresses of `bytes` bytes of live memory of the GPU, which don't overlap and which
    /// nothing outside this stream writes until the copy is done.
    pub(super) unsafe fn copy(
        &self,
        source: *const u8,
        target: *mut u8,
        bytes: usize,
    ) -> Result<(), DriverError> {
        let (from, to) = (source.addr() as u64, target.addr() as u64);
        // SAFETY: the caller vouches for both sides.
        self.context.call(|| unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.raw) })
    }

    /// Queues setting bytes to zero.
    ///
    /// # Safety
    /// `target` is the address of `bytes` bytes of live memory of the GPU that nothing outside this
    /// stream touches until they are set.
    pub(super) unsafe fn zero(&self, target: *mut u8, bytes: usize) -> Result<(), DriverError> {
        // SAFETY: the caller vouches for the target.
        self.context
            .call(|| unsafe { sys::cuMemsetD8Async(target.addr() as u64, 0, bytes, self.raw) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once; the driver lets queued work finish. An error would be
        // one of earlier work, told elsewhere.
        let _ = self.context.call(|| unsafe { sys::cuStreamDestroy_v2(self.raw) });
    }
}

impl StreamEvent {
    /// An event that has not been recorded, and so counts as reached.
    pub(super) fn new(context: &'static Context) -> Result<Self, DriverError> {
        let mut raw = ptr::null_mut();
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: writes one handle.
        context.call(|| unsafe { sys::cuEventCreate(&mut raw, flags) })?;
        Ok(StreamEvent { context, raw })
    }

    /// Moves the event to the present moment of `stream`. Those who wait for it already aren't affected.
    pub(super) fn record(&self, stream: &Stream) -> Result<(), DriverError> {
        // SAFETY: the stream lives.
        unsafe { self.record_on(stream.raw) }
    }

    /// [`StreamEvent::record`], on a stream given by its handle.
    ///
    /// # Safety
    /// The stream is live.
    pub(super) unsafe fn record_on(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: the event lives as long as `self`; the caller vouches for the stream.
        self.context.call(|| unsafe { sys::cuEventRecord(self.raw, stream) })
    }

    /// Makes work queued on `stream` from here on wait for the event.
    ///
    /// # Safety
    /// The stream is live.
    pub(super) unsafe fn hold_up(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: the event lives as long as `self`; the caller vouches for the stream.
        self.context.call(|| unsafe { sys::cuStreamWaitEvent(stream, self.raw, 0) })
    }

    /// Blocks the calling thread until the moment has been reached.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the handle lives as long as `self`.
        self.context.call(|| unsafe { sys::cuEventSynchronize(self.raw) })
    }
}

impl Drop for StreamEvent {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once; may still be waited for by streams. An error would be
        // one of earlier work, told elsewhere.
        let _ = self.context.call(|| unsafe { sys::cuEventDestroy_v2(self.raw) });
    }
}
