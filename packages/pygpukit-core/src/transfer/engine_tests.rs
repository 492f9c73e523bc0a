use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::device::DeviceError;
use crate::dtype::DType;
use crate::memory::MemoryPool;

/// A source whose byte at offset `i` is a hash of `i`, which can be told to fail or to wait.
#[derive(Default)]
struct Pattern {
    nbytes: usize,
    granularity: usize,
    fails_from: Option<usize>,
    panics_from: Option<usize>,
    /// Reads wait until it is complete.
    gate: Option<Event>,
    misaligned: AtomicUsize,
    released: AtomicUsize,
}

fn pattern(offset: usize) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9) >> 16) as u8
}

impl ByteSource for Pattern {
    fn nbytes(&self) -> usize {
        self.nbytes
    }

    fn granularity(&self) -> usize {
        self.granularity
    }

    fn read(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        if let Some(gate) = &self.gate {
            gate.wait()?;
        }
        let end = offset + out.len();
        let whole = |at: usize| at.is_multiple_of(self.granularity) || at == self.nbytes;
        if !whole(offset) || !whole(end) {
            self.misaligned.fetch_add(1, Ordering::Relaxed);
        }
        if self.fails_from.is_some_and(|from| end > from) {
            return Err(DeviceError::Unknown { name: "a broken disk".to_owned() }.into());
        }
        assert!(self.panics_from.is_none_or(|from| end <= from), "a broken source");
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = pattern(offset + i);
        }
        Ok(())
    }

    fn release(&self) {
        self.released.fetch_add(1, Ordering::Relaxed);
    }
}

fn tensor(pool: &Arc<MemoryPool>, nbytes: usize) -> Tensor {
    Tensor::zeros(pool, DType::U8, vec![nbytes]).unwrap()
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.nbytes()];
    tensor.read(&mut bytes).unwrap();
    bytes
}

