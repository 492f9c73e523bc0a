//! ggml's block formats: 32 elements with a float16 scale, as ggml-common.h lays them out.
//!
//! The products are exact in float32 (at most 8 + 11 bits), so the only rounding is that of Q4_1's
//! addition, and results are ggml's bit for bit.

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
fn half_to_f32(bytes: [u8; 2]) -> f32 {
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
