//! The device "cpu": memory from the operating system, copies by the calling thread.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::{ptr, slice};

use memmap2::MmapMut;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::{
    Allocation, Arrived, Backend, DeviceInfo, Done, Download, Fence, Fill, Lane, MemoryInfo,
};
use crate::error::Result;

/// Every allocation starts at a multiple of this: a cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// Allocations from this size on are mapped from the operating system, which doesn't touch them, and
/// go back to it when freed; smaller ones come from the heap.
const MAPPED_BYTES: usize = 1 << 20;

/// The size of a huge page. Large mappings start at a multiple of it and ask for huge pages.
const HUGE_PAGE: usize = 2 << 20;

/// Mappings from this size on ask for huge pages: at 8 of them what rounding to whole pages can touch
/// beyond the block is small.
const HUGE_PAGES_FROM: usize = 8 * HUGE_PAGE;

/// Allocations from this size on are compared with the memory that is available, which takes a while
/// to find out.
const CHECKED_FROM: usize = 64 << 20;

pub(super) struct Cpu;

impl Backend for Cpu {
    fn info(&self) -> DeviceInfo {
        let system =
            System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
        let name = system.cpus().first().map_or("", |cpu| cpu.brand().trim());
        DeviceInfo {
            name: if name.is_empty() { std::env::consts::ARCH } else { name }.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: self.memory(),
            capability: None,
            driver: None,
        }
    }

    /// Free swap counts as available; inside a Linux container so does its limit.
    fn memory(&self) -> MemoryInfo {
        let system = System::new_with_specifics(
            RefreshKind::nothing().with_memory(MemoryRefreshKind::everything()),
        );
        let mut memory = MemoryInfo {
            total: system.total_memory(),
            available: system.available_memory() + system.free_swap(),
        };
        if let Some(limits) = system.cgroup_limits() {
            let unused = limits.total_memory.saturating_sub(limits.rss) + limits.free_swap;
            memory.total = memory.total.min(limits.total_memory);
            memory.available = memory.available.min(unused);
        }
        memory
    }

    fn allocate(&self, bytes: usize) -> Result<Option<Box<dyn Allocation>>> {
        if bytes < MAPPED_BYTES {
            return Ok(Heap::new(bytes).map(|heap| Box::new(heap) as _));
        }
        // Linux would promise more than there is, and kill the process when it is used.
        if bytes >= CHECKED_FROM && bytes as u64 > self.memory().available {
            return Ok(None);
        }
        Ok(Mapped::new(bytes).map(|mapped| Box::new(mapped) as _))
    }

    fn lane(&'static self) -> Box<dyn Lane> {
        Box::new(HostLane)
    }

    fn fence(&self) -> Result<Fence> {
        Ok(Fence::reached())
    }

    fn order_after_copies(&self) -> Result<()> {
        Ok(())
    }

    unsafe fn read(&self, source: *const u8, out: &mut [u8]) -> Result<()> {
        // SAFETY: the caller vouches for the source; `out` is its own memory.
        unsafe { ptr::copy(source, out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    unsafe fn fetch(&'static self, source: *const u8, bytes: usize) -> Result<Box<dyn Download>> {
        // SAFETY: the caller vouches for the source.
        let bytes = unsafe { slice::from_raw_parts(source, bytes) };
        Ok(Box::new(Arrived(bytes.to_vec())))
    }

    unsafe fn write(&self, target: *mut u8, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller vouches for the target.
        unsafe { ptr::copy(bytes.as_ptr(), target, bytes.len()) };
        Ok(())
    }

    unsafe fn copy(&self, source: *const u8, target: *mut u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller vouches for both, and that they don't overlap.
        unsafe { ptr::copy_nonoverlapping(source, target, bytes) };
        Ok(())
    }

    unsafe fn zero(&self, target: *mut u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller vouches for the target.
        unsafe { ptr::write_bytes(target, 0, bytes) };
        Ok(())
    }
}

/// The host addresses the device's memory, so pieces are produced where they belong.
struct HostLane;

impl Lane for HostLane {
    unsafe fn copy(
        &mut self,
        target: *mut u8,
        bytes: usize,
        _fence: &Fence,
        fill: Fill<'_>,
        done: Done,
    ) {
        // SAFETY: the caller vouches that the memory is live and nobody else's; all memory of this
        // device is zeroed when it is made, so the bytes are initialised.
        done(fill(unsafe { slice::from_raw_parts_mut(target, bytes) }));
    }

    fn finish(&mut self) {}
}

/// Zeroed memory from the heap.
struct Heap {
    address: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory that any thread may use and free.
unsafe impl Send for Heap {}
// SAFETY: as above; access to the bytes is ordered by those who own the tensor.
unsafe impl Sync for Heap {}

impl Heap {
    fn new(bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).ok()?;
        // SAFETY: the layout isn't empty.
        let address = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
        Some(Heap { address, layout })
    }
}

impl Allocation for Heap {
    fn address(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    fn is_zeroed(&self) -> bool {
        true
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout, freed once.
        unsafe { std::alloc::dealloc(self.address.as_ptr(), self.layout) };
    }
}

/// Zeroed pages from the operating system, which take memory once they are touched.
struct Mapped {
    address: *mut u8,
    _map: MmapMut,
}

// SAFETY: plain memory that any thread may use and unmap; the address points into the map.
unsafe impl Send for Mapped {}
// SAFETY: as above; access to the bytes is ordered by those who own the tensor.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(bytes: usize) -> Option<Self> {
        if bytes < HUGE_PAGES_FROM {
            let mut map = MmapMut::map_anon(bytes).ok()?;
            return Some(Mapped { address: map.as_mut_ptr(), _map: map });
        }
        let mut map = MmapMut::map_anon(bytes.checked_add(HUGE_PAGE)?).ok()?;
        #[cfg(target_os = "linux")]
        // Without huge pages everything works, only slower; a kernel may be built without them.
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = map.as_mut_ptr();
        let address = start.wrapping_add(start.align_offset(HUGE_PAGE));
        Some(Mapped { address, _map: map })
    }
}

impl Allocation for Mapped {
    fn address(&self) -> *mut u8 {
        self.address
    }

    fn is_zeroed(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_of_every_kind_are_aligned_zeroed_and_writable() {
        for bytes in [64, 4096, MAPPED_BYTES, HUGE_PAGES_FROM] {
            let allocation = Cpu.allocate(bytes).unwrap().unwrap();
            let address = allocation.address();
            let alignment = if bytes >= HUGE_PAGES_FROM { HUGE_PAGE } else { ALIGNMENT };
            assert_eq!(address as usize % alignment, 0);
            assert!(allocation.is_zeroed());
            let mut ends = [1; 2];
            // SAFETY: both bytes lie in the allocation, which is live and this test's own.
            unsafe {
                Cpu.read(address, &mut ends[..1]).unwrap();
                Cpu.read(address.add(bytes - 1), &mut ends[1..]).unwrap();
                Cpu.write(address.add(bytes - 1), &[7]).unwrap();
            }
            assert_eq!(ends, [0, 0]);
        }
    }

    #[test]
    fn more_than_there_is_is_refused_rather_than_promised() {
        for bytes in [usize::MAX / 2, usize::try_from(Cpu.memory().total).unwrap() * 2] {
            assert!(Cpu.allocate(bytes).unwrap().is_none());
        }
    }

    #[test]
    fn the_device_says_what_it_is() {
        let info = Cpu.info();
        assert!(!info.name.is_empty());
        assert!(info.cores >= 1);
        assert!(info.memory.total > 0 && info.memory.available > 0);
    }
}
