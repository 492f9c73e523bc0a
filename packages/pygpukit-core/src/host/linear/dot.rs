//! Linear layers as dot products: both operands lie along the inputs, each output has one vector of
//! partial sums, whose lanes are added in a fixed order at the end.
//!
//! A block is a few tokens by a few weight rows. With more than one token, a panel of 16-bit weights
//! is first converted to float32 in scratch, so that the conversion is paid once for all tokens.

// Loops over the rows and columns of a register block read best by index.
#![allow(clippy::needless_range_loop)]

use super::super::pool::ThreadPool;
use super::super::scratch;
use super::super::simd::{MAX_LANES, Simd, Stored, WithSimd, dispatch};
use super::super::view::View;
use super::Linear;

/// Outputs of one chunk.
const PANEL: usize = 32;
/// Tokens of one chunk.
const TOKENS: usize = 96;
/// Tokens of a block, at most.
const BLOCK_TOKENS: usize = 6;
/// Weight rows of a block.
const BLOCK_ROWS: usize = 4;
/// Products that keep a thread busy for longer than it takes to hand it a chunk.
const PRODUCTS_PER_CHUNK: usize = 1 << 15;

/// Computes tokens `first` to `first + count`.
pub(super) fn run<E: Stored>(linear: &Linear<E>, first: usize, count: usize) {
    linear.with_normalised(first, count, MAX_LANES, |x| {
        let outputs = linear.epilogue.outputs();
        let products = PANEL * count.min(TOKENS) * linear.x.length(1).max(1);
        let panels_per_chunk = (PRODUCTS_PER_CHUNK / products).max(1);
        let panels = outputs.div_ceil(PANEL).div_ceil(panels_per_chunk);
        let token_blocks = count.div_ceil(TOKENS);
        ThreadPool::global().run(panels * token_blocks, |chunk| {
            let tokens = chunk / panels * TOKENS;
            let width = PANEL * panels_per_chunk;
            let from = chunk % panels * width;
            for output in (from..outputs.min(from + width)).step_by(PANEL) {
                dispatch(Panel {
                    linear,
                    x,
                    x_token: tokens,
                    out_token: first + tokens,
                    tokens: TOKENS.min(count - tokens),
                    output,
                    outputs: PANEL.min(outputs - output),
                });
            }
        });
    });
}

/// A panel of outputs of a range of tokens.
struct Panel<'a, E> {
    linear: &'a Linear<E>,
    /// Normalised activations, zero-padded.
    x: View<f32, 2>,
    x_token: usize,
    out_token: usize,
    tokens: usize,
    output: usize,
    outputs: usize,
}

/// Rows of weights, all of one type.
#[derive(Clone, Copy)]
struct Rows<E> {
    data: *const E,
    stride: usize,
}

impl<E: Stored> WithSimd for Panel<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let stored = |part| Rows {
            data: self.linear.weight.row(self.weight_row(part)).cast_const(),
            stride: self.linear.weight.row_stride(),
        };
        if self.tokens == 1 {
            return self.block::<S, E, 1>(simd, [stored(0), stored(1)], 0);
        }
        if E::IS_F32 {
            let rows =
                [0, 1].map(stored).map(|Rows { data, stride }| Rows { data: data.cast(), stride });
            return self.multiply(simd, rows);
        }
        let stride = self.x.length(1);
        let mut buffer = scratch::take(2 * PANEL * stride);
        let converted = View::over(&mut buffer, 2 * PANEL, stride);
        // SAFETY: scratch holds `stride` numbers for each row.
        unsafe { self.convert(simd, converted) };
        let rows = [0, PANEL].map(|row| Rows { data: converted.row(row).cast_const(), stride });
        self.multiply(simd, rows);
    }
}

impl<E: Stored> Panel<'_, E> {
    /// The first weight row of this panel: of the gate (or only) rows, or of the others.
    #[inline(always)]
    fn weight_row(&self, part: usize) -> usize {
        if self.linear.epilogue.gated {
            part * self.linear.epilogue.outputs() + self.output
        } else {
            self.output
        }
    }

    /// Writes this panel's weights to `target` as float32, the others' rows from row `PANEL` on.
    ///
    /// # Safety
    /// `target` has rows as long as those of `self.x`.
    #[inline(always)]
    unsafe fn convert<S: Simd>(&self, simd: S, target: View<f32, 2>) {
        let inputs = self.linear.x.length(1);
        for part in 0..self.linear.epilogue.parts() {
            for row in 0..self.outputs {
                let source = self.linear.weight.row(self.weight_row(part) + row);
                let target = target.row(part * PANEL + row);
                // SAFETY: the row has `inputs` numbers; target rows are whole vectors.
                unsafe { E::to_f32(simd, source, target, inputs) };
            }
        }
    }

    /// All outputs of the panel for all its tokens, as many at once as the registers hold.
    #[inline(always)]
    fn multiply<S: Simd>(&self, simd: S, rows: [Rows<f32>; 2]) {
        let mut token = 0;
        while token < self.tokens {
            token += match self.tokens - token {
                BLOCK_TOKENS.. if S::MANY_REGISTERS => {
                    self.block::<S, f32, BLOCK_TOKENS>(simd, rows, token);
                    BLOCK_TOKENS
                }
                3.. => {
                    self.block::<S, f32, 3>(simd, rows, token);
                    3
                }
                _ => {
                    self.block::<S, f32, 1>(simd, rows, token);
                    1
                }
            };
        }
    }

    /// All outputs of the panel for `M` tokens.
    #[inline(always)]
    fn block<S: Simd, W: Stored, const M: usize>(&self, simd: S, rows: [Rows<W>; 2], token: usize) {
        let inputs = self.linear.x.length(1);
        let mut sums = [[[0.0f32; PANEL]; M]; 2];
        let x = self.x.row(self.x_token + token);
        let x_stride = self.x.row_stride();
        for (part, rows) in rows.into_iter().enumerate().take(self.linear.epilogue.parts()) {
            // Rows far apart are the continuations of those of the block before: long streams.
            let step = self.outputs / BLOCK_ROWS;
            for row in 0..step {
                // SAFETY: M tokens from `token` on are in `x`, whose rows are whole vectors; the
                // weight rows are within the panel and have `inputs` elements.
                let block = unsafe {
                    let w = rows.data.add(row * rows.stride);
                    W::dots::<S, M, BLOCK_ROWS>(simd, x, x_stride, w, step * rows.stride, inputs)
                };
                for (sums, block) in sums[part].iter_mut().zip(block) {
                    for (n, value) in block.into_iter().enumerate() {
                        sums[row + n * step] = value;
                    }
                }
            }
            for row in step * BLOCK_ROWS..self.outputs {
                // SAFETY: as above.
                let block = unsafe {
                    let w = rows.data.add(row * rows.stride);
                    W::dots::<S, M, 1>(simd, x, x_stride, w, rows.stride, inputs)
                };
                for (sums, [value]) in sums[part].iter_mut().zip(block) {
                    sums[row] = value;
                }
            }
        }
        for m in 0..M {
            let token = self.out_token + token + m;
            let sums = [sums[0][m].as_ptr(), sums[1][m].as_ptr()];
            // SAFETY: there are PANEL sums in each array, at least `outputs`.
            unsafe {
                self.linear.epilogue.finish(simd, token, self.output, self.outputs, sums);
            }
        }
    }
}
