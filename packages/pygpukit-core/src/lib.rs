//! The Rust core of pygpukit: weight-file loader, device memory pool, asynchronous transfers, kernel
//! dispatch, kernels and request scheduler.
//!
//! The modules stand in one order, each using only those before it: [`dtype`], [`convert`], [`loader`],
//! [`device`], [`memory`], [`transfer`], [`host`] and [`cuda`], [`dispatch`]; [`scheduler`] stands by
//! itself. The core knows nothing of models.

pub mod convert;
pub mod cuda;
pub mod device;
pub mod dispatch;
pub mod dtype;
pub mod error;
pub mod host;
pub mod llm;
pub mod loader;
pub mod memory;
#[cfg(feature = "python")]
mod python;
pub mod scheduler;
pub mod transfer;

pub use dtype::DType;
pub use error::{Error, Result};
