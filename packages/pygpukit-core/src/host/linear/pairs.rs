//! Linear layers with bfloat16 weights as dot products by AVX-512's bfloat16 instructions, which add the
//! products of a pair of numbers to each of 16 sums.
//!
//! Weights are read where they lie. A float32 activation is taken as two bfloat16 numbers, x = hi + lo
//! to 16 bits, a bfloat16 one as itself, as for AMX tiles. Each output has one vector of sums, whose lanes are added in a fixed
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
use super::terms;
use super::tiles::{Finish, nearest, split};

/// Numbers of a vector.
const LANES: usize = 32;
/// Outputs of a chunk of many tokens.
const PANEL: usize = 32;
/// Tokens of a group, at most: their sums stay in the level 1 cache.
const TOKENS: usize = 96;
/// Chunks for each thread, at least, if there are enough tokens.
const CHUNKS_PER_THREAD: usize = 8;
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
    let terms = terms(&linear.x);
    // Half as many bytes for each term as float32 numbers take.
    let mut buffer = scratch::take(count * padded / 2 * terms);
    let x = View::over(&mut buffer, count, padded / 2 * terms);
    let pool = ThreadPool::global();
    pool.run_rows(count, inputs, |row| {
        let mut numbers = scratch::take(padded);
        let numbers = View::over(&mut numbers, 1, padded);
        linear.prepare(first + row, &numbers, 0);
        // SAFETY: this kernel runs only on CPUs that have the instructions; both have room for
        // `padded` numbers, `x` for each term of them.
        unsafe { write_terms(numbers.row(0), x.row(row).cast(), padded, terms) };
    });
    let outputs = linear.epilogue.outputs();
    let width = match count {
        ..=BLOCK_TOKENS => linear.outputs_to_read(CHUNK_BYTES, BLOCK_ROWS),
        _ => PANEL,
    };
    let panels = outputs.div_ceil(width);
    // All tokens go through a panel while it is in the caches, unless more threads need work.
    let groups = count.div_ceil(TOKENS);
    let splits = (CHUNKS_PER_THREAD * pool.threads()).div_ceil(panels.max(1)).clamp(1, groups);
    let tokens_per_chunk = groups.div_ceil(splits) * TOKENS;
    pool.run(panels * count.div_ceil(tokens_per_chunk), |chunk| {
        let (start, output) = (chunk / panels * tokens_per_chunk, chunk % panels * width);
        for token in (start..count.min(start + tokens_per_chunk)).step_by(TOKENS) {
            let group = Group {
                linear,
                x,
                terms,
                first,
                token,
                tokens: TOKENS.min(count - token),
                output,
                outputs: width.min(outputs - output),
            };
            group.run();
        }
    });
}

/// Writes the first terms of all numbers to `out`, then, where there are two, the second ones.
///
/// # Safety
/// `length` numbers, a multiple of [`LANES`], are readable at `x`, `terms` times as many writable at
/// `out`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn write_terms(x: *const f32, out: *mut u16, length: usize, terms: usize) {
    for start in (0..length).step_by(LANES) {
        // SAFETY: the vector lies within each of the rows.
        unsafe {
            if terms == 1 {
                _mm512_storeu_si512(out.add(start).cast(), nearest(x.add(start)));
                continue;
            }
            let (high, low) = split(x.add(start));
            _mm512_storeu_si512(out.add(start).cast(), high);
            _mm512_storeu_si512(out.add(length + start).cast(), low);
        }
    }
}

/// Some outputs of a group of tokens.
struct Group<'a> {
    linear: &'a Linear<bf16>,
    /// The terms of activations.
    x: View<f32, 2>,
    terms: usize,
    /// The token of the layer's input that is the first of `x`.
    first: usize,
    token: usize,
    tokens: usize,
    output: usize,
    outputs: usize,
}

impl Group<'_> {
    fn run(&self) {
        match self.terms {
            1 => self.compute::<1>(),
            _ => self.compute::<2>(),
        }
    }

    /// Computes the group with activations of `T` terms.
    fn compute<const T: usize>(&self) {
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
                        BLOCK_TOKENS.. => self.block::<T, BLOCK_TOKENS>(part, token, &sums, row),
                        3.. => self.block::<T, 3>(part, token, &sums, row),
                        _ => self.block::<T, 1>(part, token, &sums, row),
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
    /// Where there are few tokens, the rows of a register block are far apart, so that each is the
    /// continuation of one of the block before: a few long streams, which the CPU's prefetchers follow,
    /// where rows beside one another would begin new ones with every block.
    ///
    /// # Safety
    /// The CPU has the instructions; the tokens are in the group.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn block<const T: usize, const M: usize>(
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
        let padded = self.x.length(1) * 2 / T;
        let (stride, inputs) = (weight.row_stride(), weight.length(1));
        let blocks = self.outputs / BLOCK_ROWS;
        for block in 0..blocks {
            let (output, apart) =
                if M < BLOCK_TOKENS { (block, blocks) } else { (block * BLOCK_ROWS, 1) };
            let w = weight.row(first + output).cast_const();
            // SAFETY: the rows of activations have `padded` numbers for each term, those of weights as
            // many as there are inputs; the sums have room for the outputs.
            unsafe {
                let block = dots::<T, M, BLOCK_ROWS>(x, padded, w, apart * stride, inputs);
                for m in 0..M {
                    let target = sums.row(row + m).add(output);
                    for n in 0..BLOCK_ROWS {
                        *target.add(n * apart) = block[m][n];
                    }
                }
            }
        }
        for output in blocks * BLOCK_ROWS..self.outputs {
            let w = weight.row(first + output).cast_const();
            // SAFETY: as above.
            unsafe {
                let block = dots::<T, M, 1>(x, padded, w, stride, inputs);
                for m in 0..M {
                    *sums.row(row + m).add(output) = block[m][0];
                }
            }
        }
        M
    }
}

/// The dot products of `M` tokens, of `T` terms, with `N` weight rows, over `length` numbers.
///
/// # Safety
/// At each of `x` are `padded` numbers for each term, zeros from `length` on; rows of `w` are readable up
/// to `length`, which is at most `padded`, a multiple of [`LANES`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn dots<const T: usize, const M: usize, const N: usize>(
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
            for term in 0..T {
                // SAFETY: the caller's contract.
                let x = unsafe { _mm512_loadu_si512(x[m].add(term * padded + start).cast()) };
                for n in 0..N {
                    sums[m][n] = add_products(sums[m][n], x, weights[n]);
                }
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
