use std::sync::Arc;
use std::time::{Duration, Instant};

use pygpukit_core::device::{Device, Event, PIECE_BYTES};
use pygpukit_core::dispatch::Argument;
use pygpukit_core::dtype::DType;
use pygpukit_core::loader::ByteSource;
use pygpukit_core::memory::{MemoryPool, Tensor};
use pygpukit_core::transfer::AsyncEngine;

use crate::kernels::gpu;
use crate::{bytes, floats, floats_in, read_floats};

/// Bytes that are a hash of their offset; reads wait for `gate`.
struct Pattern {
    nbytes: usize,
    gate: Event,
}

fn pattern(nbytes: usize) -> Vec<u8> {
    (0..nbytes).map(|offset| (offset.wrapping_mul(0x9E37_79B9) >> 16) as u8).collect()
}

impl ByteSource for Pattern {
    fn nbytes(&self) -> usize {
        self.nbytes
    }

    fn read(&self, offset: usize, out: &mut [u8]) -> pygpukit_core::Result<()> {
        self.gate.wait()?;
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = ((offset + i).wrapping_mul(0x9E37_79B9) >> 16) as u8;
        }
        Ok(())
    }
}

fn open_gate() -> Event {
    let gate = Event::new();
    gate.complete(Ok(()));
    gate
}

fn empty(pool: &Arc<MemoryPool>, nbytes: usize) -> Tensor {
    Tensor::empty(pool, DType::U8, vec![nbytes]).unwrap()
}

#[test]
fn bytes_of_every_size_go_there_and_back() {
    let Some((ordinal, _)) = gpu() else { return };
    let pool = MemoryPool::new(Device::Cuda(ordinal), None);
    for nbytes in [1, 63, 64 << 10, (64 << 10) + 1, 5_000_001] {
        let (tensor, sent) = (empty(&pool, nbytes), pattern(nbytes));
        tensor.write(&sent).unwrap();
        assert!(bytes(&tensor) == sent, "{nbytes} bytes");
        let copy = empty(&pool, nbytes);
        copy.copy_from(&tensor).unwrap();
        assert!(bytes(&copy) == sent, "{nbytes} bytes copied");
        let zeros = Tensor::zeros(&pool, DType::U8, vec![nbytes]).unwrap();
        assert!(bytes(&zeros).iter().all(|&byte| byte == 0));
    }
}

#[test]
fn views_and_overlapping_copies_move_just_their_elements() {
    let Some((ordinal, _)) = gpu() else { return };
    let pool = MemoryPool::new(Device::Cuda(ordinal), None);
    let tensor = empty(&pool, 1000);
    tensor.write(&pattern(1000)).unwrap();
    let shifted = tensor.slice(0, 100, 1000, 1).unwrap();
    shifted.copy_from(&tensor.slice(0, 0, 900, 1).unwrap()).unwrap();
    let expected = [&pattern(100)[..], &pattern(900)].concat();
    assert_eq!(bytes(&tensor), expected);
    let column = tensor.reshape(vec![100, 10]).unwrap().select(1, 3).unwrap();
    column.write(&[7; 100]).unwrap();
    let expected: Vec<_> =
        expected.iter().enumerate().map(|(i, &byte)| if i % 10 == 3 { 7 } else { byte }).collect();
    assert_eq!(bytes(&tensor), expected);
    assert_eq!(bytes(&column), [7; 100]);
}

#[test]
fn memory_comes_from_the_gpu_and_goes_back() {
    let Some((ordinal, _)) = gpu() else { return };
    let device = Device::Cuda(ordinal);
    let pool = MemoryPool::new(device, None);
    let before = device.backend().memory();
    let block = pool.allocate(512 << 20).unwrap();
    let during = device.backend().memory();
    assert!(before.available - during.available >= 512 << 20, "{before:?} {during:?}");
    drop(block);
    assert_eq!(pool.stats().held, 512 << 20);
    assert_eq!(pool.trim(), 512 << 20);
    let error = pool.allocate(before.total as usize * 2).unwrap_err().to_string();
    assert!(error.starts_with("out of memory on cuda:"), "{error}");
    assert!(pool.allocate(1 << 20).is_ok());
}

