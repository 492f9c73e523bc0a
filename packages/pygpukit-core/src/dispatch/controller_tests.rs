use std::slice;
use std::thread;

use super::*;
use crate::device::{Event, Failure};
use crate::dispatch::{ArgValue, KernelArgs, KernelError, Param, Signature};
use crate::dtype::DType;
use crate::error::Error;
use crate::host::HostKernel;
use crate::memory::{MemoryPool, Tensor};
use crate::transfer::TransferError;

const F32: &[DType] = &[DType::F32];

/// `y += scale * x`, with `x` absent taken as ones.
static AXPY: HostKernel = HostKernel {
    signature: &Signature {
        name: "axpy",
        params: &[Param::optional("x", F32, 1), Param::inout("y", F32, 1), Param::float("scale")],
    },
    check: |args| match args.optional(0) {
        Some(x) if x.shape != args.tensor(1).shape => Err(args.refuse(0, "x must be as long as y")),
        _ => Ok(()),
    },
    run: axpy,
};

/// Breaks when asked to.
static FRAGILE: HostKernel = HostKernel {
    signature: &Signature { name: "fragile", params: &[Param::int("breaks")] },
    check: |_| Ok(()),
    run: |args| assert!(args.int(0) == 0, "broke with {}", args.int(0)),
};

fn axpy(args: &KernelArgs<'_>) {
    let y = args.tensor(1);
    let floats =
        |tensor: &crate::dispatch::TensorArg| (tensor.data.cast::<f32>(), tensor.elements());
    let (data, length) = floats(y);
    // SAFETY: contiguous float32 tensors of the test, alive for the launch and not shared.
    let y = unsafe { slice::from_raw_parts_mut(data, length) };
    let ones = vec![1.0; length];
    let x = args.optional(0).map_or(&ones[..], |x| {
        let (data, length) = floats(x);
        // SAFETY: as above.
        unsafe { slice::from_raw_parts(data, length) }
    });
    for (y, x) in y.iter_mut().zip(x) {
        *y += args.float(2) as f32 * x;
    }
}

fn controller() -> KernelDispatchController {
    KernelDispatchController::new(Device::Cpu, [Kernel::Host(&AXPY), Kernel::Host(&FRAGILE)])
}

