//! What the rows of a weight are made of: numbers one by one, or ggml's blocks of them.

// Loops over the rows and columns of a register block read best by index.
#![allow(clippy::needless_range_loop)]

use std::mem::MaybeUninit;

use super::block::{BLOCK, Block, Q4_0, Q4_1, Q8_0};
use super::{Element, Simd, for_each_vector};
use crate::dtype::DType;

/// The types of [`Stored`] weights.
pub(crate) const STORED: &[DType] =
    &[DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1];

/// Blocks whose scales are in float32 at a time.
const SCALES: usize = 64;

/// One number of a weight, or one block of 32.
///
/// Numbers are summed in one order, whichever of a type's methods they go through: a dot product is
/// that of the float32 numbers that [`Stored::to_f32`] writes, bit for bit.
pub(crate) trait Stored: Copy + Send + Sync + 'static {
    /// Whether rows are float32 numbers as they are.
    const IS_F32: bool;

    /// The dot products of `M` rows of `x` with `N` rows of `w`, over `length` numbers.
    ///
    /// # Safety
    /// Rows of `x` are readable up to `length` rounded up to a whole vector, rows of `w`, which are
    /// `w_stride` numbers or blocks apart, up to `length`.
    unsafe fn dots<S: Simd, const M: usize, const N: usize>(
        simd: S,
        x: *const f32,
        x_stride: usize,
        w: *const Self,
        w_stride: usize,
        length: usize,
    ) -> [[f32; N]; M];

    /// Writes the `length` numbers at `source` to `target` as float32, and zeros up to a whole vector.
    ///
    /// # Safety
    /// They are readable, and as many, rounded up to a whole vector, writable.
    unsafe fn to_f32<S: Simd>(simd: S, source: *const Self, target: *mut f32, length: usize);
}

impl<E: Element> Stored for E {
    const IS_F32: bool = matches!(E::DTYPE, DType::F32);

    #[inline(always)]
    unsafe fn dots<S: Simd, const M: usize, const N: usize>(
        simd: S,
        x: *const f32,
        x_stride: usize,
        w: *const E,
        w_stride: usize,
        length: usize,
    ) -> [[f32; N]; M] {
        let mut sums = [[simd.splat(0.0); N]; M];
        for_each_vector!(S, length, |start, count| {
            let mut weights = [simd.splat(0.0); N];
            for n in 0..N {
                // SAFETY: the caller's contract.
                weights[n] = unsafe { simd.load_some(w.add(n * w_stride + start), count) };
            }
            for m in 0..M {
                // SAFETY: the caller's contract.
                let value = unsafe { simd.load(x.add(m * x_stride + start)) };
                for n in 0..N {
                    sums[m][n] = simd.mul_add(value, weights[n], sums[m][n]);
                }
            }
        });
        lanes_added(simd, sums)
    }

    #[inline(always)]
    unsafe fn to_f32<S: Simd>(simd: S, source: *const E, target: *mut f32, length: usize) {
        for_each_vector!(S, length, |start, count| {
            // SAFETY: the vector starts within the row; the target has room for whole vectors.
            unsafe { simd.store(target.add(start), simd.load_some(source.add(start), count)) };
        });
    }
}

/// The types of blocks, which are [`Stored`] all in the same way.
macro_rules! stored_blocks {
    ($($block:ty),*) => {$(
        impl Stored for $block {
            const IS_F32: bool = false;

            #[inline(always)]
            unsafe fn dots<S: Simd, const M: usize, const N: usize>(
                simd: S,
                x: *const f32,
                x_stride: usize,
                w: *const $block,
                w_stride: usize,
                length: usize,
            ) -> [[f32; N]; M] {
                // SAFETY: the caller's contract.
                unsafe { block_dots::<S, $block, M, N>(simd, x, x_stride, w, w_stride, length) }
            }

            #[inline(always)]
            unsafe fn to_f32<S: Simd>(
                simd: S,
                source: *const $block,
                target: *mut f32,
                length: usize,
            ) {
                // SAFETY: the caller's contract.
                unsafe { blocks_to_f32(simd, source, target, length) }
            }
        }
    )*};
}
stored_blocks!(Q8_0, Q4_0, Q4_1);

