//! `activation` and `soft_cap`: elementwise.cu.

use bytemuck::NoUninit;

use super::arguments::{Reader, address, entry, int, launch, stride};
use super::signature::{check_same_dtype, check_sizes, signature};
use crate::cuda::CudaKernel;
use crate::dispatch::TensorArg;
use crate::host;

const THREADS: usize = 128;

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct ElementwiseArgs {
    out: u64,
    x: u64,
    x_stride: i64,
    out_stride: i64,
    length: i32,
    activation: i32,
    cap: f32,
    padding: i32,
}
const _: () = assert!(size_of::<ElementwiseArgs>() == 48);

fn arguments(x: &TensorArg, out: &TensorArg, activation: i32, cap: f32) -> ElementwiseArgs {
    ElementwiseArgs {
        out: address(out),
        x: address(x),
        x_stride: stride(x, 0),
        out_stride: stride(out, 0),
        length: int(x.shape[1]),
        activation,
        cap,
        padding: 0,
    }
}

pub(super) const ACTIVATION: CudaKernel = CudaKernel {
    signature: signature!(host::ACTIVATION, &["x", "out"]),
    check: |args| {
        (host::ACTIVATION.check)(args)?;
        check_sizes(args)?;
        check_same_dtype(args, &["x", "out"])
    },
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let (x, out) = (next.tensor(), next.tensor());
        let function = entry!("elementwise_activation", x.dtype);
        let arguments = arguments(x, out, next.int(), 0.0);
        plan.launch(launch("elementwise", function, [x.shape[0], 1, 1], THREADS, 0, arguments));
    },
};

pub(super) const SOFT_CAP: CudaKernel = CudaKernel {
    signature: signature!(host::SOFT_CAP, &["x", "out"]),
    check: |args| {
        (host::SOFT_CAP.check)(args)?;
        check_sizes(args)?;
        check_same_dtype(args, &["x", "out"])
    },
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let (x, out) = (next.tensor(), next.tensor());
        let function = entry!("elementwise_soft_cap", x.dtype);
        let arguments = arguments(x, out, 0, next.float());
        plan.launch(launch("elementwise", function, [x.shape[0], 1, 1], THREADS, 0, arguments));
    },
};
