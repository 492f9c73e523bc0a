//! A few tokens, as in decoding: as fast as the weights can be read, where they lie.

use super::super::pool::ThreadPool;
use super::super::scratch;
use super::super::simd::{MAX_LANES, Simd, Stored, WithSimd, dispatch};
use super::super::view::View;
use super::Linear;

/// Tokens that a weight is multiplied with while it is in registers, at most.
pub(super) const TOKENS: usize = 3;
/// Weight rows of a register block.
const BLOCK_ROWS: usize = 4;
/// What a thread reads at a time, if there is enough: longer than it takes to hand it a chunk.
const CHUNK_BYTES: usize = 128 << 10;

/// Computes tokens `first` to `first + count`, at most [`TOKENS`], with the sums of [`super::dot`].
pub(super) fn run<W: Stored>(linear: &Linear<W>, first: usize, count: usize) {
    linear.with_normalised(first, count, MAX_LANES, |x| {
        let outputs = linear.epilogue.outputs();
        let width = linear.outputs_to_read(CHUNK_BYTES, BLOCK_ROWS);
        ThreadPool::global().run(outputs.div_ceil(width), |chunk| {
            let output = chunk * width;
            let outputs = width.min(outputs - output);
            dispatch(Chunk { linear, x, first, output, outputs });
        });
    });
}

/// Some outputs of all tokens.
struct Chunk<'a, W> {
    linear: &'a Linear<W>,
    /// Normalised activations, zero-padded.
    x: View<f32, 2>,
    /// The token that is the first of `x`.
    first: usize,
    output: usize,
    outputs: usize,
}

impl<W: Stored> WithSimd for Chunk<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let epilogue = &self.linear.epilogue;
        let tokens = self.x.length(0);
        let mut sums = scratch::take(epilogue.parts() * tokens * self.outputs);
        let sums = View::over(&mut sums, epilogue.parts() * tokens, self.outputs);
        for part in 0..epilogue.parts() {
            let row = part * epilogue.outputs() + self.output;
            let sums = sums.rows(part * tokens, tokens);
            match tokens {
                1 => self.multiply::<S, 1>(simd, row, &sums),
                2 => self.multiply::<S, 2>(simd, row, &sums),
                TOKENS => self.multiply::<S, TOKENS>(simd, row, &sums),
                _ => unreachable!("{tokens} tokens are none or more than a few"),
            }
        }
        let other = if epilogue.gated { tokens } else { 0 };
        for token in 0..tokens {
            let sums = [token, other + token].map(|row| sums.row(row).cast_const());
            // SAFETY: each row of sums has a number for each output.
            unsafe {
                epilogue.finish(simd, self.first + token, self.output, self.outputs, sums);
            }
        }
    }
}

impl<W: Stored> Chunk<'_, W> {
    /// Writes the sums of `M` tokens with as many weight rows from `row` on as there are outputs.
    ///
    /// The rows of a register block are far apart, so that each is the continuation of one of the
    /// block before: a few long streams, which the CPU's prefetchers follow, where rows beside one
    /// another would begin new ones with every block.
    #[inline(always)]
    fn multiply<S: Simd, const M: usize>(&self, simd: S, row: usize, sums: &View<f32, 2>) {
        let apart = self.outputs / BLOCK_ROWS;
        for output in 0..apart {
            self.block::<S, M, BLOCK_ROWS>(simd, row, output, apart, sums);
        }
        for output in apart * BLOCK_ROWS..self.outputs {
            self.block::<S, M, 1>(simd, row, output, 1, sums);
        }
    }

    /// The sums of `M` tokens with `N` weight rows, every `apart`th from that of `output` on.
    #[inline(always)]
    fn block<S: Simd, const M: usize, const N: usize>(
        &self,
        simd: S,
        row: usize,
        output: usize,
        apart: usize,
        sums: &View<f32, 2>,
    ) {
        let (weight, x) = (&self.linear.weight, &self.x);
        let last = row + output + (N - 1) * apart;
        assert!(last < weight.length(0) && output + (N - 1) * apart < self.outputs);
        let w = weight.row(row + output).cast_const();
        let (stride, inputs) = (apart * weight.row_stride(), self.linear.x.length(1));
        // SAFETY: the rows are in the weight and have `inputs` numbers; those of `x` are whole
        // vectors; the sums have a number for each output.
        unsafe {
            let block = W::dots::<S, M, N>(simd, x.row(0), x.row_stride(), w, stride, inputs);
            for (m, block) in block.into_iter().enumerate() {
                for (n, sum) in block.into_iter().enumerate() {
                    *sums.row(m).add(output + n * apart) = sum;
                }
            }
        }
    }
}