/// [`Stored::dots`] of blocks: they are dequantised in registers.
///
/// # Safety
/// As [`Stored::dots`]; `length` is a number of whole blocks.
#[inline(always)]
unsafe fn block_dots<S: Simd, B: Block, const M: usize, const N: usize>(
    simd: S,
    x: *const f32,
    x_stride: usize,
    w: *const B,
    w_stride: usize,
    length: usize,
) -> [[f32; N]; M] {
    let blocks = length / BLOCK;
    let mut sums = [[simd.splat(0.0); N]; M];
    let mut scales = [const { MaybeUninit::<[[f32; 2]; N]>::uninit() }; SCALES];
    for first in (0..blocks).step_by(SCALES) {
        let count = SCALES.min(blocks - first);
        // A loop of its own: what it writes comes back as broadcasts, which loads do by the way.
        for block in 0..count {
            let mut pairs = [[0.0; 2]; N];
            for n in 0..N {
                // SAFETY: the caller's contract.
                pairs[n] = unsafe { B::scale(simd, w.add(n * w_stride + first + block)) };
            }
            scales[block].write(pairs);
        }
        for block in 0..count {
            // Loaded one by one: pairs would come through registers that don't broadcast.
            let pairs: *const f32 = scales[block].as_ptr().cast();
            // SAFETY: just written, a pair for each row.
            let mut spread = [unsafe { B::spread(simd, pairs) }; N];
            for n in 1..N {
                // SAFETY: as above.
                spread[n] = unsafe { B::spread(simd, pairs.add(2 * n)) };
            }
            let block = first + block;
            for start in (0..BLOCK).step_by(S::LANES) {
                let mut weights = [simd.splat(0.0); N];
                for n in 0..N {
                    // SAFETY: the caller's contract; the vector lies within the block.
                    weights[n] =
                        unsafe { B::load(simd, w.add(n * w_stride + block), spread[n], start) };
                }
                for m in 0..M {
                    // SAFETY: as above.
                    let value = unsafe { simd.load(x.add(m * x_stride + block * BLOCK + start)) };
                    for n in 0..N {
                        sums[m][n] = simd.mul_add(value, weights[n], sums[m][n]);
                    }
                }
            }
        }
    }
    lanes_added(simd, sums)
}

/// [`Stored::to_f32`] of blocks.
///
/// # Safety
/// As [`Stored::to_f32`]; `length` is a number of whole blocks.
#[inline(always)]
unsafe fn blocks_to_f32<S: Simd, B: Block>(
    simd: S,
    source: *const B,
    target: *mut f32,
    length: usize,
) {
    for block in 0..length / BLOCK {
        // SAFETY: the caller's contract; the vectors lie within the block.
        unsafe {
            let source = source.add(block);
            let scale = B::spread(simd, B::scale(simd, source).as_ptr());
            for start in (0..BLOCK).step_by(S::LANES) {
                let numbers = B::load(simd, source, scale, start);
                simd.store(target.add(block * BLOCK + start), numbers);
            }
        }
    }
}

#[inline(always)]
fn lanes_added<S: Simd, const M: usize, const N: usize>(
    simd: S,
    sums: [[S::Vector; N]; M],
) -> [[f32; N]; M] {
    let mut result = [[0.0; N]; M];
    for m in 0..M {
        result[m] = simd.sums(sums[m]);
    }
    result
}

/// Evaluates an expression with a type name bound to the [`Stored`] type of a run-time dtype.
macro_rules! with_stored {
    ($dtype:expr, $stored:ident => $body:expr) => {
        match $dtype {
            $crate::dtype::DType::Q8_0 => {
                type $stored = $crate::host::simd::block::Q8_0;
                $body
            }
            $crate::dtype::DType::Q4_0 => {
                type $stored = $crate::host::simd::block::Q4_0;
                $body
            }
            $crate::dtype::DType::Q4_1 => {
                type $stored = $crate::host::simd::block::Q4_1;
                $body
            }
            other => $crate::host::simd::with_element!(other, $stored => $body),
        }
    };
}
pub(crate) use with_stored;
