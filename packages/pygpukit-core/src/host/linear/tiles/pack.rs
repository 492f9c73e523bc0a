//! Activations as columns of tiles.

use std::arch::x86_64::*;

use half::bf16;

use super::super::super::pool::ThreadPool;
use super::super::super::scratch;
use super::super::super::simd::amx::{COLUMNS, DEPTH, ROWS};
use super::super::super::simd::avx512::transpose;
use super::super::super::view::View;
use super::super::{Linear, terms};

/// Normalised activations: blocks of tokens, each a tile for every step over the inputs. In a tile the
/// columns of the tokens' first (or only) terms come first, then those of their second ones.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    data: *const u32,
    blocks: usize,
    /// Columns of a token.
    terms: usize,
    /// Tokens of a block.
    tokens: usize,
    /// Tiles of a block.
    steps: usize,
}

// SAFETY: only read after it has been made.
unsafe impl Send for Packed {}
// SAFETY: as above.
unsafe impl Sync for Packed {}

impl Packed {
    /// Calls `body` with tokens `first` to `first + count` of the layer's input, normalised.
    ///
    /// A few tokens are one block with as many columns as they need, more are an even number of blocks
    /// of [`COLUMNS`], the last ones filled up with zeros.
    pub(super) fn with(
        linear: &Linear<bf16>,
        first: usize,
        count: usize,
        body: impl FnOnce(Packed),
    ) {
        let steps = linear.x.length(1).div_ceil(DEPTH);
        let terms = terms(&linear.x);
        let most = COLUMNS / terms;
        let tokens = count.min(most);
        let blocks = if count <= most { 1 } else { count.div_ceil(most).next_multiple_of(2) };
        let block_length = steps * ROWS * terms * tokens;
        let mut buffer = scratch::take(blocks * block_length);
        let out = View::over(&mut buffer, blocks, block_length);
        ThreadPool::global().run(blocks, |block| {
            let start = (block * tokens).min(count);
            let present = tokens.min(count - start);
            let mut rows = scratch::take(present * steps * DEPTH);
            let rows = View::over(&mut rows, present, steps * DEPTH);
            (0..present).for_each(|row| linear.prepare(first + start + row, &rows, row));
            // SAFETY: tiles are chosen only on CPUs with AVX-512 and its bfloat16
            // instructions; the block has room for `steps` tiles.
            unsafe { pack(&rows, terms, tokens, out.row(block).cast()) };
        });
        body(Packed { data: out.row(0).cast_const().cast(), blocks, terms, tokens, steps });
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(super) fn terms(&self) -> usize {
        self.terms
    }

    pub(super) fn columns(&self) -> usize {
        self.terms * self.tokens
    }

    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// The tiles of a block.
    pub(super) fn block(&self, index: usize) -> *const u32 {
        assert!(index < self.blocks);
        // SAFETY: the block is one of those that `with` has made.
        unsafe { self.data.add(index * self.steps * ROWS * self.columns()) }
    }
}

/// Writes `rows`, each a multiple of [`DEPTH`] numbers, as the tiles of a block of `tokens` tokens of
/// `terms` columns; tokens that `rows` lacks are zeros.
///
/// # Safety
/// There is room for the tiles at `out`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack(rows: &View<f32, 2>, terms: usize, tokens: usize, out: *mut u32) {
    let columns = terms * tokens;
    for step in 0..rows.length(1) / DEPTH {
        // SAFETY: the step lies within each row; tile and mask keep to the caller's contract.
        unsafe {
            let out = out.add(step * ROWS * columns);
            let numbers = |token: usize| rows.at([token, step * DEPTH]).cast_const();
            match (terms, tokens) {
                (1, 1) => {
                    _mm512_storeu_si512(out.cast(), nearest(numbers(0)));
                    continue;
                }
                (_, 1) => {
                    interleave(split(numbers(0)), out);
                    continue;
                }
                _ => {}
            }
            let mut pairs = [_mm512_setzero_si512(); ROWS];
            for token in 0..rows.length(0) {
                if terms == 1 {
                    pairs[token] = nearest(numbers(token));
                } else {
                    (pairs[token], pairs[tokens + token]) = split(numbers(token));
                }
            }
            let mask = ((1u32 << columns) - 1) as __mmask16;
            for (row, pairs) in transpose(pairs).into_iter().enumerate() {
                _mm512_mask_storeu_epi32(out.add(row * columns).cast(), mask, pairs);
            }
        }
    }
}

/// The [`DEPTH`] numbers at `x` as pairs of bfloat16.
///
/// # Safety
/// The numbers are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(in super::super) unsafe fn nearest(x: *const f32) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe { rounded(_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(DEPTH / 2))) }
}

/// The [`DEPTH`] numbers at `x` as pairs of bfloat16: their high parts and what those leave.
///
/// # Safety
/// The numbers are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(in super::super) unsafe fn split(x: *const f32) -> (__m512i, __m512i) {
    // SAFETY: the caller's contract.
    let (x0, x1) = unsafe { (_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(DEPTH / 2))) };
    let high = rounded(x0, x1);
    let rest = |x: __m512, high: __m256i| {
        let high = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high)));
        // NaN or infinite, whose difference from itself is NaN.
        const NOT_FINITE: i32 = 0x99;
        _mm512_maskz_sub_ps(!_mm512_fpclass_ps_mask::<NOT_FINITE>(high), x, high)
    };
    let rest0 = rest(x0, _mm512_castsi512_si256(high));
    let rest1 = rest(x1, _mm512_extracti64x4_epi64::<1>(high));
    (high, rounded(rest0, rest1))
}

/// 32 numbers, rounded to bfloat16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(first: __m512, second: __m512) -> __m512i {
    // SAFETY: both are 512 plain bits.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(second, first)) }
}

/// Writes a tile of two columns.
///
/// # Safety
/// It has room at `out`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn interleave((high, low): (__m512i, __m512i), out: *mut u32) {
    let start = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let end = _mm512_add_epi32(start, _mm512_set1_epi32(8));
    // SAFETY: the tile has 32 pairs.
    unsafe {
        _mm512_storeu_si512(out.cast(), _mm512_permutex2var_epi32(high, start, low));
        _mm512_storeu_si512(out.add(ROWS).cast(), _mm512_permutex2var_epi32(high, end, low));
    }
}
