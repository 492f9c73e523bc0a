//! Linear layers with bfloat16 weights as dot products by AVX-512's bfloat16 instructions, which add the
//! products of a pair of numbers to each of 16 sums.
//!
//! Weights are read where they lie. A float32 activation is taken as two bfloat16 numbers, x = hi + lo
//! to 16 bits, as for AMX tiles. Each output has one vector of sums, whose lanes are added in a fixed
//! order at the end: it depends on its own row and token only.

// Loops over the rows and columns of a register block read best by index.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use half::bf16;

use super::super::pool::ThreadPool;
use super::super::scratch;
use super::super::simd::avx512::sum_four;
use super::super::simd::dispatch;
use super::super::view::View;
use super::Linear;
use super::tiles::{Finish, split};

/// Numbers of a vector.
const LANES: usize = 32;
/// Outputs of a chunk of many tokens.
const PANEL: usize = 32;
/// Tokens of a chunk, at most.
const TOKENS: usize = 96;
/// Tokens of a register block, at most.
const BLOCK_TOKENS: usize = 6;
/// Weight rows of a register block.
const BLOCK_ROWS: usize = 4;
/// What a thread reads at a time for few tokens: longer than it takes to hand it a chunk.
const CHUNK_BYTES: usize = 256 << 10;

/// Computes tokens `first` to `first + count`.
pub(super) fn run(linear: &Linear<bf16>, first: usize, count: usize) {
    let inputs = linear.x.length(1);
    let padded = inputs.next_multiple_of(LANES);
    // As many bytes as float32 numbers: the high parts of a token, then its low parts.
    let mut buffer = scratch::take(count * padded);
    let x = View::over(&mut buffer, count, padded);
    let pool = ThreadPool::global();
    pool.run_rows(count, inputs, |row| {
        let mut numbers = scratch::take(padded);
        let numbers = View::over(&mut numbers, 1, padded);
        linear.prepare(first + row, &numbers, 0);
        // SAFETY: this kernel runs only on CPUs that have the instructions; both have `padded` numbers.
        unsafe { split_row(numbers.row(0), x.row(row).cast(), padded) };
    });
    let outputs = linear.epilogue.outputs();
    let width = match count {
        ..=BLOCK_TOKENS => linear.outputs_to_read(CHUNK_BYTES, BLOCK_ROWS),
        _ => PANEL,
    };
    let panels = outputs.div_ceil(width);
    pool.run(panels * count.div_ceil(TOKENS), |chunk| {
        let (token, output) = (chunk / panels * TOKENS, chunk % panels * width);
        let chunk = Chunk {
            linear,
            x,
            first,
            token,
            tokens: TOKENS.min(count - token),
            output,
            outputs: width.min(outputs - output),
        };
        chunk.run();
    });
}

/// # Safety
/// `length` numbers, a multiple of [`LANES`], are readable at `x`, twice as many writable at `out`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn split_row(x: *const f32, out: *mut u16, length: usize) {
    for start in (0..length).step_by(LANES) {
        // SAFETY: the vector lies within each of the rows.
        unsafe {
            let (high, low) = split(x.add(start));
            _mm512_storeu_si512(out.add(start).cast(), high);
            _mm512_storeu_si512(out.add(length + start).cast(), low);
        }
    }
}

/// Some outputs of some tokens.
struct Chunk<'a> {
    linear: &'a Linear<bf16>,
    /// Split activations.
    x: View<f32, 2>,
    /// The token of the layer's input that is the first of `x`.
    first: usize,
    token: usize,
    tokens: usize,
    output: usize,
    outputs: usize,
}

