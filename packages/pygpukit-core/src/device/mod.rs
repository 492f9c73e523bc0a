//! Devices: what one is, what it can do, and everything that is unsafe about driving it.
//!
//! A [`Device`] is a name that is cheap to copy. What stands behind it is a [`Backend`]; the modules
//! above (pool, transfers, dispatch) know a device only through that trait, so each is written once
//! for every kind of device.

mod cpu;
pub(crate) mod cuda;
mod error;
mod event;
mod per_device;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use cuda::{Limits, Ordinal};
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
    /// The NVIDIA GPU of that number.
    Cuda(Ordinal),
}

impl Device {
    /// The first GPU that can be used, else the processor.
    pub fn auto() -> Self {
        Ordinal::first().map_or(Device::Cpu, Device::Cuda)
    }

    /// What drives the device.
    pub fn backend(self) -> &'static dyn Backend {
        match self {
            Device::Cpu => &cpu::Cpu,
            Device::Cuda(ordinal) => ordinal.cuda(),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => formatter.write_str("cpu"),
            Device::Cuda(ordinal) => write!(formatter, "cuda:{}", ordinal.index()),
        }
    }
}

impl FromStr for Device {
    type Err = DeviceError;

    /// Reads "cpu", "cuda:N", "cuda" for the first GPU that can be used, or "auto" for [`Device::auto`],
    /// and opens the device.
    fn from_str(name: &str) -> Result<Device, DeviceError> {
        match name {
            "auto" => Ok(Device::auto()),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ordinal::first().map(Device::Cuda),
            _ => {
                let index = name.strip_prefix("cuda:").and_then(|index| index.parse().ok());
                let unknown = || DeviceError::Unknown { name: name.to_owned() };
                Ordinal::open(index.ok_or_else(unknown)?).map(Device::Cuda)
            }
        }
    }
}

/// What a device is, for people and for sizing work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The model name, as the hardware reports it.
    pub name: String,
    /// Logical cores (cpu), multiprocessors (cuda).
    pub cores: usize,
    /// The memory there is.
    pub memory: MemoryInfo,
    /// The compute capability, e.g. `(9, 0)` (cuda).
    pub capability: Option<(u32, u32)>,
    /// The CUDA version that the driver supports, e.g. `(13, 0)` (cuda).
    pub driver: Option<(u32, u32)>,
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
/// Work goes to one queue, in order; only lanes copy beside it. On "cpu" the calling thread does all of
/// it. The methods that take addresses are the only unsafe ones; [`crate::memory::Storage`] is their
/// only caller besides the fill threads of [`crate::transfer::AsyncEngine`].
pub trait Backend: Send + Sync {
    /// What the device is.
    fn info(&self) -> DeviceInfo;

    /// The memory of the device, as of now.
    fn memory(&self) -> MemoryInfo;

    /// Takes `bytes` bytes from the device, aligned to at least 64 bytes; `None` when it has no more.
    ///
    /// # Errors
    /// That the device can't be used any more.
    fn allocate(&self, bytes: usize) -> Result<Option<Box<dyn Allocation>>>;

