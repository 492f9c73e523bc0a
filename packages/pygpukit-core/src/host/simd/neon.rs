//! NEON: four lanes.

use std::arch::aarch64::*;

use super::{Simd, WithSimd};

/// NEON, which every aarch64 CPU has.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

impl Neon {
    /// # Safety
    /// `count <= 4` elements are readable at `source`.
    #[inline(always)]
    unsafe fn padded<E: Copy + Default>(source: *const E, count: usize) -> [E; 4] {
        let mut padded = [E::default(); 4];
        // SAFETY: the caller's contract; the slice checks that the target is long enough.
        unsafe { std::ptr::copy_nonoverlapping(source, padded[..count].as_mut_ptr(), count) };
        padded
    }

    /// Four bytes as numbers.
    ///
    /// # Safety
    /// They are readable at `source`.
    #[inline(always)]
    unsafe fn bytes(source: *const u8) -> uint32x4_t {
        // SAFETY: the caller's contract; NEON is part of the target.
        unsafe {
            let bytes = vreinterpret_u8_u32(vdup_n_u32(source.cast::<u32>().read_unaligned()));
            vmovl_u16(vget_low_u16(vmovl_u8(bytes)))
        }
    }

    /// The lanes, rounded to the nearest bfloat16.
    #[inline(always)]
    fn to_bf16(vector: float32x4_t) -> uint16x4_t {
        // SAFETY: NEON is part of the target.
        unsafe {
            let bits = vreinterpretq_u32_f32(vector);
            // Half of the last place that stays, but for ties to even numbers a bit less.
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let half = vaddq_u32(odd, vdupq_n_u32(0x7fff));
            let rounded = vaddq_u32(bits, half);
            let is_number = vceqq_f32(vector, vector);
            vshrn_n_u32::<16>(vbslq_u32(is_number, rounded, vdupq_n_u32(0x7fc0_0000)))
        }
    }
}

// SAFETY of the blocks below: NEON is part of the target; pointers are the caller's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Neon {
    type Vector = float32x4_t;
    /// Scale and offset.
    type Nibbles = [float32x4_t; 2];

    const LANES: usize = 4;
    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn vectorize<K: WithSimd>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }

    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        unsafe { vrndnq_f32(a) }
    }

    #[inline(always)]
    fn pow2(self, exponent: float32x4_t) -> float32x4_t {
        unsafe {
            let biased = vaddq_s32(vcvtq_s32_f32(exponent), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        }
    }

    #[inline(always)]
    fn select_less(
        self,
        a: float32x4_t,
        b: float32x4_t,
        yes: float32x4_t,
        no: float32x4_t,
    ) -> float32x4_t {
        unsafe { vbslq_f32(vcltq_f32(a, b), yes, no) }
    }

    #[inline(always)]
    fn sum(self, a: float32x4_t) -> f32 {
        unsafe {
            let two = vadd_f32(vget_low_f32(a), vget_high_f32(a));
            vget_lane_f32::<0>(vpadd_f32(two, two))
        }
    }

    #[inline(always)]
    fn largest(self, a: float32x4_t) -> f32 {
        unsafe { vmaxnmvq_f32(a) }
    }

    #[inline(always)]
    unsafe fn load(self, source: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(source) }
    }

    #[inline(always)]
    unsafe fn load_partial(self, source: *const f32, count: usize) -> float32x4_t {
        unsafe { vld1q_f32(Neon::padded(source, count).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, source: *const u16) -> float32x4_t {
        unsafe {
            // The exponent and fraction move to their place in a float32, the exponent's bias is
            // mended by a multiplication (which also makes subnormal numbers right).
            let bits = vmovl_u16(vld1_u16(source));
            let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
            let magnitude = vshlq_n_u32::<13>(vandq_u32(bits, vdupq_n_u32(0x7fff)));
            let scaled = vmulq_f32(
                vreinterpretq_f32_u32(magnitude),
                vdupq_n_f32(f32::from_bits((127 + 112) << 23)),
            );
            let special = vcgeq_u32(magnitude, vdupq_n_u32(0x7c00 << 13));
            let exponent = vandq_u32(special, vdupq_n_u32(0x7f80_0000));
            vreinterpretq_f32_u32(vorrq_u32(
                vorrq_u32(vreinterpretq_u32_f32(scaled), exponent),
                sign,
            ))
        }
    }

    #[inline(always)]
    unsafe fn load_f16_partial(self, source: *const u16, count: usize) -> float32x4_t {
        unsafe { self.load_f16(Neon::padded(source, count).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, source: *const u16) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(source)))) }
    }

    #[inline(always)]
    unsafe fn load_bf16_partial(self, source: *const u16, count: usize) -> float32x4_t {
        unsafe { self.load_bf16(Neon::padded(source, count).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn load_f16_pair(self, source: *const u16) -> [f32; 2] {
        unsafe {
            let [first, second] = source.cast::<[u16; 2]>().read_unaligned();
            let pair = self.load_f16([first, second, 0, 0].as_ptr());
            [vgetq_lane_f32::<0>(pair), vgetq_lane_f32::<1>(pair)]
        }
    }

    #[inline(always)]
    unsafe fn load_i8(self, source: *const i8) -> float32x4_t {
        unsafe {
            let bytes = vreinterpret_s8_u32(vdup_n_u32(source.cast::<u32>().read_unaligned()));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
        }
    }

    #[inline(always)]
    fn nibbles(self, scale: float32x4_t, offset: float32x4_t) -> [float32x4_t; 2] {
        [scale, offset]
    }

    #[inline(always)]
    unsafe fn load_low_nibbles(
        self,
        source: *const u8,
        [scale, offset]: [float32x4_t; 2],
    ) -> float32x4_t {
        unsafe {
            let numbers = vandq_u32(Neon::bytes(source), vdupq_n_u32(15));
            vfmaq_f32(offset, vcvtq_f32_u32(numbers), scale)
        }
    }

    #[inline(always)]
    unsafe fn load_high_nibbles(
        self,
        source: *const u8,
        [scale, offset]: [float32x4_t; 2],
    ) -> float32x4_t {
        unsafe {
            let numbers = vshrq_n_u32::<4>(Neon::bytes(source));
            vfmaq_f32(offset, vcvtq_f32_u32(numbers), scale)
        }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32, vector: float32x4_t) {
        unsafe { vst1q_f32(target, vector) }
    }

    #[inline(always)]
    unsafe fn store_partial(self, target: *mut f32, vector: float32x4_t, count: usize) {
        let mut lanes = [0.0; 4];
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), vector);
            std::ptr::copy_nonoverlapping(lanes[..count].as_ptr(), target, count);
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, target: *mut u16, vector: float32x4_t) {
        unsafe { vst1_u16(target, Neon::to_bf16(vector)) }
    }

    #[inline(always)]
    unsafe fn store_bf16_partial(self, target: *mut u16, vector: float32x4_t, count: usize) {
        let mut lanes = [0; 4];
        unsafe {
            vst1_u16(lanes.as_mut_ptr(), Neon::to_bf16(vector));
            std::ptr::copy_nonoverlapping(lanes[..count].as_ptr(), target, count);
        }
    }
}