fn tensor(values: &[f32]) -> Tensor {
    let pool = MemoryPool::new(Device::Cpu, None);
    let tensor = Tensor::empty(&pool, DType::F32, vec![values.len()]).unwrap();
    tensor.write(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    tensor
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let mut bytes = vec![0; tensor.nbytes()];
    tensor.read(&mut bytes).unwrap();
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn add(x: &Tensor, y: &Tensor, scale: f64) -> Vec<Argument> {
    vec![x.into(), y.into(), Argument::Float(scale)]
}

fn lost() -> Failure {
    Failure::new(TransferError::SourcePanicked { message: "lost".to_owned() }.into())
}

#[test]
fn a_launch_runs_the_kernel_and_is_counted() {
    let (controller, y) = (controller(), tensor(&[1.0, 2.0]));
    controller.launch("axpy", add(&tensor(&[10.0, 20.0]), &y, 2.0)).unwrap();
    controller.launch("axpy", vec![Argument::None, (&y).into(), Argument::Int(1)]).unwrap();
    assert_eq!(values(&y), [22.0, 43.0]);
    let stats = controller.stats();
    assert_eq!((stats.launches, stats.replays), (2, 0));
    assert_eq!(stats.kernels, [("axpy", 2)]);
    assert_eq!(controller.kernels(), ["axpy", "fragile"]);
}

#[test]
fn a_bad_launch_names_kernel_and_argument_and_runs_nothing() {
    let (controller, y) = (controller(), tensor(&[1.0, 2.0]));
    let refused = |name, arguments| controller.launch(name, arguments).unwrap_err().to_string();
    let unknown = refused("axpx", vec![]);
    assert_eq!(unknown, "unknown kernel \"axpx\" on device cpu; known kernels: axpy, fragile");
    assert_eq!(refused("axpy", vec![]), "kernel axpy takes 3 arguments, got 0");
    let shape = refused("axpy", add(&tensor(&[1.0]), &y, 1.0));
    assert_eq!(shape, "kernel axpy, argument x: x must be as long as y");
    let kind = refused("axpy", vec![Argument::None, Argument::None, Argument::None]);
    assert_eq!(kind, "kernel axpy, argument y: expected a tensor, found None");
    let ids = Tensor::zeros(y.pool(), DType::I32, vec![2]).unwrap();
    let dtype = refused("axpy", vec![(&ids).into(), (&y).into(), Argument::Float(1.0)]);
    assert_eq!(dtype, "kernel axpy, argument x: expected dtype float32, found int32");
    assert_eq!(controller.stats(), DispatchStats::default());
}

#[test]
fn a_graph_runs_what_was_captured_as_often_as_asked() {
    let (controller, x, y) = (controller(), tensor(&[1.0]), tensor(&[0.0]));
    let graph = controller
        .capture(|| {
            controller.launch("axpy", add(&x, &y, 1.0))?;
            controller.launch("axpy", add(&y, &x, 1.0))?;
            controller.launch("fragile", vec![Argument::Int(0)])
        })
        .unwrap();
    assert_eq!((values(&x), values(&y)), (vec![1.0], vec![0.0]));
    assert_eq!(controller.stats(), DispatchStats::default());
    let names: Vec<_> = graph.launches().iter().map(crate::dispatch::Launch::kernel).collect();
    assert_eq!(names, ["axpy", "axpy", "fragile"]);

    for _ in 0..3 {
        graph.replay().unwrap();
    }
    // Fibonacci: (1, 0) → (2, 1) → (5, 3) → (13, 8).
    assert_eq!((values(&x), values(&y)), (vec![13.0], vec![8.0]));
    let stats = controller.stats();
    assert_eq!((stats.launches, stats.replays), (9, 3));
    assert_eq!(stats.kernels, [("axpy", 6), ("fragile", 3)]);
}

#[test]
fn a_graph_keeps_its_tensors_and_sees_what_is_written_into_them() {
    let (controller, y) = (controller(), tensor(&[0.0]));
    let (graph, x, pool) = {
        let x = tensor(&[1.0]);
        let graph = controller.capture(|| controller.launch("axpy", add(&x, &y, 1.0))).unwrap();
        let pool = Arc::clone(x.pool());
        (graph, x.reshape(vec![1, 1]).unwrap(), pool)
    };
    x.write(&5.0_f32.to_le_bytes()).unwrap();
    drop(x);
    assert_eq!(pool.stats().live_blocks, 1);
    graph.replay().unwrap();
    assert_eq!(values(&y), [5.0]);
    drop(graph);
    assert_eq!(pool.stats().live_blocks, 0);
}

#[test]
fn tensors_of_an_arena_lend_their_memory_until_the_last_graph_is_gone() {
    let controller = controller();
    let arena = MemoryPool::new(Device::Cpu, None);
    let zeros = || Tensor::zeros(&arena, DType::F32, vec![2]).unwrap();
    let (start, end) = (zeros(), zeros());
    // end = 3 start, each sum in a tensor that the next one no longer has.
    let tripled = |controller: &KernelDispatchController| {
        controller.begin_capture(Some(&arena)).unwrap();
        let mut sums = vec![start.clone()];
        for _ in 0..2 {
            let sum = Tensor::empty(&arena, DType::F32, vec![2]).unwrap();
            for (term, scale) in [(&sum, -1.0), (&sums[0], 1.0), (&start, 1.0)] {
                controller.launch("axpy", add(term, &sum, scale)).unwrap();
            }
            sums = vec![sum];
        }
        for (term, scale) in [(&end, -1.0), (&sums[0], 1.0)] {
            controller.launch("axpy", add(term, &end, scale)).unwrap();
        }
        drop(sums);
        controller.end_capture().unwrap()
    };
    let graphs = [tripled(&controller), tripled(&controller)];
    let stats = arena.stats();
    assert_eq!((stats.live_blocks, stats.allocations - stats.reuses), (2, 4));
    for (graph, value) in graphs.iter().zip([1.5_f32, -4.0]) {
        start.write(&[value, 2.0 * value].map(f32::to_le_bytes).concat()).unwrap();
        assert_eq!(arena.trim(), 0);
        graph.replay().unwrap();
        assert_eq!(values(&end), [3.0 * value, 6.0 * value]);
    }
    drop((start, end));
    assert_eq!(arena.stats().live_blocks, 2); // the graphs have them
    drop(graphs);
    let held = arena.stats().held;
    assert_eq!((arena.stats().live_blocks, arena.trim()), (0, held));
}

#[test]
fn a_node_describes_its_arguments() {
    let (controller, y) = (controller(), tensor(&[0.0; 3]));
    let arguments = vec![Argument::None, (&y).into(), Argument::Float(0.5)];
    let graph = controller.capture(|| controller.launch("axpy", arguments)).unwrap();
    let described: Vec<_> = graph.launches()[0]
        .arguments()
        .map(|(name, value)| format!("{name}: {}", ArgValue::describe(value)))
        .collect();
    let expected = ["x: None", "y: a float32 tensor of shape [3]", "scale: the number 0.5"];
    assert_eq!(described, expected);
}

#[test]
fn a_failed_capture_leaves_nothing_behind() {
    let (controller, y) = (controller(), tensor(&[0.0]));
    let broken = controller.capture(|| {
        controller.launch("axpy", add(&y, &y, 1.0))?;
        controller.launch("unknown", vec![])
    });
    assert!(matches!(broken, Err(Error::Launch(LaunchError::UnknownKernel { .. }))));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        controller.capture(|| panic!("in the middle"))
    }));
    assert!(panicked.is_err());
    controller.launch("axpy", vec![Argument::None, (&y).into(), Argument::Float(1.0)]).unwrap();
    assert_eq!(values(&y), [1.0]);
}

