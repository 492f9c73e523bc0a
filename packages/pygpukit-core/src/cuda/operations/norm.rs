//! `rms_norm` and `layer_norm`: norm.cu.

use bytemuck::NoUninit;

use super::arguments::{
    Floats, Norm, Reader, address, element_bytes, entry, int, launch, number, share_tiles, stride,
};
use super::signature::{check_same_dtype, check_sizes, signature};
use crate::cuda::{CudaKernel, CudaLaunch, Plan};
use crate::device::Limits;
use crate::dispatch::{KernelArgs, LaunchError, TensorArg};
use crate::dtype::DType;
use crate::host;

const THREADS: usize = 128;
/// Shared memory of a block: what every GPU has. A row is read only once if it finds room there.
const MOST_SHARED_BYTES: usize = 96 << 10;

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct NormRowsArgs {
    out: u64,
    sum: u64,
    x: u64,
    residual: u64,
    norm: Norm,
    x_stride: i64,
    residual_stride: i64,
    sum_stride: i64,
    out_stride: i64,
    rows: i32,
    length: i32,
    resident: i32,
    out_dtype: i32,
    room: i32,
    padding: i32,
}
const _: () = assert!(size_of::<NormRowsArgs>() == 136);

impl NormRowsArgs {
    /// The entry point that has rows of this type in registers, if they are such.
    fn short(&self, dtype: DType) -> Option<&'static str> {
        let is_aligned = |address: u64, stride: i64| {
            address.is_multiple_of(16) && stride.cast_unsigned().is_multiple_of(8)
        };
        let suits = self.out_dtype != number(DType::F32)
            && [self.residual, self.sum] == [0; 2]
            && is_aligned(self.x, self.x_stride)
            && is_aligned(self.out, self.out_stride);
        let entries = match dtype {
            DType::F16 => ["norm_1024_f16", "norm_2048_f16", "norm_3072_f16", "norm_4096_f16"],
            DType::BF16 => ["norm_1024_bf16", "norm_2048_bf16", "norm_3072_bf16", "norm_4096_bf16"],
            _ => return None,
        };
        let number = self.norm.short_groups(self.length as usize)?.checked_sub(1)?;
        entries.get(number).copied().filter(|_| suits)
    }
}

/// Rows of `length` elements of one dtype.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    address: u64,
    stride: i64,
}

impl Rows {
    pub(super) fn of<'a>(tensor: impl Into<Option<&'a TensorArg>> + Copy) -> Rows {
        Rows { address: address(tensor), stride: stride(tensor, 0) }
    }

    pub(super) fn at(address: u64, stride: i64) -> Rows {
        Rows { address, stride }
    }
}

/// The launch that writes the norm of `count` rows of `x`, or of `x + residual`, to `out`, and the sum
/// to `sum`. `out` may be of another type than the rest.
pub(super) fn norm_rows(
    [dtype, out_dtype]: [DType; 2],
    [x, residual, sum, out]: [Rows; 4],
    [count, length]: [usize; 2],
    norm: Norm,
    limits: &Limits,
) -> CudaLaunch {
    let bytes = length.next_multiple_of(8) * element_bytes(dtype);
    let resident = bytes <= MOST_SHARED_BYTES;
    let row_bytes = if resident { bytes } else { 0 };
    let room = norm.vector_bytes(length).min(MOST_SHARED_BYTES - row_bytes);
    let arguments = NormRowsArgs {
        out: out.address,
        sum: sum.address,
        x: x.address,
        residual: residual.address,
        norm,
        x_stride: x.stride,
        residual_stride: residual.stride,
        sum_stride: sum.stride,
        out_stride: out.stride,
        rows: int(count),
        length: int(length),
        resident: i32::from(resident),
        out_dtype: number(out_dtype),
        room: int(room),
        padding: 0,
    };
    let shared = 2 * row_bytes + room;
    let at_a_time = blocks_at_a_time(shared, limits);
    let grid = [count, 1, 1];
    let short = arguments.short(dtype).filter(|_| count <= at_a_time);
    let launch = if let Some(function) = short {
        launch("norm", function, grid, THREADS, 0, arguments)
    } else if resident && shared <= MOST_SHARED_BYTES && count > at_a_time {
        let grid = [share_tiles(count, at_a_time), 1, 1];
        launch("norm", entry!("norm_many", dtype), grid, THREADS, shared, arguments)
    } else {
        launch("norm", entry!("norm", dtype), grid, THREADS, row_bytes + room, arguments)
    };
    CudaLaunch { reads_early: norm.vectors(length), ..launch }
}

