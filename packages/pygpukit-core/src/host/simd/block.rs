//! ggml's blocks of 32 quantised numbers, dequantised as vectors of float32.
//!
//! A number is `d · q + m`, of a scale and a minimum that its block has as float16. The products are
//! exact in float32, so that what is rounded is the sum alone, once: the numbers are those of
//! [`crate::convert`], and so ggml's, on every instruction set.

use super::Simd;

/// Numbers in a block.
pub(crate) const BLOCK: usize = 32;

/// A block of 32 numbers as it lies in a file, with no alignment.
pub(crate) trait Block: Copy + Send + Sync + 'static {
    /// What the numbers of a block share, ready to use.
    type Scale<S: Simd>: Copy;

    /// Scale and minimum of the block at `source`; without a minimum the latter is any number.
    ///
    /// # Safety
    /// It is readable.
    #[inline(always)]
    unsafe fn scale<S: Simd>(simd: S, source: *const Self) -> [f32; 2] {
        // SAFETY: the caller's contract; every block begins with its scale and is longer than two.
        unsafe { simd.load_f16_pair(source.cast()) }
    }

    /// The scale and the minimum at `scale`, in vectors.
    ///
    /// # Safety
    /// Both are readable.
    unsafe fn spread<S: Simd>(simd: S, scale: *const f32) -> Self::Scale<S>;

    /// The `LANES` numbers from `start`, a multiple of that, on; `scale` is what they share.
    ///
    /// # Safety
    /// The block is readable.
    unsafe fn load<S: Simd>(
        simd: S,
        source: *const Self,
        scale: Self::Scale<S>,
        start: usize,
    ) -> S::Vector;
}

/// Scale, 32 signed bytes: `d · q`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Q8_0([u8; 34]);

impl Block for Q8_0 {
    type Scale<S: Simd> = S::Vector;

    #[inline(always)]
    unsafe fn spread<S: Simd>(simd: S, scale: *const f32) -> S::Vector {
        // SAFETY: the caller's contract.
        simd.splat(unsafe { *scale })
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(
        simd: S,
        source: *const Q8_0,
        scale: S::Vector,
        start: usize,
    ) -> S::Vector {
        // SAFETY: the caller's contract.
        let numbers = unsafe { simd.load_i8(source.cast::<i8>().add(2 + start)) };
        simd.mul(numbers, scale)
    }
}

/// Scale, 32 numbers of four bits of which eight is taken: `d · (q − 8)`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Q4_0([u8; 18]);

impl Block for Q4_0 {
    type Scale<S: Simd> = S::Nibbles;

    #[inline(always)]
    unsafe fn spread<S: Simd>(simd: S, scale: *const f32) -> S::Nibbles {
        // SAFETY: the caller's contract.
        simd.centred_nibbles(simd.splat(unsafe { *scale }))
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(
        simd: S,
        source: *const Q4_0,
        scale: S::Nibbles,
        start: usize,
    ) -> S::Vector {
        // SAFETY: the caller's contract.
        unsafe { load_nibbles(simd, source.cast::<u8>().add(2), scale, start) }
    }
}

/// Scale, minimum, 32 numbers of four bits: `d · q + m`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Q4_1([u8; 20]);

impl Block for Q4_1 {
    type Scale<S: Simd> = S::Nibbles;

    #[inline(always)]
    unsafe fn spread<S: Simd>(simd: S, scale: *const f32) -> S::Nibbles {
        // SAFETY: the caller's contract.
        let (d, m) = unsafe { (*scale, *scale.add(1)) };
        simd.nibbles(simd.splat(d), simd.splat(m))
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(
        simd: S,
        source: *const Q4_1,
        scale: S::Nibbles,
        start: usize,
    ) -> S::Vector {
        // SAFETY: the caller's contract.
        unsafe { load_nibbles(simd, source.cast::<u8>().add(4), scale, start) }
    }
}

/// Numbers from `start` on of the 32 at `source`, whose first half are the low nibbles of its bytes.
///
/// # Safety
/// The 16 bytes are readable; `start` is a multiple of `LANES` below 32.
#[inline(always)]
unsafe fn load_nibbles<S: Simd>(
    simd: S,
    source: *const u8,
    scale: S::Nibbles,
    start: usize,
) -> S::Vector {
    // SAFETY: the caller's contract.
    unsafe {
        if start < BLOCK / 2 {
            simd.load_low_nibbles(source.add(start), scale)
        } else {
            simd.load_high_nibbles(source.add(start - BLOCK / 2), scale)
        }
    }
}
