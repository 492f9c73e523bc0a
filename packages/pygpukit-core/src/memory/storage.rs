//! The memory behind tensors, and the only place that reads and writes it.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::pending::PendingWrites;
use super::pool::{Block, MemoryPool};
use crate::device::{Backend, Device, Download, Event, Failure};
use crate::error::Result;

/// A range of device memory that tensors share; it is freed when the last of them is gone.
///
/// Access by offset is checked against the bounds. What a storage doesn't do is order the threads that
/// use it: as with any array of numbers shared between threads, whoever writes it sees to it that
/// nobody else is reading. Copies that run beside the calling thread are the exception: they are
/// recorded here, and everyone who needs the bytes waits for them.
pub struct Storage {
    address: *mut u8,
    bytes: usize,
    pool: Arc<MemoryPool>,
    pending: PendingWrites,
    owner: Owner,
}

enum Owner {
    Pool(Block),
    /// Memory that another library owns, kept alive by this value.
    Foreign {
        _keeper: Box<dyn Any + Send + Sync>,
    },
}

// SAFETY: `address` points to memory that the owner, which is Send and Sync itself, keeps alive and
// in place; ordering between threads is the users' contract, stated above.
unsafe impl Send for Storage {}
// SAFETY: as above.
unsafe impl Sync for Storage {}

impl Storage {
    /// At least `bytes` bytes from `pool`, with whatever they held before.
    ///
    /// # Errors
    /// [`super::OutOfMemory`], and what else [`MemoryPool::allocate`] returns.
    pub fn new(pool: &Arc<MemoryPool>, bytes: usize) -> Result<Self> {
        let block = pool.allocate(bytes)?;
        Ok(Storage {
            address: block.address(),
            bytes,
            pool: Arc::clone(pool),
            pending: PendingWrites::default(),
            owner: Owner::Pool(block),
        })
    }

    /// Memory of another library; tensors made from it allocate their results in `pool`.
    ///
    /// # Safety
    /// `address` is that of `bytes` initialised bytes of `pool`'s device that may be read and written
    /// as long as `keeper` lives.
    pub unsafe fn foreign(
        pool: &Arc<MemoryPool>,
        address: *mut u8,
        bytes: usize,
        keeper: Box<dyn Any + Send + Sync>,
    ) -> Self {
        Storage {
            address,
            bytes,
            pool: Arc::clone(pool),
            pending: PendingWrites::default(),
            owner: Owner::Foreign { _keeper: keeper },
        }
    }

    /// The bytes that tensors may use.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The pool that it came from, or that results computed from it go to.
    pub fn pool(&self) -> &Arc<MemoryPool> {
        &self.pool
    }

    /// The device whose memory it is.
    pub fn device(&self) -> Device {
        self.pool.device()
    }

