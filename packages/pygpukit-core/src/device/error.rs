//! Why a device can't be used.

use std::path::PathBuf;

/// A device that can't be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceError {
    /// The name isn't one of a device.
    #[error("unknown device {name:?}; expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\"")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The machine has no NVIDIA driver.
    #[error(
        "no NVIDIA driver: looked for {library} where the system keeps its libraries; install the \
         driver (CUDA {} or newer), or use device=\"cpu\"", version(*needed)
    )]
    NoDriver {
        /// The file looked for.
        library: &'static str,
        /// The lowest CUDA version that is enough.
        needed: (u32, u32),
    },
    /// The driver doesn't know what the device needs.
    #[error(
        "the NVIDIA driver supports CUDA {} and CUDA {} is needed: install a newer driver, or use \
         device=\"cpu\"", version(*found), version(*needed)
    )]
    DriverTooOld {
        /// The CUDA version that the driver supports.
        found: (u32, u32),
        /// The lowest that is enough.
        needed: (u32, u32),
    },
    /// The driver is there but doesn't start.
    #[error("the NVIDIA driver doesn't start: {reason}; repair it, or use device=\"cpu\"")]
    DriverFailed {
        /// What the driver says.
        reason: String,
    },
    /// No GPU of that number.
    #[error("there is no device cuda:{index}: {}; use device=\"cpu\"", gpus(*count))]
    NoSuchGpu {
        /// The number asked for.
        index: u32,
        /// The GPUs there are.
        count: u32,
    },
    /// The GPU is older than any that the kernels are written for.
    #[error(
        "cuda:{index} ({name}) has compute capability {}, and {} or newer is needed; use \
         device=\"cpu\"", version(*found), version(*needed)
    )]
    GpuTooOld {
        /// The GPU's number.
        index: u32,
        /// Its model name.
        name: String,
        /// Its compute capability.
        found: (u32, u32),
        /// The lowest that is enough.
        needed: (u32, u32),
    },
    /// Nothing that was compiled runs on the GPU.
    #[error("no kernels for cuda:{index}: {reason}; use device=\"cpu\"")]
    NoKernels {
        /// The GPU's number.
        index: u32,
        /// What was looked for and what was found.
        reason: String,
    },
    /// A folder of compiled kernels that can't be read.
    #[error("can't read the kernels in {}: {reason}", folder.display())]
    KernelFolder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The driver refused something.
    #[error("cuda:{index}: {action} failed: {reason}")]
    Driver {
        /// The GPU's number.
        index: u32,
        /// What was to be done.
        action: &'static str,
        /// What the driver says.
        reason: String,
    },
}

fn version((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

fn gpus(count: u32) -> String {
    match count {
        0 => "the driver finds no GPU".to_owned(),
        1 => "the only GPU is cuda:0".to_owned(),
        count => format!("the GPUs are cuda:0 to cuda:{}", count - 1),
    }
}