fn pool() -> Arc<MemoryPool> {
    MemoryPool::new(Device::Cpu, None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_byte_arrives_in_whole_grains(
        nbytes in prop_oneof![0..100_usize, PIECE_BYTES - 50..2 * PIECE_BYTES + 50],
        granularity in prop_oneof![Just(1_usize), 1..5000_usize, Just(PIECE_BYTES + 1)],
        threads in 1..5_usize,
    ) {
        let engine = AsyncEngine::new(Device::Cpu, threads);
        let source = Arc::new(Pattern { nbytes, granularity, ..Pattern::default() });
        let target = tensor(&pool(), nbytes);
        engine.upload(source.clone(), &target).unwrap().wait().unwrap();
        let arrived = bytes(&target).iter().enumerate().all(|(i, &byte)| byte == pattern(i));
        prop_assert!(arrived);
        prop_assert_eq!(source.misaligned.load(Ordering::Relaxed), 0);
        prop_assert_eq!(source.released.load(Ordering::Relaxed), 1);
        let stats = engine.stats();
        prop_assert_eq!((stats.bytes_uploaded, stats.copies), (nbytes as u64, 1));
    }
}

#[test]
fn many_uploads_share_few_threads_and_fill_slices_of_one_tensor() {
    let engine = AsyncEngine::new(Device::Cpu, 3);
    let pool = pool();
    let fused = Tensor::zeros(&pool, DType::U8, vec![200, 10_000]).unwrap();
    for row in 0..200 {
        let source = Pattern { nbytes: 10_000, granularity: 1, ..Pattern::default() };
        engine.upload(Arc::new(source), &fused.select(0, row).unwrap()).unwrap();
    }
    let filled = bytes(&fused);
    assert!(filled.chunks(10_000).all(|row| row.iter().enumerate().all(|(i, &b)| b == pattern(i))));
    assert!(engine.workers().threads <= 3);
    assert!(fused.is_ready());
}

#[test]
fn a_large_upload_starts_all_threads() {
    let engine = AsyncEngine::new(Device::Cpu, 4);
    let source = Pattern { nbytes: 8 * PIECE_BYTES, granularity: 1, ..Pattern::default() };
    let target = tensor(&pool(), source.nbytes);
    engine.upload(Arc::new(source), &target).unwrap().wait().unwrap();
    assert_eq!(engine.workers().threads, 4);
}

#[test]
fn a_failure_is_told_by_the_event_and_by_the_tensor() {
    let engine = AsyncEngine::new(Device::Cpu, 2);
    let nbytes = 3 * PIECE_BYTES;
    let broken = |fails_from, panics_from| Pattern {
        nbytes,
        granularity: 1,
        fails_from,
        panics_from,
        ..Pattern::default()
    };
    let target = tensor(&pool(), nbytes);
    let cases = [
        (broken(Some(nbytes - 1), None), "a broken disk"),
        (broken(None, Some(0)), "a broken source"),
    ];
    for (source, message) in cases {
        let event = engine.upload(Arc::new(source), &target).unwrap();
        assert!(event.wait().unwrap_err().to_string().contains(message));
        assert!(target.wait().unwrap_err().to_string().contains(message));
    }
    engine.upload(Arc::new(broken(None, None)), &target).unwrap();
    assert_eq!(bytes(&target)[nbytes - 1], pattern(nbytes - 1));
}

#[test]
fn memory_in_flight_is_not_freed_and_is_free_once_the_event_is_complete() {
    let engine = AsyncEngine::new(Device::Cpu, 1);
    let pool = pool();
    let gate = Event::new();
    let source =
        Pattern { nbytes: 1000, granularity: 1, gate: Some(gate.clone()), ..Pattern::default() };
    let event = engine.upload(Arc::new(source), &tensor(&pool, 1000)).unwrap();
    assert!(event.wait_timeout(Duration::from_millis(10)).is_none());
    assert_eq!(pool.stats().live_blocks, 1);
    gate.complete(Ok(()));
    event.wait().unwrap();
    assert_eq!(pool.stats().live_blocks, 0);
}

#[test]
fn an_engine_that_is_dropped_finishes_what_was_queued() {
    let engine = AsyncEngine::new(Device::Cpu, 1);
    let target = tensor(&pool(), 100);
    let source = Pattern { nbytes: 100, granularity: 1, ..Pattern::default() };
    let event = engine.upload(Arc::new(source), &target).unwrap();
    drop(engine);
    event.wait().unwrap();
    assert_eq!(bytes(&target)[99], pattern(99));
}

#[test]
fn what_does_not_fit_is_refused_at_once() {
    let engine = AsyncEngine::new(Device::Cpu, 1);
    let source = |nbytes| Arc::new(Pattern { nbytes, granularity: 1, ..Pattern::default() });
    let matrix = Tensor::zeros(&pool(), DType::U8, vec![4, 4]).unwrap();
    let error = engine.upload(source(15), &matrix).unwrap_err().to_string();
    assert!(error.contains("15 bytes") && error.contains("16"), "{error}");
    let column = matrix.slice(1, 0, 2, 1).unwrap();
    let error = engine.upload(source(8), &column).unwrap_err().to_string();
    assert!(error.contains("gaps"), "{error}");
    assert_eq!(engine.stats(), TransferStats::default());
}

#[test]
fn synchronous_copies_are_counted() {
    let engine = AsyncEngine::new(Device::Cpu, 1);
    let (one, other) = (tensor(&pool(), 4), tensor(&pool(), 4));
    engine.write(&[1, 2, 3, 4], &one).unwrap();
    engine.copy(&one, &other).unwrap();
    let mut out = [0; 4];
    engine.download(&other, &mut out).unwrap();
    assert_eq!(out, [1, 2, 3, 4]);
    let expected = TransferStats { bytes_uploaded: 4, bytes_downloaded: 4, copies: 3 };
    assert_eq!(engine.stats(), expected);
}
