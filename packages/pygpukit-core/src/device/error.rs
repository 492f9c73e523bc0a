//! Why a device can't be used.

/// A device that can't be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceError {
    /// The name isn't one of a device.
    #[error("unknown device {name:?}; expected \"cpu\", \"cuda\" or \"cuda:N\"")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The kind of device was left out when this library was built.
    #[error("device {name:?}: this build of pygpukit-core has no CUDA device; use device=\"cpu\"")]
    NotInThisBuild {
        /// The name asked for.
        name: String,
    },
}
