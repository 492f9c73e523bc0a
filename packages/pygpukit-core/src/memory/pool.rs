//! The pool that every device byte comes from.
//!
//! Freed blocks are kept for reuse and go back to the device by [`MemoryPool::trim`], or by
//! themselves when a request would otherwise break the quota or exhaust the device.
//!
//! A block may be dropped while work that was launched on it is still queued, if that queue is also
//! the one that all later users of the block go through: the pool belongs to one device, whose
//! launches are in order. Copies run beside that queue; they wait for what the queue held when they were
//! asked for, and keep their tensor's storage alive until they are done: so they never write to a block
//! that earlier work still uses, or that has been freed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::OutOfMemory;
use super::size_class;
use crate::device::{Allocation, Device, PerDevice};
use crate::error::Result;

/// A pool of device memory. Threads may share it.
pub struct MemoryPool {
    device: Device,
    state: Mutex<State>,
}

/// Counters of a pool; sizes are bytes of whole blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// In live blocks.
    pub in_use: usize,
    /// In live blocks and in free ones kept for reuse.
    pub held: usize,
    /// The most that was ever in use.
    pub peak: usize,
    /// Blocks handed out so far.
    pub allocations: u64,
    /// Blocks handed out that had been used before.
    pub reuses: u64,
    /// Blocks in use now.
    pub live_blocks: usize,
    /// The most that may be held.
    pub quota: Option<usize>,
}

/// A live block of a pool; dropping it frees it.
pub struct Block {
    pool: Arc<MemoryPool>,
    /// Taken out by drop only.
    chunk: Option<Chunk>,
    zeroed: bool,
}

/// Memory of the device, live or free.
struct Chunk {
    memory: Box<dyn Allocation>,
    bytes: usize,
}

struct State {
    stats: PoolStats,
    free: FreeChunks,
    /// How many [`Kept`] there are.
    keepers: usize,
}

/// As long as it lives, its pool holds what it holds: free blocks stay where they are.
pub struct Kept(Arc<MemoryPool>);

static DEFAULT_POOLS: PerDevice<Arc<MemoryPool>> = PerDevice::new();

impl MemoryPool {
    /// A pool of its own that may hold `quota` bytes, or as much as the device has.
    pub fn new(device: Device, quota: Option<usize>) -> Arc<Self> {
        let state = State {
            stats: PoolStats { quota, ..PoolStats::default() },
            free: FreeChunks::default(),
            keepers: 0,
        };
        Arc::new(MemoryPool { device, state: Mutex::new(state) })
    }

    /// The pool that `device` uses unless told otherwise.
    pub fn default_of(device: Device) -> &'static Arc<Self> {
        DEFAULT_POOLS.get_or_init(device, || MemoryPool::new(device, None))
    }

    /// The device whose memory this is.
    pub fn device(&self) -> Device {
        self.device
    }

    /// A block of at least `bytes` bytes, aligned to at least 64; it isn't cleared.
    ///
    /// # Errors
    /// [`OutOfMemory`], with the pool as it was except that free blocks may have been given back; that
    /// the device can't be used any more.
    pub fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Block> {
        let mut state = self.state();
        let needed = size_class::block_bytes(bytes).unwrap_or(usize::MAX);
        let (chunk, zeroed) = match state.reuse(needed) {
            Some(chunk) => (chunk, false),
            None => match state.obtain(self.device, needed)? {
                Some(chunk) => (chunk, true),
                None => return Err(state.out_of_memory(self.device, needed).into()),
            },
        };
        let zeroed = zeroed && chunk.memory.is_zeroed();
        state.stats.hand_out(chunk.bytes);
        Ok(Block { pool: Arc::clone(self), chunk: Some(chunk), zeroed })
    }

    /// Gives every free block back to the device; returns how many bytes that were.
    pub fn trim(&self) -> usize {
        let mut state = self.state();
        let before = state.stats.held;
        while state.give_back_oldest() {}
        before - state.stats.held
    }

    /// Changes the quota. What is held beyond it goes back to the device, except for live blocks.
    pub fn set_quota(&self, quota: Option<usize>) {
        let mut state = self.state();
        state.stats.quota = quota;
        state.obey_limit();
    }

    /// Sees to it that blocks don't go back to the device, for what works in free ones.
    pub fn keep(self: &Arc<Self>) -> Kept {
        self.state().keepers += 1;
        Kept(Arc::clone(self))
    }

    /// The counters, as of now.
    pub fn stats(&self) -> PoolStats {
        self.state().stats
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "MemoryPool on {}: {:?}", self.device, self.stats())
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Block of {} bytes at {:p}", self.bytes(), self.address())
    }
}

