//! Vectors of float32, one type for each instruction set, and the choice among them at run time.
//!
//! A kernel is written once, generic over [`Simd`], as a [`WithSimd`]; [`dispatch`] runs the copy
//! compiled for the best instruction set of this CPU. Generic code marked `#[inline(always)]` is
//! compiled into the one function of each copy that enables the instruction set, so closures that
//! outlive the call (those handed to the thread pool, say) must call [`dispatch`] themselves.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod block;
mod element;
mod level;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod stored;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use element::{ACTIVATIONS, Element, Floats, NUMBERS, Numbers, with_element};
#[cfg(test)]
pub(crate) use level::at_each_level;
pub use level::{Level, level};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;
pub(crate) use stored::{STORED, Stored, with_stored};

/// The widest vector of any instruction set, in float32 lanes: scratch rows are padded to it.
pub(crate) const MAX_LANES: usize = 16;

/// A computation that is generic over the instruction set.
pub(crate) trait WithSimd {
    /// What it returns.
    type Output;

    /// Computes. Implementations are `#[inline(always)]`, and so is all generic code they call.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` with the vectors of [`level()`].
pub(crate) fn dispatch<K: WithSimd>(kernel: K) -> K::Output {
    dispatch_at(level(), kernel)
}

/// Runs `kernel` with the vectors of `level`, which this CPU must have.
pub(crate) fn dispatch_at<K: WithSimd>(level: Level, kernel: K) -> K::Output {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: levels other than the CPU's own don't leave `level.rs`.
        Level::Avx2 => unsafe { Avx2::new() }.vectorize(kernel),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => {
            // SAFETY: as above.
            unsafe { Avx512::new() }.vectorize(kernel)
        }
        #[cfg(target_arch = "aarch64")]
        Level::Neon => Neon.vectorize(kernel),
        _ => Portable.vectorize(kernel),
    }
}

