//! The linear layer of a mixture of experts: each row goes through the weights of an expert of its
//! own. The rows of one expert are brought together and go through [`Linear`] at once, so that a
//! weight is read once for all of them; what a row gives doesn't depend on the others.

use super::super::HostKernel;
use super::super::activation::{Activation, ClampedSwiglu};
use super::super::scratch;
use super::super::simd::{ACTIVATIONS, Floats, STORED, Stored, with_stored};
#[cfg(target_arch = "x86_64")]
use super::super::simd::{Level, level};
use super::super::view::{FloatView, View, check_layout, expect_shape};
#[cfg(target_arch = "x86_64")]
use super::tiles;
use super::{Epilogue, Linear, run_stored};
use crate::dispatch::{KernelArgs, LaunchError, Param, Signature};
use crate::dtype::DType;

const X: usize = 0;
const WEIGHT: usize = 1;
const BIAS: usize = 2;
const EXPERTS: usize = 3;
const OUT: usize = 4;
const ACTIVATION: usize = 5;
const GATED: usize = 6;
const ALPHA: usize = 7;

/// Rows of an expert that are brought together at a time.
const SLAB: usize = 512;

fn check(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    check_layout(args)?;
    let (x, weight) = (&args.tensor(X).shape, &args.tensor(WEIGHT).shape);
    let &[tokens, choices] = args.tensor(EXPERTS).shape.as_slice() else {
        unreachable!("the signature's rank");
    };
    let rows_per_output = if args.int(GATED) != 0 { 2 } else { 1 };
    expect_shape(args, WEIGHT, &[weight[0], weight[1], x[1]])?;
    if weight[1] % rows_per_output != 0 {
        let reason = format!("expected gate rows and as many others, found {}", weight[1]);
        return Err(args.refuse(WEIGHT, reason));
    }
    if args.optional(BIAS).is_some() {
        expect_shape(args, BIAS, &weight[..2])?;
    }
    if x[0] != tokens && x[0] != tokens * choices {
        let reason = format!("expected {tokens} or {} rows, found {}", tokens * choices, x[0]);
        return Err(args.refuse(X, reason));
    }
    expect_shape(args, OUT, &[tokens * choices, weight[1] / rows_per_output])?;
    Activation::of(args, ACTIVATION)?;
    if ClampedSwiglu::of(args, ALPHA)?.is_some() && args.int(GATED) == 0 {
        let reason = "expected 0, no limit, where nothing is gated, found one".to_owned();
        return Err(args.refuse(ALPHA + 1, reason));
    }
    Ok(())
}

/// One launch.
struct Experts<E> {
    x: FloatView<2>,
    weight: View<E, 3>,
    bias: Option<View<f32, 2>>,
    out: FloatView<2>,
    /// Rows of `out` for each row of `x`.
    rows_per_input: usize,
    activation: Activation,
    gated: bool,
    clamped: Option<ClampedSwiglu>,
}

impl<E: Stored> Experts<E> {
    fn of(args: &KernelArgs<'_>) -> Experts<E> {
        let [x, out] = [X, OUT].map(|index| FloatView::<2>::of(args.tensor(index)));
        Experts {
            x,
            weight: View::of(args.tensor(WEIGHT)),
            bias: args.optional(BIAS).map(View::of),
            out,
            rows_per_input: out.length(0) / x.length(0).max(1),
            activation: Activation::of(args, ACTIVATION).expect("checked before"),
            gated: args.int(GATED) != 0,
            clamped: ClampedSwiglu::of(args, ALPHA).expect("checked before"),
        }
    }

    /// The layer of `expert` from `x` to `out`.
    fn layer(&self, expert: usize, x: FloatView<2>, out: FloatView<2>) -> Linear<E> {
        Linear {
            x,
            weight: self.weight.matrix(expert),
            norm: None,
            epilogue: Epilogue {
                bias: self.bias.map(|bias| {
                    // SAFETY: the row lies in the tensor, which outlives the launch.
                    unsafe { Floats::at(bias.row(expert), bias.length(1)) }
                }),
                activation: self.activation,
                gated: self.gated,
                clamped: self.clamped,
                residual: None,
                scale: 1.0,
                out,
            },
        }
    }

    /// Computes `rows` of the result, which are `expert`'s.
    fn run(&self, expert: usize, rows: &[usize], compute: &impl Fn(Linear<E>)) {
        if let &[row] = rows {
            let x = self.x.rows(row / self.rows_per_input, 1);
            return compute(self.layer(expert, x, self.out.rows(row, 1)));
        }
        let (inputs, outputs) = (self.x.length(1), self.out.length(1));
        let mut gathered = scratch::take(rows.len() * inputs);
        let mut results = scratch::take(rows.len() * outputs);
        let x = FloatView::over(&mut gathered, rows.len(), inputs, self.x.dtype());
        let out = FloatView::over(&mut results, rows.len(), outputs, self.out.dtype());
        for (to, row) in rows.iter().enumerate() {
            self.x.copy_row(row / self.rows_per_input, &x, to);
        }
        compute(self.layer(expert, x, out));
        for (from, &row) in rows.iter().enumerate() {
            out.copy_row(from, &self.out, row);
        }
    }
}

fn run_experts<E: Stored>(args: &KernelArgs<'_>, compute: impl Fn(Linear<E>)) {
    let experts = View::<i32, 2>::of(args.tensor(EXPERTS));
    let layer = Experts::<E>::of(args);
    let choices = experts.length(1);
    let mut rows_of = vec![Vec::new(); layer.weight.length(0)];
    for row in 0..layer.out.length(0) {
        let expert = experts.get([row / choices, row % choices]);
        match usize::try_from(expert).ok().and_then(|expert| rows_of.get_mut(expert)) {
            Some(rows) => rows.push(row),
            None => layer.out.fill_nan(row),
        }
    }
    for (expert, rows) in rows_of.iter().enumerate() {
        for rows in rows.chunks(SLAB) {
            layer.run(expert, rows, &compute);
        }
    }
}

fn run(args: &KernelArgs<'_>) {
    let dtype = args.tensor(WEIGHT).dtype;
    #[cfg(target_arch = "x86_64")]
    if dtype == DType::BF16 && level() == Level::Amx {
        return run_experts(args, |linear| linear.run(tiles::run));
    }
    with_stored!(dtype, E => run_experts::<E>(args, |linear| linear.run(run_stored)));
}

/// `expert_linear(x (T,K) or (T·C,K), weight (E,N,K) | (E,2N,K), bias (E,N) | (E,2N), experts (T,C),
/// out (T·C,N), activation, gated, alpha, limit)`: row `t·C + c` of the result is `act(W · x + bias)`
/// with weight and bias of expert `experts[t, c]` and row `t` or `t·C + c` of `x`; gated:
/// `act(y[:N]) · y[N:]`, or where there is a limit [`ClampedSwiglu`] in place of the activation; NaN
/// where there is no such expert.
pub(crate) const EXPERT_LINEAR: HostKernel = HostKernel {
    signature: &Signature {
        name: "expert_linear",
        params: &[
            Param::input("x", ACTIVATIONS, 2),
            Param::input("weight", STORED, 3),
            Param::optional("bias", &[DType::F32], 2),
            Param::input("experts", &[DType::I32], 2),
            Param::output("out", ACTIVATIONS, 2),
            Param::int("activation"),
            Param::int("gated"),
            Param::float("alpha"),
            Param::float("limit"),
        ],
    },
    check,
    run,
};