impl Block {
    /// Where the block starts, on the device.
    pub fn address(&self) -> *mut u8 {
        self.chunk().memory.address()
    }

    /// Its size, which may exceed what was asked for.
    pub fn bytes(&self) -> usize {
        self.chunk().bytes
    }

    /// Whether every byte is known to be zero.
    pub fn is_zeroed(&self) -> bool {
        self.zeroed
    }

    /// The pool it belongs to.
    pub fn pool(&self) -> &Arc<MemoryPool> {
        &self.pool
    }

    fn chunk(&self) -> &Chunk {
        self.chunk.as_ref().expect("only drop takes the chunk out")
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(chunk) = self.chunk.take() {
            self.pool.state().take_back(chunk);
        }
    }
}

impl Kept {
    /// The pool that it keeps.
    pub fn pool(&self) -> &Arc<MemoryPool> {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.keepers -= 1;
        state.obey_limit();
    }
}

impl State {
    fn limit(&self) -> usize {
        self.stats.quota.unwrap_or(usize::MAX)
    }

    /// A free chunk for a request whose own block would have `needed` bytes.
    fn reuse(&mut self, needed: usize) -> Option<Chunk> {
        let affordable = self.limit().saturating_sub(self.stats.in_use);
        let (smallest, largest) = size_class::reusable(needed).into_inner();
        let chunk = self.free.take(smallest, largest.min(affordable))?;
        self.stats.reuses += 1;
        Some(chunk)
    }

    /// A chunk fresh from the device, for which free ones may have to go; `None` without the room.
    fn obtain(&mut self, device: Device, needed: usize) -> Result<Option<Chunk>> {
        let room = match self.limit().checked_sub(needed) {
            Some(room) if self.stats.in_use <= room => room,
            _ => return Ok(None),
        };
        while self.stats.held > room {
            if !self.give_back_oldest() {
                return Ok(None);
            }
        }
        let memory = loop {
            match device.backend().allocate(needed)? {
                Some(memory) => break memory,
                None if self.give_back_oldest() => {}
                None => return Ok(None),
            }
        };
        self.stats.held += needed;
        Ok(Some(Chunk { memory, bytes: needed }))
    }

    fn obey_limit(&mut self) {
        while self.stats.held > self.limit() && self.give_back_oldest() {}
    }

    fn give_back_oldest(&mut self) -> bool {
        if self.keepers > 0 {
            return false;
        }
        let oldest = self.free.take_oldest();
        self.stats.held -= oldest.as_ref().map_or(0, |chunk| chunk.bytes);
        oldest.is_some()
    }

    fn take_back(&mut self, chunk: Chunk) {
        self.stats.in_use -= chunk.bytes;
        self.stats.live_blocks -= 1;
        self.free.put(chunk);
        self.obey_limit();
    }

    fn out_of_memory(&self, device: Device, needed: usize) -> OutOfMemory {
        let PoolStats { held, in_use, quota, .. } = self.stats;
        let cached = (held - in_use) as u64;
        let under_quota = self.limit().saturating_sub(in_use) as u64;
        let free = under_quota.min(device.backend().memory().available + cached);
        OutOfMemory { device, needed, free, held, in_use, quota }
    }
}

impl PoolStats {
    fn hand_out(&mut self, bytes: usize) {
        self.in_use += bytes;
        self.peak = self.peak.max(self.in_use);
        self.allocations += 1;
        self.live_blocks += 1;
    }
}

/// Free chunks, found by size and by age.
#[derive(Default)]
struct FreeChunks {
    /// By size, then by when they were freed.
    chunks: BTreeMap<(usize, u64), Chunk>,
    /// Sizes by when they were freed.
    ages: BTreeMap<u64, usize>,
    next_age: u64,
}

impl FreeChunks {
    fn put(&mut self, chunk: Chunk) {
        self.ages.insert(self.next_age, chunk.bytes);
        self.chunks.insert((chunk.bytes, self.next_age), chunk);
        self.next_age += 1;
    }

    /// The best fit, and of equal ones the last used: it is likeliest to be in a cache.
    fn take(&mut self, smallest: usize, largest: usize) -> Option<Chunk> {
        if smallest > largest {
            return None;
        }
        let (&(size, _), _) = self.chunks.range((smallest, 0)..=(largest, u64::MAX)).next()?;
        let (&key, _) = self.chunks.range((size, 0)..=(size, u64::MAX)).next_back()?;
        self.ages.remove(&key.1);
        self.chunks.remove(&key)
    }

    fn take_oldest(&mut self) -> Option<Chunk> {
        let (age, size) = self.ages.pop_first()?;
        self.chunks.remove(&(size, age))
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
