//! Activation functions, and the kernel that applies one to a tensor.

use super::HostKernel;
use super::pool::ThreadPool;
use super::simd::{ACTIVATIONS, Numbers, Simd, WithSimd, dispatch, for_each_vector, math};
use super::view::{FloatView, check_layout, expect_shape};
use crate::dispatch::{KernelArgs, LaunchError, Param, Signature};

/// An activation function, numbered as launches name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Activation {
    /// `x`
    Identity = 0,
    /// `x · sigmoid(x)`
    Silu = 1,
    /// `x · Φ(x)` by the error function
    Gelu = 2,
    /// GELU with the hyperbolic tangent in place of the error function
    GeluTanh = 3,
    /// `x · sigmoid(1.702 x)`
    GeluQuick = 4,
    /// `max(x, 0)`
    Relu = 5,
    /// `max(x, 0)²`
    ReluSquared = 6,
    /// `tanh(x)`
    Tanh = 7,
    /// `1 / (1 + e^-x)`
    Sigmoid = 8,
}

impl Activation {
    pub(super) const ALL: [Activation; 9] = [
        Activation::Identity,
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::GeluQuick,
        Activation::Relu,
        Activation::ReluSquared,
        Activation::Tanh,
        Activation::Sigmoid,
    ];

    /// The function numbered by the argument at `index`.
    pub(super) fn of(args: &KernelArgs<'_>, index: usize) -> Result<Activation, LaunchError> {
        let number = args.int(index);
        Activation::ALL.into_iter().find(|&activation| activation as i64 == number).ok_or_else(
            || args.refuse(index, format!("expected an activation from 0 to 8, found {number}")),
        )
    }

    /// The function of each lane.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(self, simd: S, x: S::Vector) -> S::Vector {
        let zero = simd.splat(0.0);
        match self {
            Activation::Identity => x,
            Activation::Silu => simd.mul(x, math::sigmoid(simd, x)),
            Activation::Gelu => {
                // x · Φ(x) = max(x, 0) - |x| · Φ(-|x|), which cancels on neither side of 0. The tail
                // is nothing long before 20, and so an infinite x isn't multiplied by 0.
                let far = simd.splat(20.0);
                let size = simd.max(x, simd.sub(zero, x));
                let size = simd.select_less(far, size, far, size);
                let tail = simd.mul(size, math::normal_tail(simd, size));
                simd.sub(simd.select_less(x, zero, zero, x), tail)
            }
            Activation::GeluTanh => {
                // x/2 · (1 + tanh u) = x · sigmoid(2u), without the cancellation of 1 + tanh.
                const SCALE: f32 = 2.0 * 0.797_884_6;
                let cubic = simd.mul(simd.mul(x, x), simd.splat(0.044_715));
                let u = simd.mul(simd.mul(x, simd.splat(SCALE)), simd.add(cubic, simd.splat(1.0)));
                simd.mul(x, math::sigmoid(simd, u))
            }
            Activation::GeluQuick => {
                simd.mul(x, math::sigmoid(simd, simd.mul(x, simd.splat(1.702))))
            }
            Activation::Relu => simd.select_less(x, zero, zero, x),
            Activation::ReluSquared => {
                let positive = simd.select_less(x, zero, zero, x);
                simd.mul(positive, positive)
            }
            Activation::Tanh => math::tanh(simd, x),
            Activation::Sigmoid => math::sigmoid(simd, x),
        }
    }
}

/// `g · sigmoid(alpha g) · (u + 1)`, with the gate `g` at most `limit` and `u` within `±limit`: the gated
/// activation of gpt-oss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ClampedSwiglu {
    pub(super) alpha: f32,
    pub(super) limit: f32,
}

impl ClampedSwiglu {
    /// The activation whose numbers are the arguments at `index` and behind it; None where the limit
    /// is 0.
    pub(super) fn of(
        args: &KernelArgs<'_>,
        index: usize,
    ) -> Result<Option<ClampedSwiglu>, LaunchError> {
        let [alpha, limit] = [index, index + 1].map(|index| args.float(index) as f32);
        if !alpha.is_finite() {
            return Err(args.refuse(index, format!("expected a finite number, found {alpha}")));
        }
        if !(limit >= 0.0 && limit.is_finite()) {
            let reason = format!("expected 0 (off) or a positive number, found {limit}");
            return Err(args.refuse(index + 1, reason));
        }
        Ok((limit > 0.0).then_some(ClampedSwiglu { alpha, limit }))
    }

