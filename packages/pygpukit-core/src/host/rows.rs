//! Kernels that move or add whole rows: `embedding`, `gather_rows`, `add`.

use super::HostKernel;
use super::pool::ThreadPool;
use super::scratch;
use super::simd::{
    ACTIVATIONS, MAX_LANES, NUMBERS, Numbers, STORED, Simd, Stored, WithSimd, dispatch,
    for_each_vector, with_stored,
};
use super::view::{FloatView, View, check_layout, expect_same_dtype, expect_shape};
use crate::dispatch::{KernelArgs, LaunchError, Param, Signature, TensorArg};
use crate::dtype::DType;

/// `out = scale · x + y`, without `x` where there is no row of that index.
struct ScaledSum {
    x: Numbers,
    scale: f32,
    y: Option<Numbers>,
    out: Numbers,
    columns: usize,
}

impl WithSimd for ScaledSum {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let scale = simd.splat(self.scale);
        for_each_vector!(S, self.columns, |start, count| {
            // SAFETY: the vector lies within the rows.
            unsafe {
                let mut sum = simd.mul(self.x.load(simd, start, count), scale);
                if let Some(y) = self.y {
                    sum = simd.add(sum, y.load(simd, start, count));
                }
                self.out.store(simd, start, sum, count);
            }
        });
    }
}

/// `index` as one of `rows` rows, if there is such a row.
fn existing_row(rows: usize, index: i32) -> Option<usize> {
    usize::try_from(index).ok().filter(|&row| row < rows)
}

/// A row of numbers of any type on its way to float32.
struct ToF32<E> {
    source: *const E,
    target: *mut f32,
    length: usize,
}

impl<E: Stored> WithSimd for ToF32<E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: the source has `length` numbers, the target room for them in whole vectors.
        unsafe { E::to_f32(simd, self.source, self.target, self.length) };
    }
}

/// Calls `body` with row `row` of a table, dequantised where it consists of blocks.
fn with_row(table: &TensorArg, row: usize, body: impl FnOnce(Numbers)) {
    if !table.dtype.is_quantized() {
        return body(FloatView::<2>::of(table).row(row));
    }
    let length = table.shape[1];
    let mut numbers = scratch::take(length.next_multiple_of(MAX_LANES));
    let target = numbers.as_mut_ptr();
    with_stored!(table.dtype, E => {
        let source = View::<E, 2>::of(table).row(row).cast_const();
        dispatch(ToF32 { source, target, length });
    });
    body(target.into());
}

mod embedding_args {
    pub(super) const IDS: usize = 0;
    pub(super) const WEIGHT: usize = 1;
    pub(super) const POSITIONS: usize = 2;
    pub(super) const POSITION_WEIGHT: usize = 3;
    pub(super) const OUT: usize = 4;
    pub(super) const SCALE: usize = 5;
}

fn check_embedding(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    use embedding_args::*;
    check_layout(args)?;
    let tokens = args.tensor(IDS).shape[0];
    let columns = args.tensor(WEIGHT).shape[1];
    expect_shape(args, OUT, &[tokens, columns])?;
    expect_shape(args, POSITIONS, &[tokens])?;
    match (args.optional(POSITIONS), args.optional(POSITION_WEIGHT)) {
        (None, None) => Ok(()),
        (Some(_), Some(table)) => expect_shape(args, POSITION_WEIGHT, &[table.shape[0], columns]),
        _ => Err(args.refuse(POSITIONS, "expected positions and position_weight, or neither")),
    }
}

fn run_embedding(args: &KernelArgs<'_>) {
    use embedding_args::*;
    let ids = View::<i32, 1>::of(args.tensor(IDS));
    let weight = args.tensor(WEIGHT);
    let positions = args.optional(POSITIONS).map(View::<i32, 1>::of);
    let table = args.optional(POSITION_WEIGHT).map(FloatView::<2>::of);
    let out = FloatView::<2>::of(args.tensor(OUT));
    let scale = args.float(SCALE) as f32;
    let (rows, columns) = (weight.shape[0], weight.shape[1]);
    ThreadPool::global().run_rows(ids.length(0), columns, |token| {
        let row = existing_row(rows, ids.get([token]));
        let y = positions.zip(table).map(|(positions, table)| {
            existing_row(table.length(0), positions.get([token])).map(|row| table.row(row))
        });
        match (row, y) {
            (None, _) | (_, Some(None)) => out.fill_nan(token),
            (Some(row), y) => with_row(weight, row, |x| {
                let (y, out) = (y.flatten(), out.row(token));
                dispatch(ScaledSum { x, scale, y, out, columns });
            }),
        }
    });
}

/// `embedding(ids (T,), weight (V,K), positions (T,), position_weight (P,K), out (T,K), scale)`:
/// `out[t] = scale · weight[ids[t]] + position_weight[positions[t]]`; NaN where an index is outside
/// its table.
pub(crate) const EMBEDDING: HostKernel = HostKernel {
    signature: &Signature {
        name: "embedding",
        params: &[
            Param::input("ids", &[DType::I32], 1),
            Param::input("weight", STORED, 2),
            Param::optional("positions", &[DType::I32], 1),
            Param::optional("position_weight", NUMBERS, 2),
            Param::output("out", ACTIVATIONS, 2),
            Param::float("scale"),
        ],
    },
    check: check_embedding,
    run: run_embedding,
};

/// `gather_rows(x (T,K), rows (S,), out (S,K))`: `out[s] = x[rows[s]]`; NaN where there is no such
/// row.
pub(crate) const GATHER_ROWS: HostKernel = HostKernel {
    signature: &Signature {
        name: "gather_rows",
        params: &[
            Param::input("x", ACTIVATIONS, 2),
            Param::input("rows", &[DType::I32], 1),
            Param::output("out", ACTIVATIONS, 2),
        ],
    },
    check: |args| {
        check_layout(args)?;
        expect_same_dtype(args, &[0, 2])?;
        expect_shape(args, 2, &[args.tensor(1).shape[0], args.tensor(0).shape[1]])
    },
    run: |args| {
        let x = FloatView::<2>::of(args.tensor(0));
        let rows = View::<i32, 1>::of(args.tensor(1));
        let out = FloatView::<2>::of(args.tensor(2));
        ThreadPool::global().run_rows(rows.length(0), x.length(1), |to| {
            match existing_row(x.length(0), rows.get([to])) {
                Some(from) => x.copy_row(from, &out, to),
                None => out.fill_nan(to),
            }
        });
    },
};

/// `add(x (T,K), y (T,K), out (T,K), scale)`: `out = x + scale · y`.
pub(crate) const ADD: HostKernel = HostKernel {
    signature: &Signature {
        name: "add",
        params: &[
            Param::input("x", ACTIVATIONS, 2),
            Param::input("y", ACTIVATIONS, 2),
            Param::output("out", ACTIVATIONS, 2),
            Param::float("scale"),
        ],
    },
    check: |args| {
        check_layout(args)?;
        let shape = &args.tensor(0).shape;
        expect_shape(args, 1, shape)?;
        expect_shape(args, 2, shape)
    },
    run: |args| {
        let [x, y, out] = [0, 1, 2].map(|index| FloatView::<2>::of(args.tensor(index)));
        let scale = args.float(3) as f32;
        ThreadPool::global().run_rows(x.length(0), x.length(1), |row| {
            dispatch(ScaledSum {
                x: y.row(row),
                scale,
                y: Some(x.row(row)),
                out: out.row(row),
                columns: x.length(1),
            });
        });
    },
};
