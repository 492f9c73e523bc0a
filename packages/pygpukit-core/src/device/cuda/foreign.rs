//! What other libraries of the process do on the same GPU: their streams and their memory.

use std::ptr;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{self, CUpointer_attribute};

use super::stream::StreamEvent;
use super::{Cuda, Latest, Ordinal, text};
use crate::device::DeviceError;
use crate::error::Result;

/// A stream of another library, on the primary context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForeignStream {
    /// The stream of those who name none.
    LegacyDefault,
    /// As that, but each thread has its own.
    PerThreadDefault,
    /// A stream that somebody made.
    Handle(usize),
}

impl ForeignStream {
    fn raw(self) -> sys::CUstream {
        // The driver's names for the default streams, CU_STREAM_LEGACY and CU_STREAM_PER_THREAD.
        ptr::without_provenance_mut(match self {
            ForeignStream::LegacyDefault => 1,
            ForeignStream::PerThreadDefault => 2,
            ForeignStream::Handle(handle) => handle,
        })
    }
}

impl Ordinal {
    /// Opens the GPU that has memory at `address`.
    ///
    /// # Errors
    /// [`DeviceError`] when there is no memory of a GPU there, or the GPU can't be used.
    pub(crate) fn of_memory(address: usize) -> Result<Self, DeviceError> {
        let first = Ordinal::first()?;
        let mut index: i32 = 0;
        let attribute = CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
        let asked = first.cuda().context.call(|| {
            // SAFETY: writes one number; the address is only looked up.
            unsafe {
                sys::cuPointerGetAttribute((&raw mut index).cast(), attribute, address as u64)
            }
        });
        asked.map_err(|error| DeviceError::Driver {
            index: first.index(),
            action: "finding out where memory lies",
            reason: text(error),
        })?;
        Ordinal::open(index as u32)
    }
}

impl Cuda {
    /// The compute stream as other libraries name it, which may queue work there from here on.
    pub(crate) fn stream_handle(&self) -> usize {
        *self.latest() = Latest::Unknown;
        self.compute.raw().addr()
    }

    /// Makes what is launched from here on wait for what `stream` holds.
    ///
    /// # Errors
    /// What the driver refuses.
    ///
    /// # Safety
    /// A handle is that of a live stream.
    pub(crate) unsafe fn order_after(&self, stream: ForeignStream) -> Result<()> {
        let ordered = StreamEvent::new(self.context).and_then(|event| {
            // SAFETY: the caller vouches for the stream.
            unsafe { event.record_on(stream.raw()) }?;
            self.compute().wait_for(&event)
        });
        self.explained("waiting for another library's stream", ordered)
    }

    /// Makes what `stream` is given from here on wait for what has been launched.
    ///
    /// # Errors
    /// What the driver refuses.
    ///
    /// # Safety
    /// A handle is that of a live stream.
    pub(crate) unsafe fn order_before(&self, stream: ForeignStream) -> Result<()> {
        let ordered = self.compute.event().and_then(|event| {
            // SAFETY: the caller vouches for the stream.
            unsafe { event.hold_up(stream.raw()) }
        });
        self.explained("ordering another library's stream", ordered)
    }

    /// Waits for everything launched so far, for memory that another library is about to have back.
    pub(crate) fn finish(&self) {
        let finished: Result<(), DriverError> = match self.compute.is_idle() {
            Ok(true) => Ok(()),
            _ => self.wait(),
        };
        // An error is one of earlier work, and is told by the next call that can tell one.
        let _ = finished;
    }
}