impl Chunk<'_> {
    fn run(&self) {
        let parts = self.linear.epilogue.parts();
        let mut sums = scratch::take(parts * self.tokens * self.outputs);
        let sums = View::over(&mut sums, parts * self.tokens, self.outputs);
        for part in 0..parts {
            let mut token = 0;
            while token < self.tokens {
                let row = part * self.tokens + token;
                // SAFETY: this kernel runs only on CPUs that have the instructions; as many tokens as
                // each takes are left.
                token += unsafe {
                    match self.tokens - token {
                        BLOCK_TOKENS.. => self.block::<BLOCK_TOKENS>(part, token, &sums, row),
                        3.. => self.block::<3>(part, token, &sums, row),
                        _ => self.block::<1>(part, token, &sums, row),
                    }
                };
            }
        }
        dispatch(Finish {
            epilogue: &self.linear.epilogue,
            token: self.first + self.token,
            tokens: self.tokens,
            output: self.output,
            outputs: self.outputs,
            sums,
            rows: self.tokens,
        });
    }

    /// Writes the sums of `M` tokens with all weight rows of a part, to rows `row` and on; gives `M`.
    ///
    /// # Safety
    /// The CPU has the instructions; the tokens are in the chunk.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn block<const M: usize>(
        &self,
        part: usize,
        token: usize,
        sums: &View<f32, 2>,
        row: usize,
    ) -> usize {
        let weight = &self.linear.weight;
        let first = part * self.linear.epilogue.outputs() + self.output;
        let x: [*const u16; M] =
            std::array::from_fn(|m| self.x.row(self.token + token + m).cast_const().cast());
        let padded = self.x.length(1);
        let mut output = 0;
        while output < self.outputs {
            let wide = output + BLOCK_ROWS <= self.outputs;
            let w = weight.row(first + output).cast_const();
            // SAFETY: the rows of activations are two of `padded` numbers, those of weights have as many
            // as there are inputs; the sums have room for the outputs.
            unsafe {
                if wide {
                    let block =
                        dots::<M, BLOCK_ROWS>(x, padded, w, weight.row_stride(), weight.length(1));
                    for m in 0..M {
                        let target = sums.row(row + m).add(output);
                        target.copy_from_nonoverlapping(block[m].as_ptr(), BLOCK_ROWS);
                    }
                } else {
                    let block = dots::<M, 1>(x, padded, w, weight.row_stride(), weight.length(1));
                    for m in 0..M {
                        *sums.row(row + m).add(output) = block[m][0];
                    }
                }
            }
            output += if wide { BLOCK_ROWS } else { 1 };
        }
        M
    }
}

/// The dot products of `M` split tokens with `N` weight rows, over `length` numbers.
///
/// # Safety
/// At each of `x` are `padded` high and then as many low parts, zeros from `length` on; rows of `w` are
/// readable up to `length`, which is at most `padded`, a multiple of [`LANES`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn dots<const M: usize, const N: usize>(
    x: [*const u16; M],
    padded: usize,
    w: *const bf16,
    w_stride: usize,
    length: usize,
) -> [[f32; N]; M] {
    let mut sums = [[_mm512_setzero_ps(); N]; M];
    for start in (0..length).step_by(LANES) {
        let mut weights = [_mm512_setzero_si512(); N];
        for n in 0..N {
            // SAFETY: the caller's contract; what the mask leaves out isn't read.
            weights[n] = unsafe {
                let source: *const i16 = w.add(n * w_stride + start).cast();
                if start + LANES <= length {
                    _mm512_loadu_si512(source.cast())
                } else {
                    _mm512_maskz_loadu_epi16((1 << (length - start)) - 1, source)
                }
            };
        }
        for m in 0..M {
            // SAFETY: the caller's contract.
            let (high, low) = unsafe {
                let source = x[m].add(start);
                (_mm512_loadu_si512(source.cast()), _mm512_loadu_si512(source.add(padded).cast()))
            };
            for n in 0..N {
                sums[m][n] = add_products(sums[m][n], high, weights[n]);
            }
            for n in 0..N {
                sums[m][n] = add_products(sums[m][n], low, weights[n]);
            }
        }
    }
    let mut result = [[0.0; N]; M];
    for m in 0..M {
        let four = std::array::from_fn(|n| if n < N { sums[m][n] } else { _mm512_setzero_ps() });
        result[m].copy_from_slice(&sum_four(four)[..N]);
    }
    result
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn add_products(sums: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: all are 512 plain bits.
    let [a, b] = unsafe { std::mem::transmute::<[__m512i; 2], [__m512bh; 2]>([a, b]) };
    _mm512_dpbf16_ps(sums, a, b)
}
