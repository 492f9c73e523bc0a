//! The one way to launch a kernel: signatures, arguments, the controller, graphs.

pub mod args;
pub mod error;
pub mod signature;

pub use args::{ArgValue, KernelArgs, TensorArg};
pub use error::LaunchError;
pub use signature::{Access, Param, ParamKind, Signature};
