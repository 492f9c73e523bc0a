//! The one way to launch a kernel: signatures, arguments, the controller, graphs.

pub mod args;
mod controller;
pub mod error;
mod graph;
mod kernel;
mod launch;
pub mod signature;

pub use args::{ArgValue, KernelArgs, TensorArg};
pub use controller::{DispatchStats, KernelDispatchController};
pub use error::{KernelError, LaunchError};
pub use graph::Graph;
pub use kernel::Kernel;
pub use launch::{Argument, Launch};
pub use signature::{Access, Param, ParamKind, Signature};