    /// The address of the byte at `offset`.
    ///
    /// # Panics
    /// If `offset` is past the end.
    pub fn address(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.bytes, "offset {offset} in a storage of {} bytes", self.bytes);
        self.address.wrapping_add(offset)
    }

    /// Whether no copy into `range` is under way.
    pub fn is_ready(&self, range: &Range<usize>) -> bool {
        self.pending.overlapping(range).iter().all(Event::is_complete)
    }

    /// The events of unfinished and failed copies into `range`.
    pub fn pending(&self, range: &Range<usize>) -> Vec<Event> {
        self.pending.overlapping(range)
    }

    /// Waits for the copies into `range`.
    ///
    /// # Errors
    /// The failure of such a copy, until the bytes are overwritten.
    pub fn wait(&self, range: &Range<usize>) -> Result<(), Failure> {
        self.pending.wait(range)
    }

    /// Makes what the device is given from here on wait for the copies into `range`, which the host
    /// waits for only as far as they haven't begun.
    ///
    /// # Errors
    /// The failure of such a copy, as far as it is known; that the device can't be used any more.
    pub fn order_after_copies(&self, range: &Range<usize>) -> Result<()> {
        let copies = self.pending.overlapping(range);
        copies.iter().try_for_each(Event::wait_begun)?;
        if copies.iter().all(Event::is_complete) {
            return Ok(());
        }
        self.backend().order_after_copies()
    }

    /// Waits until `range` may be overwritten; earlier failures no longer matter.
    pub fn wait_to_overwrite(&self, range: &Range<usize>) {
        for event in self.pending.overlapping(range) {
            // A failed copy touches the bytes no more, and what it left is about to go.
            let _ = event.wait();
        }
    }

    /// Records a copy into `range` that lasts until `event`.
    pub fn add_pending(&self, range: Range<usize>, event: Event) {
        self.pending.add(range, event);
    }

    /// Copies the bytes at `offset` out to the host.
    ///
    /// # Errors
    /// That the device can't be used any more, perhaps because of a kernel that ran before.
    ///
    /// # Panics
    /// If the range leaves the storage.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        let source = self.checked(offset, out.len());
        // SAFETY: the range was checked; the owner keeps it alive; see the type for ordering.
        unsafe { self.backend().read(source, out) }
    }

    /// Begins to copy the `bytes` bytes at `offset` to the host.
    ///
    /// # Errors
    /// As for [`Storage::read`].
    ///
    /// # Panics
    /// If the range leaves the storage.
    pub fn fetch(&self, offset: usize, bytes: usize) -> Result<Box<dyn Download>> {
        let source = self.checked(offset, bytes);
        // SAFETY: the range was checked; memory that goes back to the pool is used again in the order of
        // the queue, which the copy stands in; see the type for other ordering.
        unsafe { self.backend().fetch(source, bytes) }
    }

    /// Copies `bytes` from the host to `offset`.
    ///
    /// # Errors
    /// As for [`Storage::read`].
    ///
    /// # Panics
    /// If the range leaves the storage.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let target = self.checked(offset, bytes.len());
        // SAFETY: the range was checked; the owner keeps it alive; see the type for ordering.
        unsafe { self.backend().write(target, bytes) }?;
        self.pending.overwritten(&(offset..offset + bytes.len()));
        Ok(())
    }

    /// Copies `bytes` bytes at `from` of `source`, which is on the same device, to `offset`. They may
    /// overlap.
    ///
    /// # Errors
    /// As for [`Storage::read`]; [`super::OutOfMemory`] where an overlap needs memory to copy through.
    ///
    /// # Panics
    /// If a range leaves its storage or the devices differ.
    pub fn copy_from(
        &self,
        offset: usize,
        source: &Storage,
        from: usize,
        bytes: usize,
    ) -> Result<()> {
        assert_eq!(self.device(), source.device(), "copies within a device stay there");
        let target = self.checked(offset, bytes);
        let start = source.checked(from, bytes);
        // SAFETY: the callers below name ranges that were checked and don't overlap; see the type for
        // ordering.
        let copy = |from, to| unsafe { self.backend().copy(from, to, bytes) };
        if start.addr().abs_diff(target.addr()) < bytes {
            // The block is free again before the second copy has run, for later work of the same queue.
            let between = self.pool.allocate(bytes)?;
            copy(start, between.address())?;
            copy(between.address(), target)?;
        } else {
            copy(start, target)?;
        }
        self.pending.overwritten(&(offset..offset + bytes));
        Ok(())
    }

    /// Sets all bytes to zero; memory that is fresh from the device and zero isn't touched.
    ///
    /// # Errors
    /// As for [`Storage::read`].
    pub fn zero(&self) -> Result<()> {
        if matches!(&self.owner, Owner::Pool(block) if block.is_zeroed()) {
            return Ok(());
        }
        // SAFETY: the whole storage, which is live; see the type for ordering.
        unsafe { self.backend().zero(self.address, self.bytes) }
    }

    fn checked(&self, offset: usize, bytes: usize) -> *mut u8 {
        let end = offset.checked_add(bytes);
        assert!(
            end.is_some_and(|end| end <= self.bytes),
            "{bytes} bytes at {offset} leave a storage of {}",
            self.bytes
        );
        self.address.wrapping_add(offset)
    }

    fn backend(&self) -> &'static dyn Backend {
        self.device().backend()
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes at {:p} on {}", self.bytes, self.address, self.device())
    }
}
