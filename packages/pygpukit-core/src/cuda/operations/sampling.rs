//! From logits to a token, and to the next step: argmax.cu, sample.cu, top_logprobs.cu, penalize.cu,
//! step.cu.

use bytemuck::{NoUninit, Pod, Zeroable};

use super::arguments::{Reader, address, int, launch, stride};
use super::signature::check_sizes;
use crate::cuda::{CudaKernel, CudaLaunch, Plan};
use crate::device::cuda::Delivery;
use crate::dispatch::TensorArg;
use crate::host;

/// Threads of a block that has a row of logits to itself.
const ROW_THREADS: usize = 1024;
/// Parts of a row whose largest logits argmax_maxima finds.
pub(super) const MAXIMA: usize = 1024;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MaximaArgs {
    pub(super) maxima: u64,
    pub(super) logits: u64,
    pub(super) logits_stride: i64,
    pub(super) vocabulary: i32,
    padding: i32,
}
const _: () = assert!(size_of::<MaximaArgs>() == 32);

/// Adds the launch that finds the largest logits of parts of each row; gives their address.
fn maxima(plan: &mut Plan, logits: &TensorArg) -> u64 {
    const BLOCKS: usize = 32;
    const THREADS: usize = 256;
    let rows = logits.shape[0];
    let maxima = plan.scratch(rows * MAXIMA * size_of::<u64>()).addr() as u64;
    let arguments = MaximaArgs {
        maxima,
        logits: address(logits),
        logits_stride: stride(logits, 0),
        vocabulary: int(logits.shape[1]),
        padding: 0,
    };
    plan.launch(launch("argmax", "argmax_maxima", [rows, BLOCKS, 1], THREADS, 0, arguments));
    maxima
}

