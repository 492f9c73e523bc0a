//! The most likely token, and the test that logits are sound.

use super::super::HostKernel;
use super::super::pool::ThreadPool;
use super::super::simd::{Simd, WithSimd, dispatch, for_each_vector};
use super::super::view::{View, check_layout, expect_shape};
use crate::dispatch::{Param, Signature};
use crate::dtype::DType;

/// The largest logit of a row, unless one is NaN or +∞ or all are -∞.
pub(super) struct Largest<'a>(pub(super) &'a [f32]);

impl WithSimd for Largest<'_> {
    type Output = Option<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Option<f32> {
        let (infinity, one) = (simd.splat(f32::INFINITY), simd.splat(1.0));
        let mut largest = simd.splat(f32::NEG_INFINITY);
        let mut unsound = simd.splat(0.0);
        for_each_vector!(S, self.0.len(), |start, count| {
            let value = if count == S::LANES {
                // SAFETY: the vector lies within the slice.
                unsafe { simd.load(self.0.as_ptr().add(start)) }
            } else {
                let mut lanes = [f32::NEG_INFINITY; super::super::simd::MAX_LANES];
                lanes[..count].copy_from_slice(&self.0[start..]);
                // SAFETY: `lanes` holds at least a vector.
                unsafe { simd.load(lanes.as_ptr()) }
            };
            largest = simd.max(value, largest);
            unsound = simd.select_less(value, infinity, unsound, one);
        });
        let largest = simd.largest(largest);
        let sound = simd.largest(unsound) == 0.0 && largest > f32::NEG_INFINITY;
        sound.then_some(largest)
    }
}

/// The index of the largest logit, the first of equals; `None` for unsound rows.
pub(super) fn argmax(logits: &[f32]) -> Option<usize> {
    let largest = dispatch(Largest(logits))?;
    logits.iter().position(|&logit| logit == largest)
}

/// `argmax(logits (S,V), out (S,) int32)`: the index of each row's largest logit, the first of
/// equals; -1 where a logit is NaN or +∞ or all are -∞.
pub(crate) const ARGMAX: HostKernel = HostKernel {
    signature: &Signature {
        name: "argmax",
        params: &[Param::input("logits", &[DType::F32], 2), Param::output("out", &[DType::I32], 1)],
    },
    check: |args| {
        check_layout(args)?;
        expect_shape(args, 1, &args.tensor(0).shape[..1])
    },
    run: |args| {
        let logits = View::<f32, 2>::of(args.tensor(0));
        let out = View::<i32, 1>::of(args.tensor(1));
        ThreadPool::global().run(logits.length(0), |row| {
            // SAFETY: nobody writes to the logits meanwhile.
            let best = argmax(unsafe { logits.slice(row) });
            out.set([row], best.map_or(-1, |index| index as i32));
        });
    },
};
