//! Devices: what one is, what it can do, and everything that is unsafe about driving it.
//!
//! A [`Device`] is a name that is cheap to copy. What stands behind it is a [`Backend`]; the modules
//! above (pool, transfers, dispatch) know a device only through that trait, so each is written once
//! for every kind of device.

mod cpu;
mod error;
mod event;
mod per_device;

use std::fmt;
use std::str::FromStr;

pub use error::DeviceError;
pub use event::{Event, Failure};
pub(crate) use per_device::PerDevice;

use crate::error::Result;

/// A device that tensors live on and kernels run on.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor and its memory.
    Cpu,
}

impl Device {
    /// What drives the device.
    pub fn backend(self) -> &'static dyn Backend {
        match self {
            Device::Cpu => &cpu::Cpu,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => formatter.write_str("cpu"),
        }
    }
}

impl FromStr for Device {
    type Err = DeviceError;

    /// Reads "cpu", "cuda" or "cuda:N".
    fn from_str(name: &str) -> Result<Device, DeviceError> {
        let is_cuda = match name.strip_prefix("cuda") {
            Some("") => true,
            Some(rest) => rest.strip_prefix(':').is_some_and(|index| index.parse::<u32>().is_ok()),
            None => false,
        };
        match name {
            "cpu" => Ok(Device::Cpu),
            _ if is_cuda => Err(DeviceError::NotInThisBuild { name: name.to_owned() }),
            _ => Err(DeviceError::Unknown { name: name.to_owned() }),
        }
    }
}

/// What a device is, for people and for sizing work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The model name, as the hardware reports it.
    pub name: String,
    /// Logical cores (cpu).
    pub cores: usize,
    /// The memory there is.
    pub memory: MemoryInfo,
}

/// The memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// What the device has, or what this process may use of it where that is less.
    pub total: u64,
    /// What could be allocated now.
    pub available: u64,
}

/// What every kind of device can do.
///
/// The methods that take addresses are the only unsafe ones; [`crate::memory::Storage`] is their only
/// caller besides the fill threads of [`crate::transfer::AsyncEngine`].
pub trait Backend: Send + Sync {
    /// What the device is.
    fn info(&self) -> DeviceInfo;

    /// The memory of the device, as of now.
    fn memory(&self) -> MemoryInfo;

    /// Takes `bytes` bytes from the device, aligned to at least 64 bytes; `None` when it has no more.
    fn allocate(&self, bytes: usize) -> Option<Box<dyn Allocation>>;

    /// A new lane for host-to-device copies; each fill thread owns one.
    fn lane(&self) -> Box<dyn Lane>;

    /// Copies from the device into host memory, and returns when that is done.
    ///
    /// # Safety
    /// `source` is the address of `out.len()` bytes of live memory of this device that nothing writes
    /// meanwhile.
    unsafe fn read(&self, source: *const u8, out: &mut [u8]);

    /// Copies from host memory to the device; `bytes` may be reused on return.
    ///
    /// # Safety
    /// `target` is the address of `bytes.len()` bytes of live memory of this device that nothing else
    /// touches meanwhile.
    unsafe fn write(&self, target: *mut u8, bytes: &[u8]);

    /// Copies within the device.
    ///
    /// # Safety
    /// Both are addresses of `bytes` bytes of live memory of this device; nothing writes the source or
    /// touches the target meanwhile. They may overlap.
    unsafe fn copy(&self, source: *const u8, target: *mut u8, bytes: usize);

    /// Sets every byte to zero.
    ///
    /// # Safety
    /// As for [`Backend::write`].
    unsafe fn zero(&self, target: *mut u8, bytes: usize);
}

/// A piece of device memory, given back to the device on drop.
pub trait Allocation: Send + Sync {
    /// Where it starts, on the device.
    fn address(&self) -> *mut u8;

    /// Whether its bytes are known to be zero, as memory fresh from an operating system is.
    fn is_zeroed(&self) -> bool;
}

/// A way from the host to the device for one fill thread.
///
/// A piece is produced by `fill`, straight into device memory where the host can address it, else into
/// a pinned slot that the lane owns, from which it is copied while the next piece is produced.
pub trait Lane: Send {
    /// Copies one piece of `bytes` bytes to `target`: at most [`PIECE_BYTES`], unless the source's
    /// granularity is larger than that.
    ///
    /// # Errors
    /// What `fill` returns; the bytes at `target` are then unspecified.
    ///
    /// # Safety
    /// `target` is the address of `bytes` bytes of live memory of the device that nothing else touches
    /// until the copy is done.
    unsafe fn copy(
        &mut self,
        target: *mut u8,
        bytes: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()>;
}

/// The largest piece that a transfer moves at once: small enough to stay in a core's cache between
/// being produced and being copied, large enough that per-piece costs vanish.
pub const PIECE_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_or_say_what_to_do() {
        assert_eq!("cpu".parse(), Ok(Device::Cpu));
        for name in ["cuda", "cuda:0", "cuda:12"] {
            let error = name.parse::<Device>().unwrap_err();
            assert!(error.to_string().contains("device=\"cpu\""), "{error}");
        }
        for name in ["", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda0", "metal"] {
            let error = name.parse::<Device>().unwrap_err();
            assert_eq!(error, DeviceError::Unknown { name: name.to_owned() });
        }
    }
}
