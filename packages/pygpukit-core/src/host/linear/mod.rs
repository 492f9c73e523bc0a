//! The linear layer, with a norm in front and bias, activation, gate and residual behind.
//!
//! Weights are read where they lie, in the type they are stored in. Activations are normalised once
//! into scratch; then every chunk computes a panel of outputs. What is summed in which order depends
//! only on the row of `x` and the row of `weight`, never on the rows computed beside them.

mod dot;
mod epilogue;
mod experts;
mod few;
#[cfg(target_arch = "x86_64")]
mod pairs;
#[cfg(target_arch = "x86_64")]
mod tiles;

use self::epilogue::Epilogue;
pub(crate) use self::experts::EXPERT_LINEAR;
use super::HostKernel;
use super::activation::Activation;
use super::norm::Norm;
use super::pool::ThreadPool;
use super::scratch;
use super::simd::{
    ACTIVATIONS, Floats, NUMBERS, Numbers, STORED, Simd, Stored, WithSimd, dispatch, with_stored,
};
#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level};
use super::view::{FloatView, View, check_layout, expect_shape};
use crate::dispatch::{KernelArgs, LaunchError, Param, Signature};
use crate::dtype::DType;

const X: usize = 0;
const WEIGHT: usize = 1;
const BIAS: usize = 2;
const NORM: usize = 3;
const RESIDUAL: usize = 8;
const OUT: usize = 9;
const ACTIVATION: usize = 10;
const GATED: usize = 11;
const SCALE: usize = 12;

const NORM_PARAMS: [Param; 5] =
    Norm::params(["norm", "norm_weight", "norm_bias", "norm_eps", "norm_offset"]);

/// Rows of `x` whose normalised copies are in scratch at a time.
const SLAB: usize = 512;

fn check(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    check_layout(args)?;
    let (x, weight, out) = (args.tensor(X), args.tensor(WEIGHT), args.tensor(OUT));
    let (tokens, inputs) = (x.shape[0], x.shape[1]);
    let rows_per_output = if args.int(GATED) != 0 { 2 } else { 1 };
    expect_shape(args, WEIGHT, &[weight.shape[0], inputs])?;
    if weight.shape[0] % rows_per_output != 0 {
        let reason = format!("expected gate rows and as many others, found {}", weight.shape[0]);
        return Err(args.refuse(WEIGHT, reason));
    }
    expect_shape(args, BIAS, &weight.shape[..1])?;
    expect_shape(args, OUT, &[tokens, weight.shape[0] / rows_per_output])?;
    expect_shape(args, RESIDUAL, &out.shape)?;
    Norm::of(args, NORM, inputs)?;
    Activation::of(args, ACTIVATION)?;
    Ok(())
}

/// One launch: `y = act(W · norm(x) + b)`, gated or not, `out = residual + scale · y`.
struct Linear<E> {
    x: FloatView<2>,
    /// Of numbers, or of blocks of them.
    weight: View<E, 2>,
    norm: Option<Norm>,
    epilogue: Epilogue,
}

impl<E: Stored> Linear<E> {
    fn of(args: &KernelArgs<'_>) -> Linear<E> {
        let x = FloatView::<2>::of(args.tensor(X));
        Linear {
            x,
            weight: View::of(args.tensor(WEIGHT)),
            norm: Norm::of(args, NORM, x.length(1)).expect("checked before"),
            epilogue: Epilogue {
                bias: args.optional(BIAS).map(Floats::of),
                activation: Activation::of(args, ACTIVATION).expect("checked before"),
                gated: args.int(GATED) != 0,
                clamped: None,
                residual: args.optional(RESIDUAL).map(FloatView::of),
                scale: args.float(SCALE) as f32,
                out: FloatView::of(args.tensor(OUT)),
            },
        }
    }

    /// Runs `kernel` on slabs of tokens: the layer, the first token and the number of tokens.
    fn run(&self, kernel: impl Fn(&Self, usize, usize)) {
        for first in (0..self.x.length(0)).step_by(SLAB) {
            kernel(self, first, SLAB.min(self.x.length(0) - first));
        }
    }

