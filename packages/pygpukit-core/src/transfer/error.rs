//! Why a copy was refused or broke.

/// A copy that was refused, or that broke on the way.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TransferError {
    /// The source has another number of bytes than the tensor.
    #[error("can't upload {found} bytes into {target}, which takes {expected}")]
    Size {
        /// The tensor in words.
        target: String,
        /// Bytes that it takes.
        expected: usize,
        /// Bytes that the source has.
        found: usize,
    },
    /// Uploads fill memory from front to back.
    #[error(
        "can't upload into {target}: its elements have gaps between them; upload into a contiguous tensor and copy"
    )]
    NotContiguous {
        /// The tensor in words.
        target: String,
    },
    /// The source panicked: a mistake in its code.
    #[error("the source of an upload panicked: {message}")]
    SourcePanicked {
        /// What the panic said.
        message: String,
    },
}
