//! RMS and layer normalisation: on their own, and in front of a linear layer or an attention head.

use super::HostKernel;
use super::pool::ThreadPool;
use super::scratch;
use super::simd::{
    ACTIVATIONS, Floats, NUMBERS, Numbers, Simd, WithSimd, dispatch, for_each_vector,
};
use super::view::{FloatView, check_layout, expect_shape};
use crate::dispatch::{KernelArgs, LaunchError, Param, Signature};

/// What is divided by before weight and bias are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NormKind {
    /// The root of the mean square (Zhang & Sennrich 2019, arXiv:1910.07467).
    Rms,
    /// The standard deviation, after the mean is taken off (Ba et al. 2016, arXiv:1607.06450).
    Layer,
}

/// A normalisation of rows: `(x - mean) / deviation · (weight + offset) + bias`.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    pub(super) kind: NormKind,
    pub(super) weight: Option<Floats>,
    pub(super) bias: Option<Floats>,
    pub(super) eps: f64,
    pub(super) offset: f32,
}

impl Norm {
    /// The parameters that [`Norm::of`] reads, with the names of weight and bias given.
    pub(super) const fn params(names: [&'static str; 5]) -> [Param; 5] {
        let [kind, weight, bias, eps, offset] = names;
        [
            Param::int(kind),
            Param::optional(weight, NUMBERS, 1),
            Param::optional(bias, NUMBERS, 1),
            Param::float(eps),
            Param::float(offset),
        ]
    }

    /// The normalisation that the five arguments from `first` on stand for (kind: 0 none, 1 RMS,
    /// 2 layer), of rows of `length` numbers.
    pub(super) fn of(
        args: &KernelArgs<'_>,
        first: usize,
        length: usize,
    ) -> Result<Option<Norm>, LaunchError> {
        let kind = match args.int(first) {
            0 => return Ok(None),
            1 => NormKind::Rms,
            2 => NormKind::Layer,
            other => {
                let reason = format!("expected 0 (none), 1 (RMS) or 2 (layer), found {other}");
                return Err(args.refuse(first, reason));
            }
        };
        expect_shape(args, first + 1, &[length])?;
        expect_shape(args, first + 2, &[length])?;
        Ok(Some(Norm {
            kind,
            weight: args.optional(first + 1).map(Floats::of),
            bias: args.optional(first + 2).map(Floats::of),
            eps: args.float(first + 3),
            offset: args.float(first + 4) as f32,
        }))
    }

    /// Normalises the row of `length` numbers at `x` into `out`, which may be the same row.
    ///
    /// # Safety
    /// Both rows have `length` numbers; `out` is writable.
    #[inline(always)]
    pub(super) unsafe fn apply<S: Simd>(
        &self,
        simd: S,
        x: *const f32,
        out: *mut f32,
        length: usize,
    ) {
        let mean = match self.kind {
            NormKind::Rms => 0.0,
            // SAFETY: the caller's contract.
            NormKind::Layer => unsafe { mean(simd, x, length) },
        };
        // SAFETY: as above.
        let variance = unsafe { mean_square(simd, x, length, mean) };
        let center = simd.splat(mean);
        let factor = simd.splat((1.0 / (variance + self.eps).sqrt()) as f32);
        let offset = simd.splat(self.offset);
        for_each_vector!(S, length, |start, count| {
            // SAFETY: the vector lies within both rows.
            unsafe {
                let centered = simd.sub(simd.load_some(x.add(start), count), center);
                let mut y = simd.mul(centered, factor);
                if let Some(weight) = self.weight {
                    y = simd.mul(y, simd.add(weight.load(simd, start, count), offset));
                }
                if let Some(bias) = self.bias {
                    y = simd.add(y, bias.load(simd, start, count));
                }
                simd.store_some(out.add(start), y, count);
            }
        });
    }
}

/// # Safety
/// `length` numbers are readable at `x`.
#[inline(always)]
unsafe fn mean<S: Simd>(simd: S, x: *const f32, length: usize) -> f32 {
    let mut sum = simd.splat(0.0);
    for_each_vector!(S, length, |start, count| {
        // SAFETY: the vector lies within the row.
        sum = simd.add(sum, unsafe { simd.load_some(x.add(start), count) });
    });
    simd.sum(sum) / length as f32
}

/// The mean of (x - center)²: in two passes the variance can't cancel.
///
/// # Safety
/// `length` numbers are readable at `x`.
#[inline(always)]
unsafe fn mean_square<S: Simd>(simd: S, x: *const f32, length: usize, center: f32) -> f64 {
    let mut sums = [simd.splat(0.0); 2];
    for_each_vector!(S, length, |start, count| {
        // Lanes past the end hold the center, so that they add nothing.
        // SAFETY: the vector lies within the row.
        let value = unsafe { simd.load_some(x.add(start), count) };
        let deviation = simd.sub(value, simd.splat(center));
        let square = simd.mul(deviation, deviation);
        if count == S::LANES {
            sums.swap(0, 1);
            sums[0] = simd.add(sums[0], square);
        } else {
            let mut lanes = [0.0; super::simd::MAX_LANES];
            // SAFETY: `lanes` holds at least a vector.
            sums[1] = unsafe {
                simd.store_partial(lanes.as_mut_ptr(), square, count);
                simd.add(sums[1], simd.load(lanes.as_ptr()))
            };
        }
    });
    f64::from(simd.sum(simd.add(sums[0], sums[1]))) / length as f64
}

struct NormRow {
    norm: Norm,
    x: Numbers,
    residual: Option<Numbers>,
    sum: Option<Numbers>,
    out: Numbers,
    columns: usize,
}

impl WithSimd for NormRow {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut buffer = scratch::take(self.columns);
        let row = self.out.as_f32().unwrap_or(buffer.as_mut_ptr());
        for_each_vector!(S, self.columns, |start, count| {
            // SAFETY: the vector lies within the rows.
            unsafe {
                let mut h = self.x.load(simd, start, count);
                if let Some(residual) = self.residual {
                    h = simd.add(h, residual.load(simd, start, count));
                }
                if let Some(sum) = self.sum {
                    sum.store(simd, start, h, count);
                }
                simd.store_some(row.add(start), h, count);
            }
        });
        // SAFETY: the rows have `columns` numbers, by the kernel's check.
        unsafe {
            self.norm.apply(simd, row, row, self.columns);
            if self.out.as_f32().is_none() {
                Numbers::from(row).copy(simd, self.out, self.columns);
            }
        }
    }
}

