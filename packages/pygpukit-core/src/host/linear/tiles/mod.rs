//! Linear layers with bfloat16 weights as products of AMX tiles.
//!
//! Weights are read where they lie, 16 rows by 32 inputs at a time. A float32 activation becomes two
//! columns of bfloat16, x = hi + lo to 16 bits, whose sums are added at the end, so that the result is
//! nearly that of float32 products; a bfloat16 activation is one column. Each column is summed over the inputs in one order, whatever
//! stands in the columns beside it.

mod few;
mod many;
mod pack;
mod rows;

use half::bf16;

use self::pack::Packed;
pub(super) use self::pack::{nearest, split};
use super::super::simd::{Simd, WithSimd};
use super::super::view::View;
use super::Linear;
use super::epilogue::Epilogue;

/// Computes tokens `first` to `first + count`.
pub(super) fn run(linear: &Linear<bf16>, first: usize, count: usize) {
    Packed::with(linear, first, count, |packed| {
        if packed.blocks() == 1 {
            few::run(linear, packed, first);
        } else {
            many::run(linear, packed, first, count);
        }
    });
}

/// A block of sums on its way to the results.
pub(super) struct Finish<'a> {
    pub(super) epilogue: &'a Epilogue,
    pub(super) token: usize,
    pub(super) tokens: usize,
    pub(super) output: usize,
    pub(super) outputs: usize,
    /// A row for each token, of the first (gate) rows; then, where gated, as many of the others.
    pub(super) sums: View<f32, 2>,
    /// Rows of each kind.
    pub(super) rows: usize,
}

impl WithSimd for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let other = if self.epilogue.gated { self.rows } else { 0 };
        for token in 0..self.tokens {
            let sums = [token, other + token].map(|row| self.sums.row(row).cast_const());
            // SAFETY: each row of sums has at least `outputs` numbers.
            unsafe {
                self.epilogue.finish(simd, self.token + token, self.output, self.outputs, sums);
            }
        }
    }
}