    /// A new lane for host-to-device copies; each fill thread owns one.
    fn lane(&'static self) -> Box<dyn Lane>;

    /// The present moment of the device's queue.
    ///
    /// # Errors
    /// That the device can't be used any more.
    fn fence(&self) -> Result<Fence>;

    /// Makes what is queued from here on wait for the copies that lanes have begun; the host doesn't wait.
    ///
    /// # Errors
    /// That the device can't be used any more.
    fn order_after_copies(&self) -> Result<()>;

    /// Copies from the device into host memory after everything queued, and returns when that is done.
    ///
    /// # Errors
    /// That the device can't be used any more, perhaps because of a kernel that ran before.
    ///
    /// # Safety
    /// `source` is the address of `out.len()` bytes of live memory of this device that nothing beside
    /// its queue writes meanwhile.
    unsafe fn read(&self, source: *const u8, out: &mut [u8]) -> Result<()>;

    /// Begins to copy from the device after everything queued so far; work that is queued later doesn't
    /// wait for the host to take the bytes.
    ///
    /// # Errors
    /// That the device can't be used any more.
    ///
    /// # Safety
    /// `source` is the address of `bytes` bytes of live memory of this device that nothing beside its
    /// queue writes before the download has ended.
    unsafe fn fetch(&'static self, source: *const u8, bytes: usize) -> Result<Box<dyn Download>>;

    /// Copies from host memory to the device after everything queued; `bytes` may be reused on return.
    ///
    /// # Errors
    /// As for [`Backend::read`].
    ///
    /// # Safety
    /// `target` is the address of `bytes.len()` bytes of live memory of this device that nothing beside
    /// its queue touches meanwhile.
    unsafe fn write(&self, target: *mut u8, bytes: &[u8]) -> Result<()>;

    /// Copies within the device after everything queued.
    ///
    /// # Errors
    /// As for [`Backend::read`].
    ///
    /// # Safety
    /// Both are addresses of `bytes` bytes of live memory of this device, which don't overlap; nothing
    /// beside its queue writes the source or touches the target meanwhile.
    unsafe fn copy(&self, source: *const u8, target: *mut u8, bytes: usize) -> Result<()>;

    /// Sets every byte to zero after everything queued.
    ///
    /// # Errors
    /// As for [`Backend::read`].
    ///
    /// # Safety
    /// As for [`Backend::write`].
    unsafe fn zero(&self, target: *mut u8, bytes: usize) -> Result<()>;
}

/// Bytes on their way from a device to the host. Dropping one waits for its end.
pub trait Download: Send {
    /// Waits for the bytes.
    ///
    /// # Errors
    /// As for [`Backend::read`].
    fn wait(self: Box<Self>) -> Result<Vec<u8>>;
}

/// Bytes that have arrived.
pub struct Arrived(pub Vec<u8>);

impl Download for Arrived {
    fn wait(self: Box<Self>) -> Result<Vec<u8>> {
        Ok(self.0)
    }
}

/// A piece of device memory, given back to the device on drop.
pub trait Allocation: Send + Sync {
    /// Where it starts, on the device.
    fn address(&self) -> *mut u8;

    /// Whether its bytes are known to be zero, as memory fresh from an operating system is.
    fn is_zeroed(&self) -> bool;
}

/// A moment of a device's queue: reached when everything queued before it is done. Copies that run
/// beside the queue wait for it.
#[derive(Clone)]
pub struct Fence(Option<Arc<cuda::StreamEvent>>);

impl Fence {
    /// A moment that has been reached.
    pub fn reached() -> Self {
        Fence(None)
    }
}

/// Produces the bytes of a piece.
pub type Fill<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<()>;

/// Is told, once, how a copy ended.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// A way from the host to the device for one fill thread.
///
/// A piece is produced by `fill`, straight into device memory where the host can address it, else into
/// a pinned slot that the lane owns, from which it is copied while the next piece is produced.
pub trait Lane: Send {
    /// Produces one piece of `bytes` bytes, at most [`PIECE_BYTES`] unless the source's granularity is
    /// larger than that, and copies it to `target` once `fence` is reached.
    ///
    /// When this returns the copy has begun. `done` is told how it ended, by this call or by a later one
    /// of either method: an error of `fill`, or one of the device; the bytes at `target` are then
    /// unspecified.
    ///
    /// # Safety
    /// `target` is the address of `bytes` bytes of live memory of the device that nothing else touches
    /// between `fence` and `done`.
    unsafe fn copy(
        &mut self,
        target: *mut u8,
        bytes: usize,
        fence: &Fence,
        fill: Fill<'_>,
        done: Done,
    );

    /// Waits for all copies under way.
    fn finish(&mut self);
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
        for name in ["", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda0", "metal"] {
            let error = name.parse::<Device>().unwrap_err();
            assert_eq!(error, DeviceError::Unknown { name: name.to_owned() });
        }
        assert_eq!("auto".parse(), Ok(Device::auto()));
    }

    #[test]
    fn a_gpu_opens_or_its_error_offers_the_cpu() {
        for name in ["cuda", "cuda:0", "cuda:99"] {
            match name.parse::<Device>() {
                Ok(device) => assert!(matches!(device, Device::Cuda(_)) && name != "cuda:99"),
                Err(error) => assert!(error.to_string().contains("device=\"cpu\""), "{error}"),
            }
        }
    }
}
