//! Memory of a GPU, and host memory that it copies from at full speed.

use std::sync::atomic::AtomicU64;
use std::{ptr, slice};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};

use super::context::Context;
use crate::device::Allocation;

/// Memory of a GPU.
///
/// It comes from `cuMemAlloc` rather than a pool of the driver's, because the pool above keeps freed
/// memory itself. It goes back by `cuMemFree`, which lets all work on the GPU end first, that of other
/// libraries included: what is freed is never in use.
pub(super) struct DeviceMemory {
    context: &'static Context,
    address: *mut u8,
}

// SAFETY: an address on the GPU; the driver lets every thread free it.
unsafe impl Send for DeviceMemory {}
// SAFETY: as above; access is ordered by those who own the tensor.
unsafe impl Sync for DeviceMemory {}

impl DeviceMemory {
    /// Takes memory from the GPU; `None` when there isn't enough.
    pub(super) fn new(
        context: &'static Context,
        bytes: usize,
    ) -> Result<Option<Self>, DriverError> {
        let _bound = context.bind()?;
        // SAFETY: the context is bound.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => {
                let address = ptr::without_provenance_mut(address as usize);
                Ok(Some(DeviceMemory { context, address }))
            }
            Err(error) if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Allocation for DeviceMemory {
    fn address(&self) -> *mut u8 {
        self.address
    }

    fn is_zeroed(&self) -> bool {
        false
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, freed once. An error would be one of earlier work, told elsewhere,
        // or mean that the process is ending.
        let _ = self.context.call(|| unsafe { sys::cuMemFree_v2(self.address.addr() as u64) });
    }
}

/// Page-locked host memory.
pub(super) struct PinnedMemory {
    context: &'static Context,
    address: *mut u8,
    bytes: usize,
}

// SAFETY: plain host memory that any thread may use and free.
unsafe impl Send for PinnedMemory {}

impl PinnedMemory {
    /// Zeroed page-locked memory.
    pub(super) fn new(context: &'static Context, bytes: usize) -> Result<Self, DriverError> {
        let _bound = context.bind()?;
        // SAFETY: the context is bound. Not write-combined: sources may read what they have written.
        let address = unsafe { result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_PORTABLE) }?;
        let address = address.cast::<u8>();
        // SAFETY: fresh memory of that size.
        unsafe { ptr::write_bytes(address, 0, bytes) };
        Ok(PinnedMemory { context, address, bytes })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes. The caller sees to it that no copy is using them.
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: initialised in `new`, live, and borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.address, self.bytes) }
    }

    /// The bytes as words that a kernel may be writing.
    pub(super) fn as_words(&self) -> &[AtomicU64] {
        // SAFETY: initialised in `new`, live, and aligned to a page.
        unsafe { slice::from_raw_parts(self.address.cast(), self.bytes / size_of::<AtomicU64>()) }
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, freed once; the owner has waited for the copies from it.
        let _ = self.context.call(|| unsafe { sys::cuMemFreeHost(self.address.cast()) });
    }
}
