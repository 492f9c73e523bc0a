//! The error type that crosses module boundaries; each module documents its own failures.

use crate::dispatch::LaunchError;
use crate::loader::LoadError;

/// Any failure of the core.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kernel launch was refused before it ran.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A weight file was refused, or a tensor in it.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// A result whose failure is the core's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