    /// Outputs of a chunk, a multiple of `unit`, where reading the weights takes the time: about
    /// `chunk_bytes` of them, and as many chunks for each thread.
    fn outputs_to_read(&self, chunk_bytes: usize, unit: usize) -> usize {
        let bytes = self.weight.length(0) * self.weight.length(1) * size_of::<E>();
        let chunks = (bytes / chunk_bytes).max(1).next_multiple_of(ThreadPool::global().threads());
        self.epilogue.outputs().div_ceil(chunks).max(1).next_multiple_of(unit)
    }

    /// Calls `body` with the normalised rows `first` to `first + count` of `x`, each padded with
    /// zeros to a multiple of `padding` numbers.
    fn with_normalised(
        &self,
        first: usize,
        count: usize,
        padding: usize,
        body: impl FnOnce(View<f32, 2>),
    ) {
        let inputs = self.x.length(1);
        let padded = inputs.next_multiple_of(padding);
        let mut buffer = scratch::take(count * padded);
        let rows = View::over(&mut buffer, count, padded);
        ThreadPool::global().run_rows(count, inputs, |row| {
            self.prepare(first + row, &rows, row);
        });
        body(rows);
    }

    /// Writes row `from` of `x`, normalised and then filled up with zeros, to row `to` of `rows`.
    fn prepare(&self, from: usize, rows: &View<f32, 2>, to: usize) {
        dispatch(Prepare {
            x: self.x.row(from),
            norm: self.norm,
            out: rows.row(to),
            length: self.x.length(1),
            padded: rows.length(1),
        });
    }
}

/// One row of activations on its way into scratch.
struct Prepare {
    x: Numbers,
    norm: Option<Norm>,
    out: *mut f32,
    length: usize,
    padded: usize,
}

impl WithSimd for Prepare {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: `x` has `length` numbers, `out` has `padded`, which is not less.
        unsafe {
            self.x.copy(simd, self.out.into(), self.length);
            if let Some(norm) = self.norm {
                norm.apply(simd, self.out, self.out, self.length);
            }
            self.out.add(self.length).write_bytes(0, self.padded - self.length);
        }
    }
}

fn run(args: &KernelArgs<'_>) {
    let dtype = args.tensor(WEIGHT).dtype;
    #[cfg(target_arch = "x86_64")]
    match level() {
        Level::Amx if dtype == DType::BF16 => return Linear::of(args).run(tiles::run),
        Level::Avx512Bf16 if dtype == DType::BF16 => return Linear::of(args).run(pairs::run),
        _ => {}
    }
    with_stored!(dtype, E => Linear::<E>::of(args).run(run_stored));
}

/// Computes tokens `first` to `first + count`.
fn run_stored<E: Stored>(linear: &Linear<E>, first: usize, count: usize) {
    if count <= few::TOKENS {
        few::run(linear, first, count);
    } else {
        dot::run(linear, first, count);
    }
}

/// The bfloat16 numbers whose sum an activation is taken as where products are those of bfloat16: a
/// float32 number has high and low parts, a bfloat16 one (rounded again behind a norm) is one.
#[cfg(target_arch = "x86_64")]
fn terms(x: &FloatView<2>) -> usize {
    if x.dtype() == DType::BF16 { 1 } else { 2 }
}

/// `linear(x (T,K), weight (N,K) | (2N,K), bias, norm…, residual (T,N), out (T,N), activation, gated,
/// scale)`: `y = W · norm(x) + b`; gated: `act(y[:N]) · y[N:]`, else `act(y)`; `out = residual +
/// scale ·` that. Products are summed in float32. Where `x` is bfloat16, `norm(x)` may be rounded to
/// that, once.
pub(crate) const LINEAR: HostKernel = HostKernel {
    signature: &Signature {
        name: "linear",
        params: &[
            Param::input("x", ACTIVATIONS, 2),
            Param::input("weight", STORED, 2),
            Param::optional("bias", NUMBERS, 1),
            NORM_PARAMS[0],
            NORM_PARAMS[1],
            NORM_PARAMS[2],
            NORM_PARAMS[3],
            NORM_PARAMS[4],
            Param::optional("residual", ACTIVATIONS, 2),
            Param::output("out", ACTIVATIONS, 2),
            Param::int("activation"),
            Param::int("gated"),
            Param::float("scale"),
        ],
    },
    check,
    run,
};
