//! `embedding`, `gather_rows` and `add`: rows.cu.

use bytemuck::NoUninit;

use super::arguments::{Output, Reader, Table, address, launch};
use super::signature::{check_sizes, signature};
use crate::cuda::{CudaKernel, CudaLaunch};
use crate::dispatch::TensorArg;
use crate::host;

const THREADS: usize = 128;

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct EmbeddingArgs {
    out: Output,
    weight: Table,
    position_weight: Table,
    ids: u64,
    positions: u64,
    scale: f32,
    padding: i32,
}
const _: () = assert!(size_of::<EmbeddingArgs>() == 112);

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct GatherArgs {
    out: Output,
    x: Table,
    ids: u64,
}
const _: () = assert!(size_of::<GatherArgs>() == 64);

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct AddArgs {
    out: Output,
    x: Table,
    y: Table,
    scale: f32,
    padding: i32,
}
const _: () = assert!(size_of::<AddArgs>() == 96);

/// A launch of one block for each row of `out`.
fn rows(function: &'static str, out: &TensorArg, arguments: impl NoUninit) -> CudaLaunch {
    launch("rows", function, [out.shape[0], 1, 1], THREADS, 0, arguments)
}

pub(super) const EMBEDDING: CudaKernel = CudaKernel {
    signature: signature!(host::EMBEDDING, &["weight", "out"]),
    check: |args| {
        (host::EMBEDDING.check)(args)?;
        check_sizes(args)
    },
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let (ids, weight) = (next.tensor(), next.tensor());
        let (positions, position_weight) = (next.optional(), next.optional());
        let out = next.tensor();
        let arguments = EmbeddingArgs {
            out: Output::of(out),
            weight: Table::of(Some(weight)),
            position_weight: Table::of(position_weight),
            ids: address(ids),
            positions: address(positions),
            scale: next.float(),
            padding: 0,
        };
        plan.launch(rows("rows_embedding", out, arguments));
    },
};

pub(super) const GATHER_ROWS: CudaKernel = CudaKernel {
    signature: signature!(host::GATHER_ROWS, &["x", "out"]),
    check: |args| {
        (host::GATHER_ROWS.check)(args)?;
        check_sizes(args)
    },
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let (x, ids, out) = (next.tensor(), next.tensor(), next.tensor());
        let arguments =
            GatherArgs { out: Output::of(out), x: Table::of(Some(x)), ids: address(ids) };
        plan.launch(rows("rows_gather", out, arguments));
    },
};

pub(super) const ADD: CudaKernel = CudaKernel {
    signature: signature!(host::ADD, &["x", "y", "out"]),
    check: |args| {
        (host::ADD.check)(args)?;
        check_sizes(args)
    },
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let (x, y, out) = (next.tensor(), next.tensor(), next.tensor());
        let arguments = AddArgs {
            out: Output::of(out),
            x: Table::of(Some(x)),
            y: Table::of(Some(y)),
            scale: next.float(),
            padding: 0,
        };
        plan.launch(rows("rows_add", out, arguments));
    },
};
