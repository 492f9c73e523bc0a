//! Floating-point types to and from float32 and float64.
//!
//! The 16-bit formats are IEEE 754's binary16 and the upper half of binary32; the 8-bit ones are
//! those of "FP8 Formats for Deep Learning" (arXiv 2209.05433): E5M2 is the upper half of binary16,
//! E4M3 has bias 7, no infinity, and NaN only where all bits but the sign are set.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::CHUNK;
use crate::dtype::DType;

/// Reads `input`, elements of a floating-point type other than float64, as float32. Exact.
#[inline(always)]
pub(super) fn decode(from: DType, input: &[u8], values: &mut [f32]) {
    match from {
        DType::F32 => decode_with(input, values, f32::from_le_bytes),
        DType::BF16 => decode_with(input, values, |bytes| {
            f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
        }),
        DType::F16 => {
            let mut halves = [f16::ZERO; CHUNK];
            let halves = &mut halves[..values.len()];
            decode_with(input, halves, f16::from_le_bytes);
            halves.convert_to_f32_slice(values);
        }
        DType::F8E5M2 => decode_with(input, values, |[byte]| E5M2[usize::from(byte)]),
        DType::F8E4M3 => decode_with(input, values, |[byte]| E4M3[usize::from(byte)]),
        _ => unreachable!("no decoder for {from}"),
    }
}

/// Writes float32 values as elements of type `to`.
#[inline(always)]
pub(super) fn encode(to: DType, values: &[f32], output: &mut [u8]) {
    match to {
        DType::F64 => encode_with(values, output, |value| f64::from(value).to_le_bytes()),
        DType::F32 => encode_with(values, output, f32::to_le_bytes),
        DType::BF16 => encode_with(values, output, |value| bf16_bits(value).to_le_bytes()),
        DType::F16 => {
            let mut halves = [f16::ZERO; CHUNK];
            let halves = &mut halves[..values.len()];
            halves.convert_from_f32_slice(values);
            encode_with(halves, output, f16::to_le_bytes);
        }
        _ => unreachable!("no encoder for {to}"),
    }
}

/// Writes the float64 values in `input` as elements of type `to`.
#[inline(always)]
pub(super) fn encode_f64(to: DType, input: &[u8], output: &mut [u8]) {
    let mut values = [0.0f64; CHUNK];
    let values = &mut values[..input.len() / size_of::<f64>()];
    decode_with(input, values, f64::from_le_bytes);
    match to {
        DType::F64 => output.copy_from_slice(input),
        DType::F32 => encode_with(values, output, |value| (value as f32).to_le_bytes()),
        _ => {
            let mut narrow = [0.0f32; CHUNK];
            for (narrow, &value) in narrow.iter_mut().zip(values.iter()) {
                *narrow = round_to_odd(value);
            }
            encode(to, &narrow[..values.len()], output);
        }
    }
}

#[inline(always)]
fn decode_with<T, const N: usize>(input: &[u8], values: &mut [T], decode: impl Fn([u8; N]) -> T) {
    for (value, &bytes) in values.iter_mut().zip(input.as_chunks().0) {
        *value = decode(bytes);
    }
}

#[inline(always)]
fn encode_with<T: Copy, const N: usize>(
    values: &[T],
    output: &mut [u8],
    encode: impl Fn(T) -> [u8; N],
) {
    for (bytes, &value) in output.as_chunks_mut().0.iter_mut().zip(values) {
        *bytes = encode(value);
    }
}

/// The bfloat16 nearest to `value`, ties to even; a NaN stays one.
#[inline(always)]
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet_nan = (bits >> 16) | 0x40;
    (if value.is_nan() { quiet_nan } else { rounded }) as u16
}

/// `value` in float32, where an inexact result is the neighbour whose last bit is set.
///
/// Rounding that once more to a 16-bit type gives what rounding `value` directly would (Boldo and
/// Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd").
#[inline(always)]
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) == value || value.is_nan() {
        return nearest;
    }
    // Inexact and away from zero: step back, so that the bits are those of the truncated value.
    let away = f64::from(nearest).abs() > value.abs();
    f32::from_bits((nearest.to_bits() - u32::from(away)) | 1)
}

