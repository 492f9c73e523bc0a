//! ggml's block formats: 32 elements with a float16 scale, as ggml-common.h lays them out.
//!
//! The products are exact in float32 (at most 8 + 11 bits), so the only rounding is that of the
//! additions of Q4_1 and Q5_1, and results are ggml's bit for bit.

use half::f16;

/// Elements in a block.
const BLOCK: usize = 32;

/// Q4_0: scale `d`, 16 bytes of nibbles; `y = d · (q − 8)`, low nibbles first.
#[inline(always)]
pub(super) fn decode_q4_0(input: &[u8], values: &mut [f32]) {
    let blocks = input.as_chunks::<18>().0;
    for (&[d0, d1, ref nibbles @ ..], values) in blocks.iter().zip(blocks_mut(values)) {
        let d = half_to_f32([d0, d1]);
        for (i, &byte) in nibbles.iter().enumerate() {
            values[i] = f32::from((byte & 15) as i8 - 8) * d;
            values[i + BLOCK / 2] = f32::from((byte >> 4) as i8 - 8) * d;
        }
    }
}

/// Q4_1: scale `d`, minimum `m`, 16 bytes of nibbles; `y = d · q + m`, low nibbles first.
#[inline(always)]
pub(super) fn decode_q4_1(input: &[u8], values: &mut [f32]) {
    let blocks = input.as_chunks::<20>().0;
    for (&[d0, d1, m0, m1, ref nibbles @ ..], values) in blocks.iter().zip(blocks_mut(values)) {
        let (d, m) = (half_to_f32([d0, d1]), half_to_f32([m0, m1]));
        for (i, &byte) in nibbles.iter().enumerate() {
            values[i] = f32::from(byte & 15) * d + m;
            values[i + BLOCK / 2] = f32::from(byte >> 4) * d + m;
        }
    }
}

/// Q5_0: scale `d`, 32 high bits, 16 bytes of nibbles; `y = d · (q − 16)`, low nibbles first.
#[inline(always)]
pub(super) fn decode_q5_0(input: &[u8], values: &mut [f32]) {
    let blocks = input.as_chunks::<22>().0;
    for (&[d0, d1, h0, h1, h2, h3, ref nibbles @ ..], values) in
        blocks.iter().zip(blocks_mut(values))
    {
        let d = half_to_f32([d0, d1]);
        for (i, [low, high]) in five_bits([h0, h1, h2, h3], nibbles) {
            values[i] = f32::from(low as i8 - 16) * d;
            values[i + BLOCK / 2] = f32::from(high as i8 - 16) * d;
        }
    }
}

/// Q5_1: scale `d`, minimum `m`, 32 high bits, 16 bytes of nibbles; `y = d · q + m`.
#[inline(always)]
pub(super) fn decode_q5_1(input: &[u8], values: &mut [f32]) {
    let blocks = input.as_chunks::<24>().0;
    for (&[d0, d1, m0, m1, h0, h1, h2, h3, ref nibbles @ ..], values) in
        blocks.iter().zip(blocks_mut(values))
    {
        let (d, m) = (half_to_f32([d0, d1]), half_to_f32([m0, m1]));
        for (i, [low, high]) in five_bits([h0, h1, h2, h3], nibbles) {
            values[i] = f32::from(low) * d + m;
            values[i + BLOCK / 2] = f32::from(high) * d + m;
        }
    }
}

/// For each byte of `nibbles` its index and its two numbers, with their fifth bits from `high`.
#[inline(always)]
fn five_bits(high: [u8; 4], nibbles: &[u8; 16]) -> impl Iterator<Item = (usize, [u8; 2])> {
    let high = u32::from_le_bytes(high);
    nibbles.iter().enumerate().map(move |(i, &byte)| {
        let fifth = |bit: usize| ((high >> bit & 1) << 4) as u8;
        (i, [byte & 15 | fifth(i), byte >> 4 | fifth(i + BLOCK / 2)])
    })
}

/// The values that the four bits of IQ4_NL and IQ4_XS stand for.
pub(super) const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// IQ4_NL: scale `d`, 16 bytes of nibbles; `y = d · IQ4_VALUES[q]`, low nibbles first.
#[inline(always)]
pub(super) fn decode_iq4_nl(input: &[u8], values: &mut [f32]) {
    let blocks = input.as_chunks::<18>().0;
    for (&[d0, d1, ref nibbles @ ..], values) in blocks.iter().zip(blocks_mut(values)) {
        decode_iq4(half_to_f32([d0, d1]), nibbles, values);
    }
}

/// 32 elements from 16 bytes of nibbles, low nibbles first.
#[inline(always)]
pub(super) fn decode_iq4(d: f32, nibbles: &[u8; 16], values: &mut [f32; BLOCK]) {
    for (i, &byte) in nibbles.iter().enumerate() {
        values[i] = f32::from(IQ4_VALUES[usize::from(byte & 15)]) * d;
        values[i + BLOCK / 2] = f32::from(IQ4_VALUES[usize::from(byte >> 4)]) * d;
    }
}

/// Q8_0: scale `d`, 32 signed bytes; `y = d · q`.
#[inline(always)]
pub(super) fn decode_q8_0(input: &[u8], values: &mut [f32]) {
    let blocks = input.as_chunks::<34>().0;
    for (&[d0, d1, ref quants @ ..], values) in blocks.iter().zip(blocks_mut(values)) {
        let d = half_to_f32([d0, d1]);
        for (value, &quant) in values.iter_mut().zip(quants) {
            *value = f32::from(quant as i8) * d;
        }
    }
}

#[inline(always)]
fn blocks_mut(values: &mut [f32]) -> impl Iterator<Item = &mut [f32; BLOCK]> {
    values.as_chunks_mut().0.iter_mut()
}

#[inline(always)]
pub(super) fn half_to_f32(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(value: f32) -> [u8; 2] {
        f16::from_f32(value).to_le_bytes()
    }

    #[test]
    fn q4_0_is_centred_on_eight() {
        let mut block = half(0.5).to_vec();
        block.extend((0..16).map(|i| i | (15 - i) << 4));
        let mut values = [0.0; 32];
        decode_q4_0(&block, &mut values);
        for i in 0..16 {
            assert_eq!(values[i], (i as f32 - 8.0) * 0.5);
            assert_eq!(values[i + 16], (7.0 - i as f32) * 0.5);
        }
    }

    #[test]
    fn q4_1_adds_the_minimum() {
        let mut block = [half(0.25), half(-3.0)].concat();
        block.extend([0x21; 16]);
        let mut values = [0.0; 32];
        decode_q4_1(&block, &mut values);
        assert_eq!((values[0], values[31]), (-2.75, -2.5));
    }

    #[test]
    fn q8_0_scales_signed_bytes() {
        let mut block = half(2.0).to_vec();
        block.extend((0..32).map(|i| (i * 8 - 128) as i8 as u8));
        let mut values = [0.0; 32];
        decode_q8_0(&block, &mut values);
        assert_eq!((values[0], values[16], values[31]), (-256.0, 0.0, 240.0));
    }
}
