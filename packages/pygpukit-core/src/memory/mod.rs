//! Device memory: pools that own every byte of it, and tensors that lie in them.

mod error;
mod fetch;
mod layout;
mod pending;
mod pool;
mod scalar;
mod size_class;
mod storage;
mod tensor;

pub use error::{OutOfMemory, TensorError};
pub use fetch::Fetch;
pub use layout::Layout;
pub use pool::{Block, Kept, MemoryPool, PoolStats};
pub use scalar::Scalar;
pub use storage::Storage;
pub use tensor::Tensor;
