use std::process::Command;

use pygpukit_core::device::{Device, DeviceError, Ordinal};
use pygpukit_core::dispatch::{Argument, KernelError};
use pygpukit_core::error::Error;
use pygpukit_core::memory::{MemoryPool, Tensor};

use crate::kernels::gpu;
use crate::{floats, ints, read_ints};

/// Set in the process that a test breaks the GPU's context in.
const SACRIFICED: &str = "PYGPUKIT_TEST_SACRIFICED";

#[test]
fn what_the_gpu_has_no_kernel_for_is_said() {
    let Some((ordinal, controller)) = gpu() else { return };
    let reason = |name| match controller.launch(name, vec![]).unwrap_err() {
        Error::Device(DeviceError::NoKernels { index, reason }) => {
            assert_eq!(index, ordinal.index());
            reason
        }
        other => panic!("{other}"),
    };
    assert!(reason("missing").contains("no image of \"nowhere\""));
    assert!(reason("misnamed").contains("basic.compute_80.ptx has no basic_f64"));
    let corrupt = reason("corrupt");
    assert!(corrupt.contains("corrupt.compute_80.ptx: CUDA_ERROR_INVALID"), "{corrupt}");
}

#[test]
fn text_is_compiled_where_the_machine_code_does_not_load() {
    let Some((ordinal, controller)) = gpu() else { return };
    controller.launch("fallback", vec![]).unwrap();
    let loaded = pygpukit_core::cuda::loaded_images(ordinal);
    let (_, path) = loaded.iter().find(|(source, _)| *source == "fallback").unwrap();
    assert!(path.ends_with("fallback.compute_80.ptx"));
}

#[test]
fn a_refused_launch_leaves_the_gpu_usable() {
    let Some((ordinal, controller)) = gpu() else { return };
    match controller.launch("too_large", vec![]).unwrap_err() {
        Error::Kernel(KernelError::Refused { kernel: "too_large", reason }) => {
            assert!(reason.contains("4096"), "{reason}");
        }
        other => panic!("{other}"),
    }
    let graph = controller.capture(|| controller.launch("too_large", vec![]));
    assert!(matches!(graph, Err(Error::Kernel(KernelError::Refused { .. }))));
    let y = ints(ordinal, &[0]);
    controller.launch("shared", vec![(&y).into(), Argument::Int(16)]).unwrap();
    assert_eq!(read_ints(&y), [16]);
}

#[test]
fn a_broken_kernel_is_named_by_whatever_waits_for_it_and_by_all_that_follows() {
    if gpu().is_none() {
        return;
    }
    let test = "faults::break_the_context";
    let this = std::env::current_exe().unwrap();
    for (blocking, expected) in [("0", "one of the kernels axpy, broken"), ("1", "kernel broken")] {
        let output = Command::new(&this)
            .args(["--exact", test, "--nocapture"])
            .env(SACRIFICED, expected)
            .env("CUDA_LAUNCH_BLOCKING", blocking)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{text}");
    }
}

#[test]
fn break_the_context() {
    let Ok(expected) = std::env::var(SACRIFICED) else { return };
    let (ordinal, controller) = gpu().unwrap();
    let y = floats(ordinal, &[0.0]);
    let fault = |error: Error| match error {
        Error::Kernel(error @ KernelError::Fault { .. }) => error.to_string(),
        other => panic!("{other}"),
    };
    let told = y
        .read(&mut [0; 4])
        .and_then(|()| {
            controller.launch("axpy", vec![(&y).into(), (&y).into(), Argument::Float(1.0)])
        })
        .and_then(|()| controller.launch("broken", vec![]))
        .and_then(|()| y.read(&mut [0; 4]));
    let told = fault(told.unwrap_err());
    assert!(told.starts_with(&expected) && told.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{told}");
    assert_eq!(fault(y.write(&[0; 4]).unwrap_err()), told);
    assert_eq!(fault(controller.launch("broken", vec![]).unwrap_err()), told);
    let pool = MemoryPool::new(Device::Cuda(ordinal), None);
    assert_eq!(fault(pool.allocate(1 << 30).map(drop).unwrap_err()), told);
    assert_eq!(fault(Tensor::zeros(y.pool(), y.dtype(), vec![64]).map(drop).unwrap_err()), told);
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let Some(_) = gpu() else { return };
    let error = Ordinal::open(1000).unwrap_err();
    assert!(error.to_string().starts_with("there is no device cuda:1000: the "), "{error}");
}
