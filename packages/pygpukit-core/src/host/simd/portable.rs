//! Vectors as plain arrays, for CPUs without an instruction set of their own here.

use half::{bf16, f16};

use super::{Simd, WithSimd};

/// Eight numbers in an array.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

const LANES: usize = 8;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], operation: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|lane| operation(a[lane], b[lane]))
}

impl Portable {
    #[inline(always)]
    fn fold(a: [f32; LANES], operation: impl Fn(f32, f32) -> f32) -> f32 {
        let four: [f32; 4] = std::array::from_fn(|lane| operation(a[lane], a[lane + 4]));
        operation(operation(four[0], four[2]), operation(four[1], four[3]))
    }

    /// # Safety
    /// `count` elements are readable at `source`.
    #[inline(always)]
    unsafe fn convert<E: Copy>(
        source: *const E,
        count: usize,
        to_f32: impl Fn(E) -> f32,
    ) -> [f32; LANES] {
        let mut vector = [0.0; LANES];
        for (lane, value) in vector[..count].iter_mut().enumerate() {
            // SAFETY: lane < count, which the caller vouches for.
            *value = to_f32(unsafe { source.add(lane).read_unaligned() });
        }
        vector
    }
}

impl Simd for Portable {
    type Vector = [f32; LANES];
    /// Scale and offset.
    type Nibbles = [[f32; LANES]; 2];

    const LANES: usize = LANES;
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn vectorize<K: WithSimd>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Vector {
        [value; LANES]
    }

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        // Not `f32::mul_add`, which is a slow library call where the CPU has no such instruction.
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }

    #[inline(always)]
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn round(self, a: Self::Vector) -> Self::Vector {
        a.map(|value| {
            // Adding 1.5 · 2^23 leaves no bits for the fraction; enough for |value| < 2^22.
            const SHIFT: f32 = 12_582_912.0;
            if value.abs() < 4_194_304.0 {
                (value + SHIFT) - SHIFT
            } else {
                value.round_ties_even()
            }
        })
    }

    #[inline(always)]
    fn pow2(self, exponent: Self::Vector) -> Self::Vector {
        exponent.map(|exponent| f32::from_bits(((exponent as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn select_less(
        self,
        a: Self::Vector,
        b: Self::Vector,
        yes: Self::Vector,
        no: Self::Vector,
    ) -> Self::Vector {
        std::array::from_fn(|lane| if a[lane] < b[lane] { yes[lane] } else { no[lane] })
    }

    #[inline(always)]
    fn sum(self, a: Self::Vector) -> f32 {
        Portable::fold(a, |a, b| a + b)
    }

    #[inline(always)]
    fn largest(self, a: Self::Vector) -> f32 {
        Portable::fold(a, f32::max)
    }

    #[inline(always)]
    unsafe fn load(self, source: *const f32) -> Self::Vector {
        // SAFETY: the caller's contract.
        unsafe { source.cast::<[f32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_partial(self, source: *const f32, count: usize) -> Self::Vector {
        // SAFETY: the caller's contract.
        unsafe { Portable::convert(source, count, |value| value) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, source: *const u16) -> Self::Vector {
        // SAFETY: the caller's contract.
        unsafe { self.load_f16_partial(source, LANES) }
    }

    #[inline(always)]
    unsafe fn load_f16_partial(self, source: *const u16, count: usize) -> Self::Vector {
        // SAFETY: the caller's contract.
        unsafe { Portable::convert(source, count, |bits| f16::from_bits(bits).to_f32()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, source: *const u16) -> Self::Vector {
        // SAFETY: the caller's contract.
        unsafe { self.load_bf16_partial(source, LANES) }
    }

    #[inline(always)]
    unsafe fn load_bf16_partial(self, source: *const u16, count: usize) -> Self::Vector {
        // SAFETY: the caller's contract.
        unsafe { Portable::convert(source, count, |bits| bf16::from_bits(bits).to_f32()) }
    }

    #[inline(always)]
    unsafe fn load_f16_pair(self, source: *const u16) -> [f32; 2] {
        // SAFETY: the caller's contract.
        let pair = unsafe { source.cast::<[u16; 2]>().read_unaligned() };
        pair.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    unsafe fn load_i8(self, source: *const i8) -> Self::Vector {
        // SAFETY: the caller's contract.
        unsafe { Portable::convert(source, LANES, f32::from) }
    }

    #[inline(always)]
    fn nibbles(self, scale: Self::Vector, offset: Self::Vector) -> Self::Nibbles {
        [scale, offset]
    }

    #[inline(always)]
    unsafe fn load_low_nibbles(
        self,
        source: *const u8,
        [scale, offset]: Self::Nibbles,
    ) -> Self::Vector {
        // SAFETY: the caller's contract.
        let numbers = unsafe { Portable::convert(source, LANES, |byte| f32::from(byte & 15)) };
        self.mul_add(numbers, scale, offset)
    }

    #[inline(always)]
    unsafe fn load_high_nibbles(
        self,
        source: *const u8,
        [scale, offset]: Self::Nibbles,
    ) -> Self::Vector {
        // SAFETY: the caller's contract.
        let numbers = unsafe { Portable::convert(source, LANES, |byte| f32::from(byte >> 4)) };
        self.mul_add(numbers, scale, offset)
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32, vector: Self::Vector) {
        // SAFETY: the caller's contract.
        unsafe { target.cast::<[f32; LANES]>().write_unaligned(vector) }
    }

    #[inline(always)]
    unsafe fn store_partial(self, target: *mut f32, vector: Self::Vector, count: usize) {
        // SAFETY: the caller's contract; the array is longer than `count`.
        unsafe { std::ptr::copy_nonoverlapping(vector[..count].as_ptr(), target, count) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, target: *mut u16, vector: Self::Vector) {
        // SAFETY: the caller's contract.
        unsafe { self.store_bf16_partial(target, vector, LANES) }
    }

    #[inline(always)]
    unsafe fn store_bf16_partial(self, target: *mut u16, vector: Self::Vector, count: usize) {
        for (lane, &value) in vector[..count].iter().enumerate() {
            // SAFETY: lane < count, which the caller vouches for.
            unsafe { target.add(lane).write_unaligned(bf16::from_f32(value).to_bits()) };
        }
    }
}
