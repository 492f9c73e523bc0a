//! ggml's blocks of 256 elements, which have a scale (and a minimum) for each 16 or 32 of them: the
//! "k-quants" and IQ4_XS, as ggml-common.h lays them out and ggml-quants.c decodes them.
//!
//! Operations are ggml's in ggml's order, so results are its own bit for bit.

// The positions of bits and bytes read best by index.
#![allow(clippy::needless_range_loop)]

use super::quant::{decode_iq4, half_to_f32};

/// Elements in a block.
const BLOCK: usize = 256;

/// Pairs of a block of `BYTES` bytes and the elements that it stands for.
#[inline(always)]
fn blocks<'a, const BYTES: usize>(
    input: &'a [u8],
    values: &'a mut [f32],
) -> impl Iterator<Item = (&'a [u8; BYTES], &'a mut [f32; BLOCK])> {
    input.as_chunks().0.iter().zip(values.as_chunks_mut().0.iter_mut())
}

#[inline(always)]
fn half(block: &[u8], at: usize) -> f32 {
    half_to_f32([block[at], block[at + 1]])
}

/// Q2_K: 16 bytes with a scale and a minimum of 4 bits each, 64 bytes of 2-bit numbers, `d`, `dmin`;
/// `y = d · scale · q − dmin · minimum` for each 16.
#[inline(always)]
pub(super) fn decode_q2_k(input: &[u8], values: &mut [f32]) {
    for (block, values) in blocks::<84>(input, values) {
        let (scales, quants) = (&block[..16], &block[16..80]);
        let (d, dmin) = (half(block, 80), half(block, 82));
        for group in 0..16 {
            let scale = d * f32::from(scales[group] & 15);
            let minimum = dmin * f32::from(scales[group] >> 4);
            let (bytes, shift) = two_bit_group(group);
            for i in 0..16 {
                let quant = quants[bytes + i] >> shift & 3;
                values[16 * group + i] = scale * f32::from(quant) - minimum;
            }
        }
    }
}

/// Where the 2-bit numbers of the 16 elements from `16 · group` on lie: the first byte, and the bit.
///
/// Each 32 bytes hold 128 elements, 32 for each pair of bits.
#[inline(always)]
fn two_bit_group(group: usize) -> (usize, usize) {
    (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2)
}

/// Q3_K: 32 bytes of third bits, 64 bytes of the two lower ones, 16 scales of 6 bits in 12 bytes,
/// `d`; `y = d · (scale − 32) · (q − 4)` for each 16.
#[inline(always)]
pub(super) fn decode_q3_k(input: &[u8], values: &mut [f32]) {
    for (block, values) in blocks::<110>(input, values) {
        let (high, quants, scales) = (&block[..32], &block[32..96], &block[96..108]);
        let d = half(block, 108);
        for group in 0..16 {
            let low = scales[group % 8] >> (group / 8 * 4) & 15;
            let top = scales[8 + group % 4] >> (group / 4 * 2) & 3;
            let scale = d * f32::from((low | top << 4) as i8 - 32);
            let (bytes, shift) = two_bit_group(group);
            for i in 0..16 {
                let quant = quants[bytes + i] >> shift & 3;
                let third = high[group % 2 * 16 + i] >> (group / 2) & 1;
                values[16 * group + i] = scale * f32::from((quant | third << 2) as i8 - 4);
            }
        }
    }
}

/// Scale and minimum of the 32 elements from `32 · group` on: 6 bits each, in 12 bytes (ggml's
/// `get_scale_min_k4`).
#[inline(always)]
fn scale_and_minimum(scales: &[u8], group: usize) -> [f32; 2] {
    let [scale, minimum] = match group {
        0..4 => [scales[group] & 63, scales[group + 4] & 63],
        _ => [
            scales[group + 4] & 15 | scales[group - 4] >> 6 << 4,
            scales[group + 4] >> 4 | scales[group] >> 6 << 4,
        ],
    };
    [f32::from(scale), f32::from(minimum)]
}

/// Q4_K: `d`, `dmin`, 12 bytes of scales and minima, 128 bytes of nibbles; `y = d · scale · q −
/// dmin · minimum` for each 32.
#[inline(always)]
pub(super) fn decode_q4_k(input: &[u8], values: &mut [f32]) {
    for (block, values) in blocks::<144>(input, values) {
        let (d, dmin) = (half(block, 0), half(block, 2));
        for group in 0..8 {
            let [scale, minimum] = scale_and_minimum(&block[4..16], group);
            let (scale, minimum) = (d * scale, dmin * minimum);
            for i in 0..32 {
                let quant = block[16 + group / 2 * 32 + i] >> (group % 2 * 4) & 15;
                values[32 * group + i] = scale * f32::from(quant) - minimum;
            }
        }
    }
}

/// Q5_K: as Q4_K, with 32 bytes of fifth bits before the nibbles.
#[inline(always)]
pub(super) fn decode_q5_k(input: &[u8], values: &mut [f32]) {
    for (block, values) in blocks::<176>(input, values) {
        let (d, dmin) = (half(block, 0), half(block, 2));
        for group in 0..8 {
            let [scale, minimum] = scale_and_minimum(&block[4..16], group);
            let (scale, minimum) = (d * scale, dmin * minimum);
            for i in 0..32 {
                let low = block[48 + group / 2 * 32 + i] >> (group % 2 * 4) & 15;
                let fifth = block[16 + i] >> group & 1;
                values[32 * group + i] = scale * f32::from(low | fifth << 4) - minimum;
            }
        }
    }
}

/// Q6_K: 128 bytes of the lower four bits, 64 of the upper two, 16 scales of 8 bits, `d`;
/// `y = d · scale · (q − 32)` for each 16.
#[inline(always)]
pub(super) fn decode_q6_k(input: &[u8], values: &mut [f32]) {
    for (block, values) in blocks::<210>(input, values) {
        let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
        let d = half(block, 208);
        for group in 0..8 {
            // Each half of a block: four times 32 elements, in two columns of nibbles.
            let (part, quarter) = (group / 4, group % 4);
            for i in 0..32 {
                let nibble = low[64 * part + quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
                let top = high[32 * part + i] >> (2 * quarter) & 3;
                let scale = d * f32::from(scales[2 * group + i / 16] as i8);
                values[32 * group + i] = scale * f32::from((nibble | top << 4) as i8 - 32);
            }
        }
    }
}

/// IQ4_XS: `d`, the upper two and the lower four bits of eight scales, 128 bytes of nibbles; as
/// IQ4_NL with `d · (scale − 32)` for each 32.
#[inline(always)]
pub(super) fn decode_iq4_xs(input: &[u8], values: &mut [f32]) {
    for (block, values) in blocks::<136>(input, values) {
        let (d, upper) = (half(block, 0), u16::from_le_bytes([block[2], block[3]]));
        let (lower, quants) = (&block[4..8], block[8..].as_chunks().0);
        for (group, values) in values.as_chunks_mut().0.iter_mut().enumerate() {
            let low = lower[group / 2] >> (group % 2 * 4) & 15;
            let top = (upper >> (2 * group) & 3) as u8;
            decode_iq4(d * f32::from((low | top << 4) as i8 - 32), &quants[group], values);
        }
    }
}
