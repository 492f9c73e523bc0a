//! Why memory or a view of it can't be had.

use std::fmt;

use crate::device::Device;
use crate::dtype::DType;

/// A request that neither the pool's free blocks nor the device could serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// The device of the pool.
    pub device: Device,
    /// Bytes of the block that was needed.
    pub needed: usize,
    /// Bytes that could still be allocated: under the quota, or on the device where that is less.
    pub free: u64,
    /// Bytes that the pool holds, in use or ready for reuse.
    pub held: usize,
    /// Bytes in live blocks.
    pub in_use: usize,
    /// The most that the pool may hold, if it is limited.
    pub quota: Option<usize>,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OutOfMemory { device, needed, free, held, in_use, quota } = self;
        write!(
            formatter,
            "out of memory on {device}: needed {needed} bytes, free {free}, held {held} \
             ({in_use} in use)"
        )?;
        match quota {
            Some(quota) => write!(formatter, ", quota {quota}; drop tensors or raise the quota"),
            None => write!(formatter, ", no quota; drop tensors or run something smaller"),
        }
    }
}

impl std::error::Error for OutOfMemory {}

/// A tensor, or a view of one, that can't be made.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TensorError {
    /// The shape has more elements than can be addressed.
    #[error("a {dtype} tensor of shape {shape:?} is too large to address")]
    TooLarge {
        /// The element type asked for.
        dtype: DType,
        /// The shape asked for.
        shape: Vec<usize>,
    },
    /// The rows of a block-quantised tensor must be whole blocks, each in one piece.
    #[error(
        "{dtype} packs {} consecutive elements in a block: expected a last dimension of whole \
         blocks, found {found}",
        dtype.block_elements()
    )]
    PartialBlock {
        /// The element type.
        dtype: DType,
        /// The view or shape that was asked for.
        found: String,
    },
    /// An index past the end of its dimension.
    #[error("index {index} is out of range for dimension {dim} of length {length}")]
    Index {
        /// The index asked for.
        index: usize,
        /// The dimension.
        dim: usize,
        /// Its length.
        length: usize,
    },
    /// A dimension that the tensor doesn't have.
    #[error("dimension {dim} is out of range for a tensor of {rank} dimensions")]
    Dimension {
        /// The dimension asked for.
        dim: usize,
        /// The dimensions there are.
        rank: usize,
    },
    /// A range that leaves its dimension.
    #[error("elements {start} to {stop} leave dimension {dim} of length {length}")]
    Range {
        /// The first element.
        start: usize,
        /// The element after the last.
        stop: usize,
        /// The dimension.
        dim: usize,
        /// Its length.
        length: usize,
    },
    /// A view of another shape that the elements don't allow.
    #[error("a tensor of shape {from:?} can't be viewed as shape {to:?}: {reason}")]
    Reshape {
        /// The shape there is.
        from: Vec<usize>,
        /// The shape asked for.
        to: Vec<usize>,
        /// Why not.
        reason: &'static str,
    },
    /// A source whose dtype, shape or size differs from that of the tensor it is to fill.
    #[error("expected {expected}, found {found}")]
    Mismatch {
        /// What the tensor holds.
        expected: String,
        /// What was given.
        found: String,
    },
}