/// Vectors of float32 on one instruction set.
///
/// A value of the type is the proof that the CPU has the instruction set. Reductions have one fixed
/// order: halves are added to one another until one lane is left.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// `LANES` float32 numbers.
    type Vector: Copy;
    /// What a block of four-bit numbers turns them into.
    type Nibbles: Copy;

    /// Numbers in a vector: a power of two, at most [`MAX_LANES`].
    const LANES: usize;
    /// Whether there are 32 vector registers rather than 16, which decides the size of blocks.
    const MANY_REGISTERS: bool;

    /// Runs `kernel` in a function that enables the instruction set.
    fn vectorize<K: WithSimd>(self, kernel: K) -> K::Output;

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::Vector;
    /// `a + b`.
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b`.
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b`.
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a / b`.
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`, rounded once where the instruction set can.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The larger of each pair; `b` where either is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The nearest whole number, ties to even, of numbers below 2^31 in magnitude.
    fn round(self, a: Self::Vector) -> Self::Vector;
    /// 2 to the power of whole numbers in [-126, 127].
    fn pow2(self, exponent: Self::Vector) -> Self::Vector;
    /// `yes` where `a < b`, else (also for NaN) `no`.
    fn select_less(
        self,
        a: Self::Vector,
        b: Self::Vector,
        yes: Self::Vector,
        no: Self::Vector,
    ) -> Self::Vector;
    /// The sum of the lanes.
    fn sum(self, a: Self::Vector) -> f32;
    /// The largest lane.
    fn largest(self, a: Self::Vector) -> f32;

    /// The sum of the lanes of each vector, bit for bit as [`Simd::sum`] gives it.
    #[inline(always)]
    fn sums<const N: usize>(self, vectors: [Self::Vector; N]) -> [f32; N] {
        let mut sums = [0.0; N];
        for (sum, vector) in sums.iter_mut().zip(vectors) {
            *sum = self.sum(vector);
        }
        sums
    }

    /// The `LANES` numbers at `source`.
    ///
    /// # Safety
    /// They are readable; no alignment is asked for.
    unsafe fn load(self, source: *const f32) -> Self::Vector;
    /// The `count < LANES` numbers at `source`, then zeros.
    ///
    /// # Safety
    /// They are readable; nothing past them is read.
    unsafe fn load_partial(self, source: *const f32, count: usize) -> Self::Vector;
    /// The `LANES` float16 numbers at `source`.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_f16(self, source: *const u16) -> Self::Vector;
    /// The `count < LANES` float16 numbers at `source`, then zeros.
    ///
    /// # Safety
    /// As [`Simd::load_partial`].
    unsafe fn load_f16_partial(self, source: *const u16, count: usize) -> Self::Vector;
    /// The `LANES` bfloat16 numbers at `source`.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_bf16(self, source: *const u16) -> Self::Vector;
    /// The `count < LANES` bfloat16 numbers at `source`, then zeros.
    ///
    /// # Safety
    /// As [`Simd::load_partial`].
    unsafe fn load_bf16_partial(self, source: *const u16, count: usize) -> Self::Vector;
    /// The two float16 numbers at `source`.
    ///
    /// # Safety
    /// They are readable; no alignment is asked for.
    unsafe fn load_f16_pair(self, source: *const u16) -> [f32; 2];
    /// The `LANES` signed bytes at `source` as numbers.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load_i8(self, source: *const i8) -> Self::Vector;
    /// What turns four-bit numbers q into `q · scale + offset`, as [`Simd::mul_add`] has it.
    fn nibbles(self, scale: Self::Vector, offset: Self::Vector) -> Self::Nibbles;
    /// The same for `(q − 8) · scale`, which is exact where the scale is a float16 number.
    #[inline(always)]
    fn centred_nibbles(self, scale: Self::Vector) -> Self::Nibbles {
        self.nibbles(scale, self.mul(scale, self.splat(-8.0)))
    }
    /// What `nibbles` turns the lower halves of the `LANES` bytes at `source` into.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load_low_nibbles(self, source: *const u8, nibbles: Self::Nibbles) -> Self::Vector;
    /// What `nibbles` turns the upper halves of the `LANES` bytes at `source` into.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load_high_nibbles(self, source: *const u8, nibbles: Self::Nibbles) -> Self::Vector;
    /// Writes the lanes to `target`.
    ///
    /// # Safety
    /// `LANES` numbers are writable there; no alignment is asked for.
    unsafe fn store(self, target: *mut f32, vector: Self::Vector);
    /// Writes the first `count < LANES` lanes to `target`.
    ///
    /// # Safety
    /// `count` numbers are writable there; nothing past them is touched.
    unsafe fn store_partial(self, target: *mut f32, vector: Self::Vector, count: usize);
    /// Writes the lanes to `target`, rounded to the nearest bfloat16, ties to even.
    ///
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store_bf16(self, target: *mut u16, vector: Self::Vector);
    /// Writes the first `count < LANES` lanes to `target`, rounded as by [`Simd::store_bf16`].
    ///
    /// # Safety
    /// As [`Simd::store_partial`].
    unsafe fn store_bf16_partial(self, target: *mut u16, vector: Self::Vector, count: usize);

    /// The `count <= LANES` numbers at `source`, then zeros.
    ///
    /// # Safety
    /// As [`Simd::load_partial`].
    #[inline(always)]
    unsafe fn load_some<E: Element>(self, source: *const E, count: usize) -> Self::Vector {
        // SAFETY: the caller's contract.
        unsafe {
            if count == Self::LANES {
                E::load(self, source)
            } else {
                E::load_partial(self, source, count)
            }
        }
    }

    /// Writes the first `count <= LANES` lanes to `target`.
    ///
    /// # Safety
    /// As [`Simd::store_partial`].
    #[inline(always)]
    unsafe fn store_some(self, target: *mut f32, vector: Self::Vector, count: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            if count == Self::LANES {
                self.store(target, vector);
            } else {
                self.store_partial(target, vector, count);
            }
        }
    }
}

/// Runs `body` for each vector of `length` numbers: `start` is the index of its first number,
/// `count` how many it has, `S::LANES` but for the last. (A macro, because a closure's body is
/// compiled for the instruction set only if the optimiser happens to inline it.)
macro_rules! for_each_vector {
    ($simd:ty, $length:expr, |$start:ident, $count:ident| $body:block) => {{
        let length: usize = $length;
        let mut $start = 0;
        while $start + <$simd>::LANES <= length {
            let $count = <$simd>::LANES;
            $body
            $start += $count;
        }
        if $start < length {
            let $count = length - $start;
            $body
        }
    }};
}
pub(crate) use for_each_vector;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::normal64;
