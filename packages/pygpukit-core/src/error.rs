//! The error type that crosses module boundaries; each module documents its own failures.

use crate::device::{DeviceError, Failure};
use crate::dispatch::{KernelError, LaunchError};
use crate::loader::LoadError;
use crate::memory::{OutOfMemory, TensorError};
use crate::transfer::TransferError;

/// Any failure of the core.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A device can't be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Neither the pool nor the device has the memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// A tensor, or a view of one, can't be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A copy between host and device was refused or broke.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// Asynchronous work that this call depends on failed earlier.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// A kernel launch was refused before it ran.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A weight file was refused, or a tensor in it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A kernel broke while it ran.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// A result whose failure is the core's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caught panic said.
pub(crate) fn panic_message(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast_ref::<&str>().copied().unwrap_or("no message").to_owned(),
    }
}
