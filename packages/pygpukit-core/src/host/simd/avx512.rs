//! AVX-512: sixteen lanes.

use std::arch::x86_64::*;

use super::avx2::f16_pair;
use super::{Simd, WithSimd};

/// Proof that the CPU has AVX-512 F, BW, DQ and VL, and what AVX2 stands for here.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The CPU has AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C.
    #[inline(always)]
    pub(super) unsafe fn new() -> Avx512 {
        Avx512(())
    }

    /// The lanes, rounded to the nearest bfloat16.
    #[inline(always)]
    fn to_bf16(self, vector: __m512) -> __m256i {
        // SAFETY: `self` proves the instruction set.
        unsafe {
            let bits = _mm512_castps_si512(vector);
            // Half of the last place that stays, but for ties to even numbers a bit less.
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(vector, vector);
            _mm512_cvtepi32_epi16(_mm512_mask_set1_epi32(rounded, is_nan, 0x7fc0))
        }
    }

    /// The first `count < 16` lanes.
    #[inline(always)]
    fn mask(count: usize) -> __mmask16 {
        (1 << count) - 1
    }
}

/// Adds (or the like) halves to one another until one lane is left.
macro_rules! fold {
    ($vector:expr, $wide:ident, $operation:ident, $last:ident) => {{
        let eight = $wide(_mm512_castps512_ps256($vector), _mm512_extractf32x8_ps::<1>($vector));
        let four = $operation(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = $operation(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32($last(two, _mm_shuffle_ps::<1>(two, two)))
    }};
}

/// Each number shifted by four bits, as one instruction: of bytes that have just been widened the
/// compiler would rather shift and mask those, and widen them once more.
#[inline]
#[target_feature(enable = "avx512f")]
fn upper_halves(bytes: __m512i) -> __m512i {
    let shifted: __m512i;
    // SAFETY: registers only, and an instruction that the CPU has.
    unsafe {
        std::arch::asm!(
            "vpsrld {shifted}, {bytes}, 4",
            bytes = in(zmm_reg) bytes,
            shifted = lateout(zmm_reg) shifted,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    shifted
}

/// The sums of four vectors, in the order of `fold`: halves are added for all of them at once.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn sum_four([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    let halves = |a: __m512, b: __m512| {
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b))
    };
    let (ab, cd) = (halves(a, b), halves(c, d));
    // A quarter for each.
    let four =
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xDD>(ab, cd));
    let two = _mm512_add_ps(four, _mm512_permute_ps::<0b01_00_11_10>(four));
    let one = _mm512_add_ps(two, _mm512_permute_ps::<0b10_11_00_01>(two));
    let first_of_quarters = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    let sums = _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_quarters, one));
    // SAFETY: both are four float32 numbers.
    unsafe { std::mem::transmute(sums) }
}