const X: usize = 0;
const RESIDUAL: usize = 1;
const WEIGHT: usize = 2;
const BIAS: usize = 3;
const SUM: usize = 4;
const OUT: usize = 5;
const EPS: usize = 6;
const OFFSET: usize = 7;

const PARAMS: &[Param] = &[
    Param::input("x", ACTIVATIONS, 2),
    Param::optional("residual", ACTIVATIONS, 2),
    Param::optional("weight", NUMBERS, 1),
    Param::optional("bias", NUMBERS, 1),
    Param::tensor("sum", crate::dispatch::Access::Out, ACTIVATIONS, 2, true),
    Param::output("out", ACTIVATIONS, 2),
    Param::float("eps"),
    Param::float("offset"),
];

fn check(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    check_layout(args)?;
    let shape = &args.tensor(X).shape;
    for index in [RESIDUAL, SUM, OUT] {
        expect_shape(args, index, shape)?;
    }
    for index in [WEIGHT, BIAS] {
        expect_shape(args, index, &shape[1..])?;
    }
    match (args.optional(RESIDUAL), args.optional(SUM)) {
        (None, Some(_)) => Err(args.refuse(SUM, "expected None where there is no residual")),
        _ => Ok(()),
    }
}

fn run(args: &KernelArgs<'_>, kind: NormKind) {
    let norm = Norm {
        kind,
        weight: args.optional(WEIGHT).map(Floats::of),
        bias: args.optional(BIAS).map(Floats::of),
        eps: args.float(EPS),
        offset: args.float(OFFSET) as f32,
    };
    let view = FloatView::<2>::of;
    let (x, out) = (view(args.tensor(X)), view(args.tensor(OUT)));
    let residual = args.optional(RESIDUAL).map(view);
    let sum = args.optional(SUM).map(view);
    ThreadPool::global().run_rows(x.length(0), x.length(1), |row| {
        dispatch(NormRow {
            norm,
            x: x.row(row),
            residual: residual.map(|residual| residual.row(row)),
            sum: sum.map(|sum| sum.row(row)),
            out: out.row(row),
            columns: x.length(1),
        });
    });
}

/// `rms_norm(x (T,K), residual, weight (K,), bias (K,), sum, out, eps, offset)`:
/// `h = x + residual; sum = h; out = h / sqrt(mean(h²) + eps) · (weight + offset) + bias`.
pub(crate) const RMS_NORM: HostKernel = HostKernel {
    signature: &Signature { name: "rms_norm", params: PARAMS },
    check,
    run: |args| run(args, NormKind::Rms),
};

/// `layer_norm(…)`, as `rms_norm` with the mean taken off first.
pub(crate) const LAYER_NORM: HostKernel = HostKernel {
    signature: &Signature { name: "layer_norm", params: PARAMS },
    check,
    run: |args| run(args, NormKind::Layer),
};
