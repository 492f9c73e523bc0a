//! `route`, `route_by_group`, `expert_linear` and `combine_experts`: experts.cu.

use bytemuck::NoUninit;

use super::arguments::{Reader, address, entry, int, launch, stride};
use super::signature::{check_same_dtype, check_sizes, signature};
use crate::cuda::{CudaKernel, CudaLaunch};
use crate::dispatch::{KernelArgs, LaunchError, TensorArg};
use crate::dtype::DType;
use crate::host;

const WARPS: usize = 4;
const THREADS: usize = WARPS * 32;

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct RouteArgs {
    weights: u64,
    experts: u64,
    logits: u64,
    correction: u64,
    logits_stride: i64,
    weights_stride: i64,
    experts_stride: i64,
    tokens: i32,
    count: i32,
    choices: i32,
    groups: i32,
    top_groups: i32,
    sigmoid: i32,
    normalize: i32,
    padding: i32,
}
const _: () = assert!(size_of::<RouteArgs>() == 88);

/// Refuses logits of more experts than fit the shared memory of any GPU.
fn check_route(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    const MOST_EXPERTS: usize = 2048;
    check_sizes(args)?;
    let experts = args.tensor(0).shape[1];
    if experts > MOST_EXPERTS {
        let reason = format!("expected at most {MOST_EXPERTS} experts, found {experts}");
        return Err(args.refuse(0, reason));
    }
    Ok(())
}

/// How experts are chosen.
struct Routing<'a> {
    logits: &'a TensorArg,
    correction: Option<&'a TensorArg>,
    weights: &'a TensorArg,
    experts: &'a TensorArg,
    sigmoid: i32,
    groups: i32,
    top_groups: i32,
    normalize: i32,
}

impl Routing<'_> {
    fn launch(&self) -> CudaLaunch {
        let (tokens, count) = (self.logits.shape[0], self.logits.shape[1]);
        let arguments = RouteArgs {
            weights: address(self.weights),
            experts: address(self.experts),
            logits: address(self.logits),
            correction: address(self.correction),
            logits_stride: stride(self.logits, 0),
            weights_stride: stride(self.weights, 0),
            experts_stride: stride(self.experts, 0),
            tokens: int(tokens),
            count: int(count),
            choices: int(self.weights.shape[1]),
            groups: self.groups,
            top_groups: self.top_groups,
            sigmoid: self.sigmoid,
            normalize: self.normalize,
            padding: 0,
        };
        let shared = 4 * WARPS * (2 * count + self.groups as usize);
        let grid = [tokens.div_ceil(WARPS), 1, 1];
        launch("experts", "experts_route", grid, THREADS, shared, arguments)
    }
}

pub(super) const ROUTE: CudaKernel = CudaKernel {
    signature: host::ROUTE.signature,
    check: |args| (host::ROUTE.check)(args).and_then(|()| check_route(args)),
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let routing = Routing {
            logits: next.tensor(),
            correction: None,
            weights: next.tensor(),
            experts: next.tensor(),
            sigmoid: 0,
            groups: 1,
            top_groups: 1,
            normalize: next.int(),
        };
        plan.launch(routing.launch());
    },
};

pub(super) const ROUTE_BY_GROUP: CudaKernel = CudaKernel {
    signature: host::ROUTE_BY_GROUP.signature,
    check: |args| (host::ROUTE_BY_GROUP.check)(args).and_then(|()| check_route(args)),
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let routing = Routing {
            logits: next.tensor(),
            correction: next.optional(),
            weights: next.tensor(),
            experts: next.tensor(),
            sigmoid: next.int(),
            groups: next.int(),
            top_groups: next.int(),
            normalize: next.int(),
        };
        plan.launch(routing.launch());
    },
};

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct CombineArgs {
    out: u64,
    x: u64,
    weights: u64,
    residual: u64,
    out_stride: i64,
    x_stride: i64,
    weights_stride: i64,
    residual_stride: i64,
    length: i32,
    choices: i32,
    scale: f32,
    padding: i32,
}
const _: () = assert!(size_of::<CombineArgs>() == 80);