/// The value of a float8 E4M3 element.
pub(crate) fn float8_e4m3_to_f32(bits: u8) -> f32 {
    E4M3[usize::from(bits)]
}

/// Every float8 E5M2 value.
static E5M2: [f32; 256] = float8_table(5, 2);
/// Every float8 E4M3 value.
static E4M3: [f32; 256] = float8_table(4, 3);

const fn float8_table(exponent_bits: u32, mantissa_bits: u32) -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = float8_value(byte as u32, exponent_bits, mantissa_bits);
        byte += 1;
    }
    table
}

const fn float8_value(byte: u32, exponent_bits: u32, mantissa_bits: u32) -> f32 {
    let sign = (byte >> 7) << 31;
    let magnitude = byte & 0x7f;
    let exponent = magnitude >> mantissa_bits;
    let mantissa = magnitude & ((1 << mantissa_bits) - 1);
    let top = (1 << exponent_bits) - 1;
    let bias = top >> 1;
    // E5M2 has IEEE 754's infinities and NaNs; E4M3 spends all but one code on numbers.
    if exponent_bits == 5 && exponent == top {
        return f32::from_bits(sign | 0x7f80_0000 | (mantissa << 21));
    }
    if exponent_bits == 4 && magnitude == 0x7f {
        return f32::from_bits(sign | 0x7fc0_0000);
    }
    if exponent == 0 {
        let unit = f32::from_bits((127 + 1 - bias - mantissa_bits) << 23);
        let value = mantissa as f32 * unit;
        return f32::from_bits(sign | value.to_bits());
    }
    f32::from_bits(sign | ((exponent + 127 - bias) << 23) | (mantissa << (23 - mantissa_bits)))
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn float8_values_are_the_formats() {
        for (byte, expected) in [
            (0x00, 0.0),
            (0x01, 0.001953125),
            (0x07, 0.013671875),
            (0x08, 0.015625),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xfe, -448.0),
        ] {
            assert_eq!(E4M3[byte], expected, "E4M3 {byte:#x}");
        }
        assert!(E4M3[0x7f].is_nan() && E4M3[0xff].is_nan());
        for byte in 0..=255u8 {
            let expected = f16::from_bits(u16::from(byte) << 8).to_f32();
            let found = E5M2[usize::from(byte)];
            assert!(found == expected || (found.is_nan() && expected.is_nan()), "E5M2 {byte:#x}");
        }
    }

    #[test]
    fn round_to_odd_handles_the_ends_of_the_range() {
        assert_eq!(round_to_odd(1e300), f32::MAX);
        assert_eq!(round_to_odd(-1e300), f32::MIN);
        assert_eq!(round_to_odd(f64::INFINITY), f32::INFINITY);
        assert_eq!(round_to_odd(1e-300), f32::from_bits(1));
        assert!(round_to_odd(f64::NAN).is_nan());
    }

    proptest! {
        #[test]
        fn bf16_rounds_as_the_half_crate(bits: u32) {
            let value = f32::from_bits(bits);
            prop_assert_eq!(bf16_bits(value), bf16::from_f32(value).to_bits());
        }

        /// The nearest 16-bit value is no farther than its neighbours, whatever float64 it came from.
        #[test]
        fn float64_is_rounded_once(sign: bool, exponent in -160i32..140, fraction in 1.0f64..2.0) {
            let value = fraction * f64::from(exponent).exp2() * if sign { -1.0 } else { 1.0 };
            let found = bf16_bits(round_to_odd(value));
            let distance = |bits: u16| (bf16::from_bits(bits).to_f64() - value).abs();
            if bf16::from_bits(found).is_finite() {
                prop_assert!(distance(found) <= distance(found.wrapping_add(1)));
                if found & 0x7fff > 0 {
                    prop_assert!(distance(found) <= distance(found - 1));
                }
            }
        }
    }

    #[test]
    fn a_float64_just_past_a_tie_rounds_up() {
        // 1 + 2^-8 is half way between two bfloat16 values; float32 would round the excess away.
        let just_past_the_tie = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
        assert_eq!(bf16::from_bits(bf16_bits(round_to_odd(just_past_the_tie))).to_f64(), 1.0078125);
        assert_eq!(bf16_bits(just_past_the_tie as f32), bf16_bits(1.0));
    }
}
