//! Why a launch was refused, or a kernel broke.

/// A launch that was refused before any kernel ran.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LaunchError {
    /// No kernel of that name is registered on the device.
    #[error("unknown kernel {name:?} on device {device}; known kernels: {known}")]
    UnknownKernel {
        /// The name asked for.
        name: String,
        /// The device it was to run on.
        device: String,
        /// The names there are, comma separated.
        known: String,
    },
    /// The number of arguments differs from the signature's.
    #[error("kernel {kernel} takes {expected} arguments, got {found}")]
    ArgumentCount {
        /// The kernel's name.
        kernel: &'static str,
        /// Parameters of its signature.
        expected: usize,
        /// Arguments given.
        found: usize,
    },
    /// One argument is of the wrong kind, dtype, rank, shape or device.
    #[error("kernel {kernel}, argument {argument}: {reason}")]
    Argument {
        /// The kernel's name.
        kernel: &'static str,
        /// The parameter's name.
        argument: &'static str,
        /// What was expected and what was found.
        reason: String,
    },
    /// A capture that begins or ends where it can't.
    #[error("capture: {0}")]
    Capture(&'static str),
}

/// A kernel that broke while it ran, or that the driver didn't take; what it was to write is
/// unspecified.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum KernelError {
    /// It panicked: a mistake in the kernel.
    #[error("kernel {kernel} panicked: {message}")]
    Panicked {
        /// The kernel's name.
        kernel: &'static str,
        /// What the panic said.
        message: String,
    },
    /// The driver refused to launch it.
    #[error("kernel {kernel} can't be launched: {reason}")]
    Refused {
        /// The kernel's name.
        kernel: &'static str,
        /// What the driver says, and the launch in words.
        reason: String,
    },
    /// It broke on a GPU, which tells when something is next asked of it.
    #[error("{kernels} broke on {device}: {reason}; this process can't use {device} any more")]
    Fault {
        /// The GPU.
        device: String,
        /// The kernels that were running, in words.
        kernels: String,
        /// What the driver says.
        reason: String,
    },
}