#[test]
fn captures_neither_nest_nor_leave_their_thread() {
    let (controller, other, y) = (controller(), controller(), tensor(&[0.0]));
    let ones = || vec![Argument::None, (&y).into(), Argument::Float(1.0)];
    let graph = controller
        .capture(|| {
            assert!(matches!(controller.begin_capture(None), Err(LaunchError::Capture(_))));
            assert!(matches!(other.begin_capture(None), Err(LaunchError::Capture(_))));
            assert!(matches!(other.end_capture(), Err(Error::Launch(LaunchError::Capture(_)))));
            // Another controller's launches and another thread's run as ever.
            other.launch("axpy", ones())?;
            thread::scope(|scope| scope.spawn(|| controller.launch("axpy", ones())).join().unwrap())
        })
        .unwrap();
    assert!(graph.launches().is_empty());
    assert_eq!(values(&y), [2.0]);
    assert!(matches!(controller.end_capture(), Err(Error::Launch(LaunchError::Capture(_)))));
}

#[test]
fn a_kernel_that_panics_is_an_error_and_the_next_launch_works() {
    let (controller, y) = (controller(), tensor(&[0.0]));
    let broken = |result| match result {
        Err(Error::Kernel(KernelError::Panicked { kernel, message })) => {
            assert_eq!((kernel, message.as_str()), ("fragile", "broke with 3"));
        }
        other => panic!("{other:?}"),
    };
    broken(controller.launch("fragile", vec![Argument::Int(3)]));
    let graph = controller
        .capture(|| {
            controller.launch("axpy", vec![Argument::None, (&y).into(), Argument::Float(1.0)])?;
            controller.launch("fragile", vec![Argument::Int(3)])?;
            controller.launch("axpy", vec![Argument::None, (&y).into(), Argument::Float(1.0)])
        })
        .unwrap();
    for replays in 1..=2 {
        broken(graph.replay());
        assert_eq!(values(&y), [replays as f32]);
    }
}

#[test]
fn launches_and_replays_wait_for_copies_and_tell_their_failures() {
    let (controller, x, y) = (controller(), tensor(&[0.0]), tensor(&[0.0]));
    let pending = |outcome: Result<(), Failure>| {
        let event = Event::new();
        x.storage().add_pending(x.range(), event.clone());
        move || {
            thread::sleep(std::time::Duration::from_millis(5));
            event.complete(outcome);
        }
    };
    let graph = controller.capture(|| controller.launch("axpy", add(&x, &y, 1.0))).unwrap();
    thread::scope(|scope| {
        scope.spawn(pending(Err(lost())));
        let error = controller.launch("axpy", add(&x, &y, 1.0)).unwrap_err();
        assert!(error.to_string().contains("lost"));
    });
    assert!(graph.replay().unwrap_err().to_string().contains("lost"));
    assert_eq!(controller.stats(), DispatchStats::default());
    thread::scope(|scope| {
        scope.spawn(pending(Ok(())));
        graph.replay().unwrap();
        assert!(x.is_ready());
    });
}
