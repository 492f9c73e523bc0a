//! The NVIDIA driver, found and started when a GPU is first asked for, and the GPUs that it finds.

use std::ffi::c_int;
use std::sync::OnceLock;

use cudarc::driver::{result, sys};

use super::context::text;
use super::{Cuda, Limits};
use crate::device::DeviceError;

/// CUDA 12.0, driver 525: the first that loads PTX 8.0 and runs kernels for compute capability 9.0.
const DRIVER_NEEDED: (u32, u32) = (12, 0);

const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// The number of a GPU that has been found usable. Only [`Ordinal::open`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ordinal(u32);

/// The driver, started.
struct Driver {
    version: (u32, u32),
    gpus: Box<[OnceLock<Result<Cuda, DeviceError>>]>,
}

static DRIVER: OnceLock<Result<Driver, DeviceError>> = OnceLock::new();

impl Ordinal {
    /// Opens the GPU of that number, unless it is open.
    ///
    /// # Errors
    /// [`DeviceError`]: what is missing, and what to do.
    pub fn open(index: u32) -> Result<Self, DeviceError> {
        let driver = Driver::get()?;
        let missing = DeviceError::NoSuchGpu { index, count: driver.gpus.len() as u32 };
        let gpu = driver.gpus.get(index as usize).ok_or(missing)?;
        match gpu.get_or_init(|| Cuda::open(index, driver.version)) {
            Ok(_) => Ok(Ordinal(index)),
            Err(error) => Err(error.clone()),
        }
    }

    /// Opens the first GPU that can be used.
    ///
    /// # Errors
    /// Why the first one can't be.
    pub fn first() -> Result<Self, DeviceError> {
        let count = Driver::get()?.gpus.len() as u32;
        let first = Ordinal::open(0);
        if first.is_ok() {
            return first;
        }
        (1..count).find_map(|index| Ordinal::open(index).ok()).map_or(first, Ok)
    }

    /// The number.
    pub fn index(self) -> u32 {
        self.0
    }

    /// What the GPU has, for those who lay out launches.
    pub fn limits(self) -> &'static Limits {
        self.cuda().limits()
    }

    /// What drives the GPU.
    pub(crate) fn cuda(self) -> &'static Cuda {
        let driver = DRIVER.get().and_then(|driver| driver.as_ref().ok());
        let gpu = driver.and_then(|driver| driver.gpus[self.0 as usize].get());
        gpu.and_then(|gpu| gpu.as_ref().ok()).expect("an ordinal is made by opening the GPU")
    }

    /// How many GPUs there are.
    pub(crate) fn count() -> usize {
        Driver::get().map_or(0, |driver| driver.gpus.len())
    }
}

impl Driver {
    fn get() -> Result<&'static Driver, DeviceError> {
        DRIVER.get_or_init(Driver::start).as_ref().map_err(DeviceError::clone)
    }

    fn start() -> Result<Self, DeviceError> {
        // SAFETY: only tries to load the library; its initialisers are the driver's own.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoDriver { library: LIBRARY, needed: DRIVER_NEEDED });
        }
        let failed = |error| DeviceError::DriverFailed { reason: text(error) };
        let version = version().map_err(failed)?;
        if version < DRIVER_NEEDED {
            return Err(DeviceError::DriverTooOld { found: version, needed: DRIVER_NEEDED });
        }
        let count = match result::init() {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => 0,
            started => started.and_then(|()| result::device::get_count()).map_err(failed)?,
        };
        let gpus = (0..count).map(|_| OnceLock::new()).collect();
        Ok(Driver { version, gpus })
    }
}

/// The CUDA version that the driver supports.
fn version() -> Result<(u32, u32), result::DriverError> {
    let mut version: c_int = 0;
    // SAFETY: writes one number; may be called before the driver is initialised.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    let version = version as u32;
    Ok((version / 1000, version % 1000 / 10))
}
