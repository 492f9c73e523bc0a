use std::thread;

use pygpukit_core::cuda::loaded_images;
use pygpukit_core::device::Device;
use pygpukit_core::dispatch::{Argument, KernelDispatchController};
use pygpukit_core::memory::{MemoryPool, Tensor};

use crate::kernels::gpu;
use crate::{floats, floats_in, ints, read_floats, read_ints};

fn axpy(controller: &KernelDispatchController, x: &Tensor, y: &Tensor, scale: f64) {
    let arguments = vec![x.into(), y.into(), Argument::Float(scale)];
    controller.launch("axpy", arguments).unwrap();
}

#[test]
fn launches_run_in_order_and_are_counted() {
    let Some((ordinal, controller)) = gpu() else { return };
    let x = floats(ordinal, &(0..1000).map(|i| i as f32).collect::<Vec<_>>());
    let y = floats(ordinal, &[1.0; 1000]);
    axpy(&controller, &x, &y, 2.0);
    axpy(&controller, &y, &x, -1.0);
    axpy(&controller, &floats(ordinal, &[]), &floats(ordinal, &[]), 1.0);
    let expected = (0..1000).map(|i| 1.0 + 2.0 * i as f32);
    assert_eq!(read_floats(&y), expected.clone().collect::<Vec<_>>());
    let expected: Vec<_> = expected.enumerate().map(|(i, y)| i as f32 - y).collect();
    assert_eq!(read_floats(&x), expected);
    let stats = controller.stats();
    assert_eq!((stats.launches, stats.kernels), (3, vec![("axpy", 3)]));
    let loaded = loaded_images(ordinal);
    let (_, path) = loaded.iter().find(|(source, _)| *source == "basic").unwrap();
    assert!(path.ends_with("basic.compute_80.ptx"));
}

#[test]
fn a_graph_runs_its_launches_again_and_sees_what_was_written() {
    let Some((ordinal, controller)) = gpu() else { return };
    let (x, y) = (floats(ordinal, &[1.0; 8]), floats(ordinal, &[0.0; 8]));
    let graph = controller
        .capture(|| {
            axpy(&controller, &x, &y, 1.0);
            axpy(&controller, &y, &x, 1.0);
            Ok(())
        })
        .unwrap();
    assert_eq!(read_floats(&y), [0.0; 8]);
    for _ in 0..3 {
        graph.replay().unwrap();
    }
    // Fibonacci: (1, 0) → (2, 1) → (5, 3) → (13, 8).
    assert_eq!((read_floats(&x), read_floats(&y)), (vec![13.0; 8], vec![8.0; 8]));
    x.write(&[0; 32]).unwrap();
    graph.replay().unwrap();
    assert_eq!((read_floats(&x), read_floats(&y)), (vec![8.0; 8], vec![8.0; 8]));
    let stats = controller.stats();
    assert_eq!((stats.launches, stats.replays), (8, 4));
}

#[test]
fn a_graph_keeps_its_tensors_and_scratch_memory() {
    let Some((ordinal, controller)) = gpu() else { return };
    let pool = MemoryPool::new(Device::Cuda(ordinal), None);
    let y = floats(ordinal, &[0.0]);
    let graph = {
        let x = floats_in(&pool, &[7.0]);
        let copy = || controller.launch("through_scratch", vec![(&x).into(), (&y).into()]);
        controller.capture(|| copy().and_then(|()| copy())).unwrap()
    };
    // What the graph let go of would be used again by these.
    let others: Vec<_> = (0..8).map(|i| floats_in(&pool, &[100.0 + i as f32])).collect();
    graph.replay().unwrap();
    assert_eq!(read_floats(&y), [7.0]);
    drop(graph);
    assert_eq!(pool.stats().live_blocks, others.len());
    let x = floats(ordinal, &[9.0]);
    controller.launch("through_scratch", vec![(&x).into(), (&y).into()]).unwrap();
    assert_eq!(read_floats(&y), [9.0]);
}

#[test]
fn threads_launch_and_capture_side_by_side() {
    let Some((ordinal, controller)) = gpu() else { return };
    thread::scope(|scope| {
        for scale in 1..5 {
            let controller = &controller;
            scope.spawn(move || {
                let (x, y) = (floats(ordinal, &[1.0; 300]), floats(ordinal, &[0.0; 300]));
                for _ in 0..20 {
                    axpy(controller, &x, &y, f64::from(scale));
                    let graph = controller.capture(|| {
                        axpy(controller, &x, &y, f64::from(scale));
                        Ok(())
                    });
                    graph.unwrap().replay().unwrap();
                }
                assert_eq!(read_floats(&y), vec![40.0 * scale as f32; 300]);
            });
        }
    });
}

#[test]
fn a_block_may_have_all_the_shared_memory_there_is() {
    let Some((ordinal, controller)) = gpu() else { return };
    let y = ints(ordinal, &[0]);
    let most = i64::from(ordinal.limits().shared_bytes_per_block);
    for bytes in [64, 48 << 10, most, 1 << 10] {
        controller.launch("shared", vec![(&y).into(), Argument::Int(bytes)]).unwrap();
        assert_eq!(i64::from(read_ints(&y)[0]), bytes);
    }
    let error =
        controller.launch("shared", vec![(&y).into(), Argument::Int(most + 16)]).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("kernel shared can't be launched"), "{message}");
    controller.launch("shared", vec![(&y).into(), Argument::Int(64)]).unwrap();
    assert_eq!(read_ints(&y), [64]);
}

#[test]
fn clusters_and_overlapping_launches() {
    let Some((ordinal, controller)) = gpu() else { return };
    if ordinal.limits().capability < (9, 0) {
        eprintln!("skipped: needs compute capability 9.0");
        return;
    }
    for blocks in [1, 2, 8, 16] {
        let y = ints(ordinal, &[0; 32]);
        controller.launch("cluster", vec![(&y).into(), Argument::Int(blocks)]).unwrap();
        assert_eq!(read_ints(&y), [blocks as i32; 32]);
    }
    let y = ints(ordinal, &[0]);
    let increment = || controller.launch("increment", vec![(&y).into()]);
    for _ in 0..1000 {
        increment().unwrap();
    }
    let graph = controller.capture(|| (0..100).try_for_each(|_| increment())).unwrap();
    for _ in 0..10 {
        graph.replay().unwrap();
    }
    assert_eq!(read_ints(&y), [2000]);
}
