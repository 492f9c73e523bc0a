//! Kernels that move or add whole rows: `embedding`, `gather_rows`, `add`.

use super::HostKernel;
use super::pool::ThreadPool;
use super::simd::{Element, Simd, WithSimd, dispatch, for_each_vector, with_element};
use super::view::{View, check_layout, expect_shape};
use crate::dispatch::{KernelArgs, LaunchError, Param, Signature};
use crate::dtype::DType;

/// `out = scale · x + y`, without `x` where there is no row of that index.
struct ScaledSum<X, Y> {
    x: *const X,
    scale: f32,
    y: Option<*const Y>,
    out: *mut f32,
    columns: usize,
}

impl<X: Element, Y: Element> WithSimd for ScaledSum<X, Y> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let scale = simd.splat(self.scale);
        for_each_vector!(S, self.columns, |start, count| {
            // SAFETY: the vector lies within the rows.
            unsafe {
                let mut sum = simd.mul(simd.load_some(self.x.add(start), count), scale);
                if let Some(y) = self.y {
                    sum = simd.add(sum, simd.load_some(y.add(start), count));
                }
                simd.store_some(self.out.add(start), sum, count);
            }
        });
    }
}

/// Marks row `row` as the result of an index that there is nothing at.
fn fill_nan(out: &View<f32, 2>, row: usize) {
    for column in 0..out.length(1) {
        out.set([row, column], f32::NAN);
    }
}

/// `index` as a row of `matrix`, if there is such a row.
fn existing_row<T: Copy>(matrix: &View<T, 2>, index: i32) -> Option<usize> {
    usize::try_from(index).ok().filter(|&row| row < matrix.length(0))
}

const WEIGHTS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

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

fn run_embedding<W: Element, P: Element>(args: &KernelArgs<'_>) {
    use embedding_args::*;
    let ids = View::<i32, 1>::of(args.tensor(IDS));
    let weight = View::<W, 2>::of(args.tensor(WEIGHT));
    let positions = args.optional(POSITIONS).map(View::<i32, 1>::of);
    let table = args.optional(POSITION_WEIGHT).map(View::<P, 2>::of);
    let out = View::<f32, 2>::of(args.tensor(OUT));
    let scale = args.float(SCALE) as f32;
    ThreadPool::global().run_rows(ids.length(0), weight.length(1), |token| {
        let x = existing_row(&weight, ids.get([token])).map(|row| weight.row(row));
        let y = positions.zip(table).map(|(positions, table)| {
            existing_row(&table, positions.get([token])).map(|row| table.row(row).cast_const())
        });
        match (x, y) {
            (None, _) | (_, Some(None)) => fill_nan(&out, token),
            (Some(x), y) => dispatch(ScaledSum {
                x: x.cast_const(),
                scale,
                y: y.flatten(),
                out: out.row(token),
                columns: out.length(1),
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
            Param::input("weight", WEIGHTS, 2),
            Param::optional("positions", &[DType::I32], 1),
            Param::optional("position_weight", WEIGHTS, 2),
            Param::output("out", &[DType::F32], 2),
            Param::float("scale"),
        ],
    },
    check: check_embedding,
    run: |args| {
        use embedding_args::*;
        let positions = args.optional(POSITION_WEIGHT).map_or(DType::F32, |table| table.dtype);
        with_element!(args.tensor(WEIGHT).dtype, W => with_element!(positions, P => {
            run_embedding::<W, P>(args);
        }));
    },
};

/// `gather_rows(x (T,K), rows (S,), out (S,K))`: `out[s] = x[rows[s]]`; NaN where there is no such
/// row.
pub(crate) const GATHER_ROWS: HostKernel = HostKernel {
    signature: &Signature {
        name: "gather_rows",
        params: &[
            Param::input("x", &[DType::F32], 2),
            Param::input("rows", &[DType::I32], 1),
            Param::output("out", &[DType::F32], 2),
        ],
    },
    check: |args| {
        check_layout(args)?;
        expect_shape(args, 2, &[args.tensor(1).shape[0], args.tensor(0).shape[1]])
    },
    run: |args| {
        let x = View::<f32, 2>::of(args.tensor(0));
        let rows = View::<i32, 1>::of(args.tensor(1));
        let out = View::<f32, 2>::of(args.tensor(2));
        ThreadPool::global().run_rows(rows.length(0), x.length(1), |to| {
            match existing_row(&x, rows.get([to])) {
                // SAFETY: both rows have `length(1)` numbers; `out` is another tensor than `x`.
                Some(from) => unsafe {
                    std::ptr::copy(x.row(from), out.row(to), x.length(1));
                },
                None => fill_nan(&out, to),
            }
        });
    },
};

/// `add(x (T,K), y (T,K), out (T,K), scale)`: `out = x + scale · y`.
pub(crate) const ADD: HostKernel = HostKernel {
    signature: &Signature {
        name: "add",
        params: &[
            Param::input("x", &[DType::F32], 2),
            Param::input("y", &[DType::F32], 2),
            Param::output("out", &[DType::F32], 2),
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
        let [x, y, out] = [0, 1, 2].map(|index| View::<f32, 2>::of(args.tensor(index)));
        let scale = args.float(3) as f32;
        ThreadPool::global().run_rows(x.length(0), x.length(1), |row| {
            dispatch(ScaledSum {
                x: y.row(row).cast_const(),
                scale,
                y: Some(x.row(row).cast_const()),
                out: out.row(row),
                columns: x.length(1),
            });
        });
    },
};