/// The 16 × 16 matrix of 32-bit numbers whose rows are `rows`, transposed.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    let (mut twos, mut fours, mut columns) = ([zero; 16], [zero; 16], [zero; 16]);
    for i in (0..16).step_by(2) {
        twos[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        twos[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for i in (0..16).step_by(4) {
        for j in 0..2 {
            fours[i + 2 * j] = _mm512_unpacklo_epi64(twos[i + j], twos[i + j + 2]);
            fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(twos[i + j], twos[i + j + 2]);
        }
    }
    // Quarter q of `fours[i + j]` holds column 4q + j of rows i to i + 3.
    for j in 0..4 {
        let even = |i: usize| _mm512_shuffle_i32x4::<0x88>(fours[i + j], fours[i + 4 + j]);
        let odd = |i: usize| _mm512_shuffle_i32x4::<0xDD>(fours[i + j], fours[i + 4 + j]);
        columns[j] = _mm512_shuffle_i32x4::<0x88>(even(0), even(8));
        columns[8 + j] = _mm512_shuffle_i32x4::<0xDD>(even(0), even(8));
        columns[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd(0), odd(8));
        columns[12 + j] = _mm512_shuffle_i32x4::<0xDD>(odd(0), odd(8));
    }
    columns
}

// SAFETY of the blocks below: `self` proves the instruction set; pointers are the caller's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx512 {
    type Vector = __m512;
    /// What each of the sixteen numbers becomes.
    type Nibbles = __m512;

    const LANES: usize = 16;
    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn vectorize<K: WithSimd>(self, kernel: K) -> K::Output {
        #[target_feature(
            enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,popcnt"
        )]
        fn vectorized<K: WithSimd>(simd: Avx512, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        unsafe { vectorized(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn pow2(self, exponent: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(_mm512_set1_ps(1.0), exponent) }
    }

    #[inline(always)]
    fn select_less(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes) }
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        unsafe { fold!(a, _mm256_add_ps, _mm_add_ps, _mm_add_ss) }
    }

    #[inline(always)]
    fn sums<const N: usize>(self, vectors: [__m512; N]) -> [f32; N] {
        let mut sums = [0.0; N];
        // By index: iterators aren't always inlined, and then the vectors have to be in memory.
        let mut i = 0;
        while i + 4 <= N {
            let four = [vectors[i], vectors[i + 1], vectors[i + 2], vectors[i + 3]];
            let four = unsafe { sum_four(four) };
            (sums[i], sums[i + 1], sums[i + 2], sums[i + 3]) = (four[0], four[1], four[2], four[3]);
            i += 4;
        }
        while i < N {
            sums[i] = self.sum(vectors[i]);
            i += 1;
        }
        sums
    }

    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        unsafe { fold!(a, _mm256_max_ps, _mm_max_ps, _mm_max_ss) }
    }

    #[inline(always)]
    unsafe fn load(self, source: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(source) }
    }

    #[inline(always)]
    unsafe fn load_partial(self, source: *const f32, count: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(Avx512::mask(count), source) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, source: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(source.cast())) }
    }

    #[inline(always)]
    unsafe fn load_f16_partial(self, source: *const u16, count: usize) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(Avx512::mask(count), source.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, source: *const u16) -> __m512 {
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(source.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_partial(self, source: *const u16, count: usize) -> __m512 {
        unsafe {
            let halves = _mm256_maskz_loadu_epi16(Avx512::mask(count), source.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }
    }

    #[inline(always)]
    unsafe fn load_f16_pair(self, source: *const u16) -> [f32; 2] {
        unsafe { f16_pair!(source) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, source: *const i8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(source.cast()))) }
    }

    #[inline(always)]
    fn nibbles(self, scale: __m512, offset: __m512) -> __m512 {
        unsafe {
            let numbers = _mm512_setr_ps(
                0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0,
                15.0,
            );
            _mm512_fmadd_ps(numbers, scale, offset)
        }
    }

    #[inline(always)]
    fn centred_nibbles(self, scale: __m512) -> __m512 {
        unsafe {
            let numbers = _mm512_setr_ps(
                -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0,
                7.0,
            );
            _mm512_mul_ps(numbers, scale)
        }
    }

    #[inline(always)]
    unsafe fn load_low_nibbles(self, source: *const u8, nibbles: __m512) -> __m512 {
        unsafe {
            // Of an index the lowest four bits count.
            let indices = _mm512_cvtepu8_epi32(_mm_loadu_si128(source.cast()));
            _mm512_permutexvar_ps(indices, nibbles)
        }
    }

    #[inline(always)]
    unsafe fn load_high_nibbles(self, source: *const u8, nibbles: __m512) -> __m512 {
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(source.cast()));
            _mm512_permutexvar_ps(upper_halves(bytes), nibbles)
        }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32, vector: __m512) {
        unsafe { _mm512_storeu_ps(target, vector) }
    }

    #[inline(always)]
    unsafe fn store_partial(self, target: *mut f32, vector: __m512, count: usize) {
        unsafe { _mm512_mask_storeu_ps(target, Avx512::mask(count), vector) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, target: *mut u16, vector: __m512) {
        unsafe { _mm256_storeu_si256(target.cast(), self.to_bf16(vector)) }
    }

    #[inline(always)]
    unsafe fn store_bf16_partial(self, target: *mut u16, vector: __m512, count: usize) {
        unsafe {
            let lanes = self.to_bf16(vector);
            _mm256_mask_storeu_epi16(target.cast(), Avx512::mask(count), lanes);
        }
    }
}