/// The launch of a kernel that has a block for each row of logits.
fn launch_rows(
    [source, function]: [&'static str; 2],
    rows: usize,
    arguments: impl NoUninit,
) -> CudaLaunch {
    launch(source, function, [rows, 1, 1], ROW_THREADS, 0, arguments)
}

/// The same of one that chooses an id for each row, `out`, which it may advance to and deliver.
fn launch_choice(
    names: [&'static str; 2],
    out: &TensorArg,
    arguments: impl NoUninit,
) -> CudaLaunch {
    let launch = launch_rows(names, out.shape[0], arguments);
    let parameters = launch.parameters.value(AdvanceArgs::zeroed()).value(Delivery::zeroed());
    CudaLaunch { parameters, delivers: Some(out.addresses()), ..launch }
}

/// Which of a choice's parameters says what it advances.
pub(super) const ADVANCE_PARAMETER: usize = 1;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ArgmaxArgs {
    pub(super) out: u64,
    pub(super) maxima: u64,
}

pub(super) const ARGMAX: CudaKernel = CudaKernel {
    signature: host::ARGMAX.signature,
    check: |args| (host::ARGMAX.check)(args).and_then(|()| check_sizes(args)),
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let (logits, out) = (next.tensor(), next.tensor());
        let arguments = ArgmaxArgs { out: address(out), maxima: maxima(plan, logits) };
        plan.launch(launch_choice(["argmax", "argmax_rows"], out, arguments));
    },
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct SampleArgs {
    pub(super) out: u64,
    pub(super) maxima: u64,
    logits: u64,
    positions: u64,
    temperature: u64,
    top_k: u64,
    top_p: u64,
    min_p: u64,
    seeds: u64,
    logits_stride: i64,
    vocabulary: i32,
    padding: i32,
}
const _: () = assert!(size_of::<SampleArgs>() == 88);

pub(super) const SAMPLE: CudaKernel = CudaKernel {
    signature: host::SAMPLE.signature,
    check: |args| (host::SAMPLE.check)(args).and_then(|()| check_sizes(args)),
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let logits = next.tensor();
        let of_rows: [&TensorArg; 6] = std::array::from_fn(|_| next.tensor());
        let [positions, temperature, top_k, top_p, min_p, seeds] = of_rows.map(address);
        let out = next.tensor();
        let arguments = SampleArgs {
            out: address(out),
            maxima: maxima(plan, logits),
            logits: address(logits),
            positions,
            temperature,
            top_k,
            top_p,
            min_p,
            seeds,
            logits_stride: stride(logits, 0),
            vocabulary: int(logits.shape[1]),
            padding: 0,
        };
        let reads_early = of_rows.map(TensorArg::addresses).to_vec();
        let launch = launch_choice(["sample", "sample_rows"], out, arguments);
        plan.launch(CudaLaunch { reads_early, ..launch });
    },
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct LogprobsArgs {
    values: u64,
    indices: u64,
    pub(super) maxima: u64,
    logits: u64,
    ids: u64,
    values_stride: i64,
    indices_stride: i64,
    logits_stride: i64,
    vocabulary: i32,
    k: i32,
}
const _: () = assert!(size_of::<LogprobsArgs>() == 72);

pub(super) const TOP_LOGPROBS: CudaKernel = CudaKernel {
    signature: host::TOP_LOGPROBS.signature,
    check: |args| {
        (host::TOP_LOGPROBS.check)(args)?;
        check_sizes(args)?;
        let columns = args.tensor(2).shape[1];
        if columns > MAXIMA + 1 {
            let reason = format!("expected at most {} columns, found {columns}", MAXIMA + 1);
            return Err(args.refuse(2, reason));
        }
        Ok(())
    },
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let (logits, ids, values, indices) =
            (next.tensor(), next.tensor(), next.tensor(), next.tensor());
        let arguments = LogprobsArgs {
            values: address(values),
            indices: address(indices),
            maxima: maxima(plan, logits),
            logits: address(logits),
            ids: address(ids),
            values_stride: stride(values, 0),
            indices_stride: stride(indices, 0),
            logits_stride: stride(logits, 0),
            vocabulary: int(logits.shape[1]),
            k: int(values.shape[1] - 1),
        };
        plan.launch(launch_rows(["top_logprobs", "top_logprobs_rows"], logits.shape[0], arguments));
    },
};

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct PenalizeArgs {
    logits: u64,
    counts: u64,
    history: u64,
    positions: u64,
    prompt_lengths: u64,
    penalties: u64,
    logits_stride: i64,
    history_stride: i64,
    penalties_stride: i64,
    vocabulary: i32,
    columns: i32,
}
const _: () = assert!(size_of::<PenalizeArgs>() == 80);

pub(super) const PENALIZE: CudaKernel = CudaKernel {
    signature: host::PENALIZE.signature,
    check: |args| (host::PENALIZE.check)(args).and_then(|()| check_sizes(args)),
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let (logits, history, positions) = (next.tensor(), next.tensor(), next.tensor());
        let (prompt_lengths, penalties) = (next.tensor(), next.tensor());
        let arguments = PenalizeArgs {
            logits: address(logits),
            counts: plan.scratch(logits.elements() * size_of::<u32>()).addr() as u64,
            history: address(history),
            positions: address(positions),
            prompt_lengths: address(prompt_lengths),
            penalties: address(penalties),
            logits_stride: stride(logits, 0),
            history_stride: stride(history, 0),
            penalties_stride: stride(penalties, 0),
            vocabulary: int(logits.shape[1]),
            columns: int(history.shape[1]),
        };
        plan.launch(launch_rows(["penalize", "penalize_rows"], logits.shape[0], arguments));
    },
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct AdvanceArgs {
    pub(super) ids: u64,
    token_ids: u64,
    positions: u64,
    history: u64,
    history_stride: i64,
    pub(super) rows: i32,
    columns: i32,
}
const _: () = assert!(size_of::<AdvanceArgs>() == 48);

pub(super) const ADVANCE: CudaKernel = CudaKernel {
    signature: host::ADVANCE.signature,
    check: |args| (host::ADVANCE.check)(args).and_then(|()| check_sizes(args)),
    plan: |args, plan| {
        const THREADS: usize = 128;
        let mut next = Reader::new(args);
        let (ids, token_ids, positions, history) =
            (next.tensor(), next.tensor(), next.tensor(), next.tensor());
        let rows = ids.shape[0];
        let arguments = AdvanceArgs {
            ids: address(ids),
            token_ids: address(token_ids),
            positions: address(positions),
            history: address(history),
            history_stride: stride(history, 0),
            rows: int(rows),
            columns: int(history.shape[1]),
        };
        let grid = [rows.div_ceil(THREADS), 1, 1];
        plan.launch(launch("step", "step_advance", grid, THREADS, 0, arguments));
    },
};