/// Blocks of that much shared memory that run at a time, about.
fn blocks_at_a_time(shared: usize, limits: &Limits) -> usize {
    /// What every GPU has room for.
    const THREADS_PER_SM: usize = 1536;
    limits.sm_count as usize * limits.blocks_per_sm(shared).clamp(1, THREADS_PER_SM / THREADS)
}

fn check(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    check_sizes(args)?;
    check_same_dtype(args, &["x", "residual", "sum", "out"])
}

fn plan(args: &KernelArgs<'_>, plan: &mut Plan, kind: i32) {
    let mut next = Reader::new(args);
    let (x, residual) = (next.tensor(), next.optional());
    let (weight, bias) = (Floats::of(next.optional()), Floats::of(next.optional()));
    let (sum, out) = (next.optional(), next.tensor());
    let (eps, offset) = (next.float(), next.float());
    let norm = Norm { weight, bias, kind, eps, offset, padding: 0 };
    let rows = [Rows::of(x), Rows::of(residual), Rows::of(sum), Rows::of(out)];
    let limits = *plan.limits();
    plan.launch(norm_rows([x.dtype; 2], rows, [x.shape[0], x.shape[1]], norm, &limits));
}

const WIDENED: &[&str] = &["x", "residual", "sum", "out"];

pub(super) const RMS_NORM: CudaKernel = CudaKernel {
    signature: signature!(host::RMS_NORM, WIDENED),
    check: |args| (host::RMS_NORM.check)(args).and_then(|()| check(args)),
    plan: |args, into| plan(args, into, Norm::RMS),
};

pub(super) const LAYER_NORM: CudaKernel = CudaKernel {
    signature: signature!(host::LAYER_NORM, WIDENED),
    check: |args| (host::LAYER_NORM.check)(args).and_then(|()| check(args)),
    plan: |args, into| plan(args, into, Norm::LAYER),
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::operations::tests::{H100, plan, tensor_at};
    use crate::dispatch::ArgValue;

    /// The launch for rows at `address`; `types` are that of the rows and that of the weights.
    fn norm_of([rows, length]: [usize; 2], types: [DType; 2], address: usize) -> CudaLaunch {
        let row = |address| ArgValue::Tensor(tensor_at(address, &[rows, length], types[0]));
        let weight = ArgValue::Tensor(tensor_at(0x9000, &[length], types[1]));
        let mut values = vec![row(address), ArgValue::None, weight];
        values.extend([ArgValue::None, ArgValue::None, row(0x1000)]);
        values.extend([ArgValue::Float(1e-5), ArgValue::Float(0.0)]);
        let [launch] = plan("rms_norm", &values, H100).unwrap().try_into().unwrap();
        launch
    }

    #[test]
    fn rows_that_find_room_are_in_registers() {
        let (plain, own) = ([DType::BF16, DType::F32], [DType::F16, DType::F16]);
        for (rows, length, types, address, function, shared_bytes) in [
            (1, 576, plain, 0x1000, "norm_1024_bf16", 0),
            (1500, 1032, plain, 0x1000, "norm_2048_bf16", 0),
            (1, 4096, [DType::F16, DType::F32], 0x1000, "norm_4096_f16", 0),
            // Too long, or many; not in groups of eight, not aligned; weights of another type.
            (1, 4104, plain, 0x1000, "norm_bf16", 6 * 4104),
            (4096, 2048, plain, 0x1000, "norm_many_bf16", 4 * 4096),
            (1, 1020, plain, 0x1000, "norm_bf16", 2 * 1024 + 4 * 1020),
            (1, 1024, plain, 0x1008, "norm_bf16", 6 * 1024),
            (1, 1024, own, 0x1000, "norm_f16", 4 * 1024),
            (1, 1024, [DType::F32; 2], 0x1000, "norm_f32", 8 * 1024),
        ] {
            let launch = norm_of([rows, length], types, address);
            assert_eq!((launch.function, launch.shared_bytes), (function, shared_bytes));
            assert_eq!(launch.block, [128, 1, 1]);
            assert!(!launch.reads_early.is_empty());
        }
    }

    #[test]
    fn blocks_take_several_rows_where_there_are_many() {
        let launch = |rows, length| {
            let launch = norm_of([rows, length], [DType::BF16; 2], 0x1000);
            (launch.function, launch.grid[0], launch.shared_bytes)
        };
        assert_eq!(launch(512, 2048), ("norm_bf16", 512, 2 * 4096));
        // Twelve of them run at a time on each of 132 multiprocessors.
        assert_eq!(launch(4096, 2048), ("norm_many_bf16", 1366, 3 * 4096));
        // A row of which there is no second beside it.
        assert_eq!(launch(4096, 40_000).0, "norm_bf16");
    }
}
