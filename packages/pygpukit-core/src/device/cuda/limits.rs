//! What a kernel may count on.

use cudarc::driver::result::{DriverError, device};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

/// What a GPU has, for those who lay out launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Compute capability, e.g. `(9, 0)`.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub sm_count: u32,
    /// Shared memory that one block can have, in bytes.
    pub shared_bytes_per_block: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_bytes_per_sm: u32,
    /// The cache that all multiprocessors share, in bytes.
    pub l2_bytes: u32,
}

impl Limits {
    /// Blocks of that much dynamic shared memory for which a multiprocessor has room.
    pub fn blocks_per_sm(&self, shared_bytes: usize) -> usize {
        /// What the driver takes for each.
        const RESERVE: usize = 1 << 10;
        self.shared_bytes_per_sm as usize / (shared_bytes + RESERVE)
    }

    /// Whether it runs what was compiled for Hopper alone: `sm_90a`.
    pub fn is_hopper(&self) -> bool {
        self.capability == (9, 0)
    }

    pub(super) fn of(gpu: sys::CUdevice) -> Result<Self, DriverError> {
        // SAFETY: a device that the driver has named.
        let get = |attribute| unsafe { device::get_attribute(gpu, attribute) }.map(|n| n as u32);
        Ok(Limits {
            capability: (
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            sm_count: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes_per_block: get(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            shared_bytes_per_sm: get(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            )?,
            l2_bytes: get(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        })
    }
}
