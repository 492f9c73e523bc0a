//! Bytes on their way to a device: what a transfer reads from.

use crate::error::Result;

/// The bytes of one tensor in the layout that the device is to hold, produced piece by piece.
///
/// A transfer asks for consecutive pieces from several threads at once and has each written where
/// the copy starts from: a pinned slot for a GPU, the tensor's own memory on the CPU. So converting,
/// dequantising and transposing cost no buffer of their own.
pub trait ByteSource: Send + Sync {
    /// The bytes in all, after any conversion.
    fn nbytes(&self) -> usize;

    /// Pieces must start at multiples of this many bytes, and end there or at the end.
    fn granularity(&self) -> usize {
        1
    }

    /// Writes the bytes from `offset` on, as many as `out` holds.
    ///
    /// # Errors
    /// When the file can't be read.
    fn read(&self, offset: usize, out: &mut [u8]) -> Result<()>;

    /// Called once everything has been read: lets go of pages of the mapped file, so that a loaded
    /// checkpoint isn't resident twice.
    fn release(&self) {}
}
