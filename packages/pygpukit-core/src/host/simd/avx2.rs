//! AVX2 with FMA and F16C: eight lanes.

use std::arch::x86_64::*;

use super::{Simd, WithSimd};

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    #[inline(always)]
    pub(super) unsafe fn new() -> Avx2 {
        Avx2(())
    }

    /// The first `count < 8` lanes.
    #[inline(always)]
    fn mask(self, count: usize) -> __m256i {
        // SAFETY: `self` proves AVX2.
        unsafe {
            _mm256_cmpgt_epi32(
                _mm256_set1_epi32(count as i32),
                _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
            )
        }
    }

    /// # Safety
    /// `count <= 8` elements are readable at `source`.
    #[inline(always)]
    unsafe fn padded(source: *const u16, count: usize) -> [u16; 8] {
        let mut padded = [0; 8];
        // SAFETY: the caller's contract; the slice checks that the target is long enough.
        unsafe { std::ptr::copy_nonoverlapping(source, padded[..count].as_mut_ptr(), count) };
        padded
    }

    /// The lanes, rounded to the nearest bfloat16.
    #[inline(always)]
    fn to_bf16(self, vector: __m256) -> __m128i {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let bits = _mm256_castps_si256(vector);
            // Half of the last place that stays, but for ties to even numbers a bit less.
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(vector, vector));
            let words = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), is_nan);
            // Each half twice over, then the first of each.
            let packed = _mm256_packus_epi32(words, words);
            _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b10_00>(packed))
        }
    }
}

/// [`Simd::load_f16_pair`] of AVX2 and AVX-512. A macro: as a function of its own, called from either,
/// it slows the products with blocks down by a tenth.
macro_rules! f16_pair {
    ($source:expr) => {{
        let pair = _mm_cvtph_ps(_mm_loadu_si32($source.cast()));
        [_mm_cvtss_f32(pair), _mm_cvtss_f32(_mm_movehdup_ps(pair))]
    }};
}
pub(super) use f16_pair;

/// Adds (or the like) halves to one another until one lane is left.
macro_rules! fold {
    ($vector:expr, $operation:ident, $last:ident) => {{
        let four = $operation(_mm256_castps256_ps128($vector), _mm256_extractf128_ps::<1>($vector));
        let two = $operation(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32($last(two, _mm_shuffle_ps::<1>(two, two)))
    }};
}

// SAFETY of the blocks below: `self` proves the instruction set; pointers are the caller's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2 {
    type Vector = __m256;
    /// Scale and offset.
    type Nibbles = [__m256; 2];

    const LANES: usize = 8;
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn vectorize<K: WithSimd>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt")]
        fn vectorized<K: WithSimd>(simd: Avx2, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        unsafe { vectorized(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn pow2(self, exponent: __m256) -> __m256 {
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponent), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn select_less(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }

    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        unsafe { fold!(a, _mm_add_ps, _mm_add_ss) }
    }

    #[inline(always)]
    fn sums<const N: usize>(self, vectors: [__m256; N]) -> [f32; N] {
        let mut sums = [0.0; N];
        // By index: iterators aren't always inlined, and then the vectors have to be in memory.
        let mut i = 0;
        while i + 2 <= N {
            let (a, b) = (vectors[i], vectors[i + 1]);
            // A half for each.
            let (low, high) = unsafe {
                (_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b))
            };
            let four = self.add(low, high);
            let two = self.add(four, unsafe { _mm256_permute_ps::<0b01_00_11_10>(four) });
            let one = self.add(two, unsafe { _mm256_permute_ps::<0b10_11_00_01>(two) });
            unsafe {
                sums[i] = _mm_cvtss_f32(_mm256_castps256_ps128(one));
                sums[i + 1] = _mm_cvtss_f32(_mm256_extractf128_ps::<1>(one));
            }
            i += 2;
        }
        if i < N {
            sums[i] = self.sum(vectors[i]);
        }
        sums
    }

    #[inline(always)]
    fn largest(self, a: __m256) -> f32 {
        unsafe { fold!(a, _mm_max_ps, _mm_max_ss) }
    }

    #[inline(always)]
    unsafe fn load(self, source: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(source) }
    }

    #[inline(always)]
    unsafe fn load_partial(self, source: *const f32, count: usize) -> __m256 {
        unsafe { _mm256_maskload_ps(source, self.mask(count)) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, source: *const u16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(source.cast())) }
    }

    #[inline(always)]
    unsafe fn load_f16_partial(self, source: *const u16, count: usize) -> __m256 {
        unsafe { self.load_f16(Avx2::padded(source, count).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, source: *const u16) -> __m256 {
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(source.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_partial(self, source: *const u16, count: usize) -> __m256 {
        unsafe { self.load_bf16(Avx2::padded(source, count).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn load_f16_pair(self, source: *const u16) -> [f32; 2] {
        unsafe { f16_pair!(source) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, source: *const i8) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(source.cast()))) }
    }

    #[inline(always)]
    fn nibbles(self, scale: __m256, offset: __m256) -> [__m256; 2] {
        [scale, offset]
    }

    #[inline(always)]
    unsafe fn load_low_nibbles(self, source: *const u8, [scale, offset]: [__m256; 2]) -> __m256 {
        unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(source.cast()));
            let numbers = _mm256_and_si256(bytes, _mm256_set1_epi32(15));
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(numbers), scale, offset)
        }
    }

    #[inline(always)]
    unsafe fn load_high_nibbles(self, source: *const u8, [scale, offset]: [__m256; 2]) -> __m256 {
        unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(source.cast()));
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(bytes)), scale, offset)
        }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32, vector: __m256) {
        unsafe { _mm256_storeu_ps(target, vector) }
    }

    #[inline(always)]
    unsafe fn store_partial(self, target: *mut f32, vector: __m256, count: usize) {
        unsafe { _mm256_maskstore_ps(target, self.mask(count), vector) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, target: *mut u16, vector: __m256) {
        unsafe { _mm_storeu_si128(target.cast(), self.to_bf16(vector)) }
    }

    #[inline(always)]
    unsafe fn store_bf16_partial(self, target: *mut u16, vector: __m256, count: usize) {
        let mut lanes = [0u16; 8];
        unsafe {
            _mm_storeu_si128(lanes.as_mut_ptr().cast(), self.to_bf16(vector));
            std::ptr::copy_nonoverlapping(lanes[..count].as_ptr(), target, count);
        }
    }
}