pub(super) const COMBINE_EXPERTS: CudaKernel = CudaKernel {
    signature: signature!(host::COMBINE_EXPERTS, &["x", "residual", "out"]),
    check: |args| {
        (host::COMBINE_EXPERTS.check)(args)?;
        check_sizes(args)?;
        check_same_dtype(args, &["x", "residual", "out"])
    },
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let (x, weights) = (next.tensor(), next.tensor());
        let (residual, out) = (next.optional(), next.tensor());
        let arguments = CombineArgs {
            out: address(out),
            x: address(x),
            weights: address(weights),
            residual: address(residual),
            out_stride: stride(out, 0),
            x_stride: stride(x, 0),
            weights_stride: stride(weights, 0),
            residual_stride: stride(residual, 0),
            length: int(out.shape[1]),
            choices: int(weights.shape[1]),
            scale: next.float(),
            padding: 0,
        };
        let function = entry!("experts_combine", x.dtype);
        plan.launch(launch("experts", function, [out.shape[0], 1, 1], THREADS, 0, arguments));
    },
};

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct ExpertLinearArgs {
    out: u64,
    x: u64,
    weight: u64,
    bias: u64,
    experts: u64,
    out_stride: i64,
    x_stride: i64,
    expert_stride: i64,
    weight_stride: i64,
    bias_stride: i64,
    experts_stride: i64,
    n: i32,
    k: i32,
    count: i32,
    choices: i32,
    rows_per_input: i32,
    activation: i32,
    gated: i32,
    alpha: f32,
    limit: f32,
    padding: i32,
}
const _: () = assert!(size_of::<ExpertLinearArgs>() == 128);

pub(super) const EXPERT_LINEAR: CudaKernel = CudaKernel {
    signature: signature!(host::EXPERT_LINEAR, &["x", "weight", "out"]),
    check: |args| {
        // Rows of the grid, and the row of x in shared memory.
        const MOST_ROWS: usize = 65535;
        const MOST_INPUTS: usize = (96 << 10) / 4;
        (host::EXPERT_LINEAR.check)(args)?;
        check_sizes(args)?;
        check_same_dtype(args, &["x", "out"])?;
        if args.tensor(0).dtype != DType::F32 {
            check_same_dtype(args, &["x", "weight"])?;
        }
        let (inputs, rows) = (args.tensor(0).shape[1], args.tensor(4).shape[0]);
        if inputs > MOST_INPUTS {
            let reason = format!("expected at most {MOST_INPUTS} columns, found {inputs}");
            return Err(args.refuse(0, reason));
        }
        if rows > MOST_ROWS {
            let reason = format!("expected at most {MOST_ROWS} rows, found {rows}");
            return Err(args.refuse(4, reason));
        }
        Ok(())
    },
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let (x, weight, bias) = (next.tensor(), next.tensor(), next.optional());
        let (experts, out) = (next.tensor(), next.tensor());
        let (rows, n, k) = (out.shape[0], out.shape[1], x.shape[1]);
        let arguments = ExpertLinearArgs {
            out: address(out),
            x: address(x),
            weight: address(weight),
            bias: address(bias),
            experts: address(experts),
            out_stride: stride(out, 0),
            x_stride: stride(x, 0),
            expert_stride: stride(weight, 0),
            weight_stride: stride(weight, 1),
            bias_stride: stride(bias, 0),
            experts_stride: stride(experts, 0),
            n: int(n),
            k: int(k),
            count: int(weight.shape[0]),
            choices: int(experts.shape[1]),
            rows_per_input: int(rows / x.shape[0].max(1)),
            activation: next.int(),
            gated: next.int(),
            alpha: next.float(),
            limit: next.float(),
            padding: 0,
        };
        let biased = bias.is_some() || arguments.limit > 0.0;
        let function = match (x.dtype, biased) {
            (DType::F32, false) => entry!("experts_linear_f32", weight.dtype),
            (DType::F32, true) => entry!("experts_linear_biased_f32", weight.dtype),
            (DType::F16, false) => "experts_linear_f16_f16",
            (DType::F16, true) => "experts_linear_biased_f16_f16",
            (_, false) => "experts_linear_bf16_bf16",
            (_, true) => "experts_linear_biased_bf16_bf16",
        };
        let (grid, shared) = ([n.div_ceil(WARPS), rows, 1], 4 * k.next_multiple_of(8));
        plan.launch(launch("experts", function, grid, THREADS, shared, arguments));
    },
};
