use std::collections::HashMap;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::error::Error;

/// What a pool should do, in its simplest form.
#[derive(Default)]
struct Model {
    quota: Option<usize>,
    live: HashMap<usize, usize>,
    /// Sizes of free blocks, the one freed first in front.
    free: Vec<usize>,
    peak: usize,
    allocations: u64,
    reuses: u64,
}

impl Model {
    fn in_use(&self) -> usize {
        self.live.values().sum()
    }

    fn held(&self) -> usize {
        self.in_use() + self.free.iter().sum::<usize>()
    }

    fn limit(&self) -> usize {
        self.quota.unwrap_or(usize::MAX)
    }

    /// The size of the block that a request of `bytes` should get.
    fn allocate(&mut self, key: usize, bytes: usize) -> Option<usize> {
        let needed = size_class::block_bytes(bytes).unwrap();
        let affordable = self.limit().saturating_sub(self.in_use());
        let fits =
            |size: &usize| size_class::reusable(needed).contains(size) && *size <= affordable;
        let best = self.free.iter().copied().filter(fits).min();
        let size = match best {
            Some(size) => {
                let newest = self.free.iter().rposition(|&free| free == size).unwrap();
                self.reuses += 1;
                self.free.remove(newest)
            }
            None if needed > affordable => return None,
            None => {
                while self.held() + needed > self.limit() {
                    self.free.remove(0);
                }
                needed
            }
        };
        self.live.insert(key, size);
        self.allocations += 1;
        self.peak = self.peak.max(self.in_use());
        Some(size)
    }

    fn release(&mut self, key: usize) {
        let over = self.held() > self.limit();
        if let Some(size) = self.live.remove(&key)
            && !over
        {
            self.free.push(size);
        }
    }

    fn set_quota(&mut self, quota: Option<usize>) {
        self.quota = quota;
        while self.held() > self.limit() && !self.free.is_empty() {
            self.free.remove(0);
        }
    }

    fn stats(&self) -> PoolStats {
        PoolStats {
            in_use: self.in_use(),
            held: self.held(),
            peak: self.peak,
            allocations: self.allocations,
            reuses: self.reuses,
            live_blocks: self.live.len(),
            quota: self.quota,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(usize),
    Release(prop::sample::Index),
    SetQuota(Option<usize>),
    Trim,
}

fn any_step() -> impl Strategy<Value = Step> {
    let small = 0..3000_usize;
    let large = (1_usize << 20) - 5000..3 << 20;
    prop_oneof![
        6 => prop_oneof![3 => small, 1 => large].prop_map(Step::Allocate),
        5 => any::<prop::sample::Index>().prop_map(Step::Release),
        1 => prop::option::of(0..8_usize << 20).prop_map(Step::SetQuota),
        1 => Just(Step::Trim),
    ]
}

fn assert_disjoint<'a>(blocks: impl Iterator<Item = &'a Block>) {
    let mut ranges: Vec<_> = blocks
        .map(|block| (block.address().addr(), block.address().addr() + block.bytes()))
        .collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn behaves_as_the_model(steps in prop::collection::vec(any_step(), 1..80)) {
        let pool = MemoryPool::new(Device::Cpu, None);
        let mut model = Model::default();
        let mut live: Vec<(usize, Block)> = Vec::new();
        for (key, step) in steps.into_iter().enumerate() {
            match step {
                Step::Allocate(bytes) => match (pool.allocate(bytes), model.allocate(key, bytes)) {
                    (Ok(block), Some(size)) => {
                        prop_assert_eq!(block.bytes(), size);
                        prop_assert_eq!(block.address().addr() % 64, 0);
                        live.push((key, block));
                    }
                    (Err(Error::OutOfMemory(error)), None) => {
                        prop_assert_eq!(Some(error.needed), size_class::block_bytes(bytes));
                        prop_assert!(error.free < error.needed as u64);
                    }
                    (found, expected) => prop_assert!(false, "{:?}, {expected:?}", found.is_ok()),
                },
                Step::Release(index) if !live.is_empty() => {
                    let (key, block) = live.swap_remove(index.index(live.len()));
                    drop(block);
                    model.release(key);
                }
                Step::Release(_) => {}
                Step::SetQuota(quota) => {
                    pool.set_quota(quota);
                    model.set_quota(quota);
                }
                Step::Trim => {
                    let free: usize = model.free.drain(..).sum();
                    prop_assert_eq!(pool.trim(), free);
                }
            }
            prop_assert_eq!(pool.stats(), model.stats());
            prop_assert!(model.held() <= model.limit().max(model.in_use()));
            assert_disjoint(live.iter().map(|(_, block)| block));
        }
        drop(live);
        prop_assert_eq!(pool.stats().in_use, 0);
        prop_assert_eq!(pool.stats().live_blocks, 0);
    }
}

#[test]
fn threads_never_share_a_block() {
    let quota = 64 << 10;
    let pool = MemoryPool::new(Device::Cpu, Some(quota));
    thread::scope(|scope| {
        for tag in 1..=4_u8 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..2000_usize {
                    let Ok(block) = pool.allocate(1 + round * 97 % 9000) else { continue };
                    // SAFETY: the block is live and, as the test is about, this thread's own.
                    let bytes =
                        unsafe { std::slice::from_raw_parts_mut(block.address(), block.bytes()) };
                    bytes.fill(tag);
                    thread::yield_now();
                    assert!(bytes.iter().all(|&byte| byte == tag));
                }
            });
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.live_blocks), (0, 0));
    assert!(stats.held <= quota && stats.peak <= quota && stats.reuses > 0, "{stats:?}");
}

#[test]
fn what_is_kept_stays_whatever_the_quota() {
    let pool = MemoryPool::new(Device::Cpu, Some(8192));
    drop(pool.allocate(4096).unwrap());
    let kept = [pool.keep(), pool.keep()];
    assert_eq!(pool.trim(), 0);
    pool.set_quota(Some(2048));
    assert!(pool.allocate(1024).is_err(), "the quota is full of what is kept");
    assert_eq!(pool.stats().held, 4096);
    let [first, last] = kept;
    drop(first);
    assert_eq!(pool.stats().held, 4096);
    drop(last);
    assert_eq!(pool.stats().held, 0);
    assert!(pool.allocate(1024).is_ok());
}

#[test]
fn only_memory_fresh_from_the_system_counts_as_zeroed() {
    let pool = MemoryPool::new(Device::Cpu, None);
    assert!(pool.allocate(100).unwrap().is_zeroed());
    assert!(!pool.allocate(100).unwrap().is_zeroed());
}

#[test]
fn the_error_says_what_was_needed_and_what_there_is() {
    let pool = MemoryPool::new(Device::Cpu, Some(4096));
    let block = pool.allocate(1024).unwrap();
    let Err(Error::OutOfMemory(error)) = pool.allocate(3500) else {
        panic!("the quota was broken");
    };
    let expected = OutOfMemory {
        device: Device::Cpu,
        needed: 3584,
        free: 3072,
        held: 1024,
        in_use: 1024,
        quota: Some(4096),
    };
    assert_eq!(error, expected);
    assert_eq!(
        error.to_string(),
        "out of memory on cpu: needed 3584 bytes, free 3072, held 1024 (1024 in use), quota 4096; \
         drop tensors or raise the quota"
    );
    drop(block);
    assert!(pool.allocate(3500).is_ok());
    assert!(pool.allocate(usize::MAX).is_err());
}
