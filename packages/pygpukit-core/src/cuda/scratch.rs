//! Memory that operations work in.

use std::sync::Arc;

use crate::error::Result;
use crate::memory::{Block, MemoryPool};

/// Blocks of a pool that operations, one after another, use for themselves.
///
/// Their launches are in order, so the next operation may have what the one before used. All blocks
/// stay until the scratch is dropped.
pub(super) struct Scratch {
    pool: Arc<MemoryPool>,
    free: Vec<Block>,
    used: Vec<Block>,
}

impl Scratch {
    pub(super) fn new(pool: &Arc<MemoryPool>) -> Self {
        Scratch { pool: Arc::clone(pool), free: Vec::new(), used: Vec::new() }
    }

    /// At least `bytes` bytes that nothing else of the same operation uses.
    pub(super) fn take(&mut self, bytes: usize) -> Result<*mut u8> {
        let fits = |&(_, block): &(usize, &Block)| block.bytes() >= bytes;
        let best = self.free.iter().enumerate().filter(fits).min_by_key(|(_, block)| block.bytes());
        let block = match best.map(|(index, _)| index) {
            Some(index) => self.free.swap_remove(index),
            None => self.pool.allocate(bytes)?,
        };
        let address = block.address();
        self.used.push(block);
        Ok(address)
    }

    /// Begins the next operation.
    pub(super) fn next_operation(&mut self) {
        self.free.append(&mut self.used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn blocks_are_shared_between_operations_but_not_within_one() {
        let pool = MemoryPool::new(Device::Cpu, None);
        let mut scratch = Scratch::new(&pool);
        let small = scratch.take(100).unwrap();
        let large = scratch.take(5000).unwrap();
        assert_ne!(small, large);
        scratch.next_operation();
        assert_eq!(scratch.take(90).unwrap(), small);
        assert_eq!(scratch.take(90).unwrap(), large);
        scratch.take(90).unwrap();
        assert_eq!(pool.stats().live_blocks, 3);
        drop(scratch);
        assert_eq!(pool.stats().in_use, 0);
    }

    #[test]
    fn a_request_beyond_the_quota_is_an_error() {
        let mut scratch = Scratch::new(&MemoryPool::new(Device::Cpu, Some(1000)));
        assert!(scratch.take(2000).is_err());
        assert!(scratch.take(500).is_ok());
    }
}
