//! Copies between host and device.

mod engine;
mod error;
mod load;
mod queue;

pub use engine::{AsyncEngine, TransferStats};
pub use error::TransferError;