#[test]
fn uploads_arrive_whole_through_any_number_of_threads() {
    let Some((ordinal, _)) = gpu() else { return };
    let pool = MemoryPool::new(Device::Cuda(ordinal), None);
    for threads in [1, 4] {
        let engine = AsyncEngine::new(Device::Cuda(ordinal), threads);
        for nbytes in [1, PIECE_BYTES - 1, 5 * PIECE_BYTES + 3] {
            let target = empty(&pool, nbytes);
            let source = Pattern { nbytes, gate: open_gate() };
            engine.upload(Arc::new(source), &target).unwrap().wait().unwrap();
            assert!(target.is_ready());
            assert!(bytes(&target) == pattern(nbytes), "{nbytes} bytes, {threads} threads");
        }
    }
}

#[test]
fn a_launch_comes_after_the_uploads_of_its_tensors() {
    let Some((ordinal, controller)) = gpu() else { return };
    let engine = AsyncEngine::new(Device::Cuda(ordinal), 2);
    let n = 3 * PIECE_BYTES / 4;
    let (x, y) = (floats(ordinal, &vec![-1.0; n]), floats(ordinal, &vec![0.0; n]));
    let gate = Event::new();
    let raw = x.reshape(vec![n]).unwrap();
    engine.upload(Arc::new(Pattern { nbytes: 4 * n, gate: gate.clone() }), &raw).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            gate.complete(Ok(()));
        });
        let arguments = vec![(&x).into(), (&y).into(), Argument::Float(1.0)];
        controller.launch("axpy", arguments).unwrap();
    });
    let sent: Vec<_> =
        pattern(4 * n).as_chunks().0.iter().map(|&b| f32::from_ne_bytes(b)).collect();
    let same =
        |(found, sent): (&f32, &f32)| found.to_bits() == (0.0 + sent).to_bits() || sent.is_nan();
    assert!(read_floats(&y).iter().zip(&sent).all(same));
}

#[test]
fn an_upload_waits_for_work_on_the_memory_that_it_fills() {
    let Some((ordinal, controller)) = gpu() else { return };
    let pool = MemoryPool::new(Device::Cuda(ordinal), None);
    let engine = AsyncEngine::new(Device::Cuda(ordinal), 1);
    let y = floats(ordinal, &[0.0]);
    let x = floats_in(&pool, &[42.0]);
    let address = x.address();
    let wait = Argument::Int(100_000_000);
    controller.launch("delayed_copy", vec![(&x).into(), (&y).into(), wait]).unwrap();
    drop(x);
    // The freed block is used again while the kernel that reads it is still waiting.
    let reused = empty(&pool, 4);
    assert_eq!(reused.address(), address);
    engine.upload(Arc::new(Pattern { nbytes: 4, gate: open_gate() }), &reused).unwrap();
    assert!(!reused.is_ready());
    assert_eq!(read_floats(&y), [42.0]);
    reused.wait().unwrap();
    assert_eq!(bytes(&reused), pattern(4));
}

#[test]
fn small_writes_and_launches_do_not_wait_for_the_gpu() {
    let Some((ordinal, controller)) = gpu() else { return };
    let (x, y) = (floats(ordinal, &[1.0]), floats(ordinal, &[0.0]));
    let start = Instant::now();
    let wait = Argument::Int(200_000_000);
    controller.launch("delayed_copy", vec![(&x).into(), (&y).into(), wait]).unwrap();
    x.write(&5.0_f32.to_ne_bytes()).unwrap();
    controller.launch("axpy", vec![(&x).into(), (&y).into(), Argument::Float(1.0)]).unwrap();
    let queued = start.elapsed();
    assert_eq!(read_floats(&y), [6.0]);
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert!(queued < Duration::from_millis(150), "{queued:?}");
}