    /// The function of each lane.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(self, simd: S, gate: S::Vector, other: S::Vector) -> S::Vector {
        let (high, low) = (simd.splat(self.limit), simd.splat(-self.limit));
        // Comparisons written so that NaN passes through.
        let gate = simd.select_less(high, gate, high, gate);
        let other = simd.select_less(high, other, high, other);
        let other = simd.select_less(other, low, low, other);
        let share = math::sigmoid(simd, simd.mul(gate, simd.splat(self.alpha)));
        simd.mul(simd.mul(gate, share), simd.add(other, simd.splat(1.0)))
    }
}

/// A function of one number for each element of a matrix, row by row.
#[derive(Clone, Copy)]
enum Function {
    Activation(Activation),
    /// `cap · tanh(x / cap)`
    SoftCap(f32),
}

struct MapRow {
    function: Function,
    x: Numbers,
    out: Numbers,
    columns: usize,
}

impl WithSimd for MapRow {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for_each_vector!(S, self.columns, |start, count| {
            // SAFETY: the vector lies within both rows.
            unsafe {
                let x = self.x.load(simd, start, count);
                let y = match self.function {
                    Function::Activation(activation) => activation.apply(simd, x),
                    Function::SoftCap(cap) => soft_capped(simd, x, cap),
                };
                self.out.store(simd, start, y, count);
            }
        });
    }
}

/// `cap · tanh(x / cap)`.
#[inline(always)]
pub(super) fn soft_capped<S: Simd>(simd: S, x: S::Vector, cap: f32) -> S::Vector {
    let ratio = simd.div(x, simd.splat(cap));
    simd.mul(math::tanh(simd, ratio), simd.splat(cap))
}

fn map(args: &KernelArgs<'_>, function: Function) {
    let [x, out] = [X, OUT].map(|index| FloatView::<2>::of(args.tensor(index)));
    ThreadPool::global().run_rows(x.length(0), x.length(1), |row| {
        dispatch(MapRow { function, x: x.row(row), out: out.row(row), columns: x.length(1) });
    });
}

const X: usize = 0;
const OUT: usize = 1;
const PARAMETER: usize = 2;

/// `activation(x (T,K), out (T,K), activation)`: the function numbered `activation` of each element.
pub(crate) const ACTIVATION: HostKernel = HostKernel {
    signature: &Signature {
        name: "activation",
        params: &[
            Param::input("x", ACTIVATIONS, 2),
            Param::output("out", ACTIVATIONS, 2),
            Param::int("activation"),
        ],
    },
    check: |args| {
        check_layout(args)?;
        expect_shape(args, OUT, &args.tensor(X).shape)?;
        Activation::of(args, PARAMETER).map(drop)
    },
    run: |args| {
        let activation = Activation::of(args, PARAMETER).expect("checked before");
        map(args, Function::Activation(activation));
    },
};

/// `soft_cap(x (T,K), out (T,K), cap)`: `cap · tanh(x / cap)` of each element.
pub(crate) const SOFT_CAP: HostKernel = HostKernel {
    signature: &Signature {
        name: "soft_cap",
        params: &[
            Param::input("x", ACTIVATIONS, 2),
            Param::output("out", ACTIVATIONS, 2),
            Param::float("cap"),
        ],
    },
    check: |args| {
        check_layout(args)?;
        expect_shape(args, OUT, &args.tensor(X).shape)?;
        let cap = args.float(PARAMETER);
        if cap.is_finite() && cap > 0.0 {
            return Ok(());
        }
        Err(args.refuse(PARAMETER, format!("expected a positive number, found {cap}")))
    },
    run: |args| map(args, Function::SoftCap(args.float(PARAMETER) as f32)),
};
