//! MXFP4 (OCP Microscaling Formats 1.0): 32 elements of E2M1 with a power of two (E8M0) for all.
//!
//! Results are exact in float32, and in bfloat16.

/// Elements that share a scale.
pub(crate) const BLOCK: usize = 32;

/// Twice what the four bits of an element stand for.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half the scale `2^(exponent - 127)`: of the largest exponent, too, which E8M0 has for NaN, as ggml
/// and transformers read it.
#[inline(always)]
fn half_scale(exponent: u8) -> f32 {
    let bits = match exponent {
        0 | 1 => 0x0020_0000 << exponent, // not normal
        _ => u32::from(exponent - 1) << 23,
    };
    f32::from_bits(bits)
}

/// Twice what the two elements of a byte stand for, that of the low bits first.
static PAIRS: [[f32; 2]; 256] = {
    let mut pairs = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [DOUBLED[byte & 15] as f32, DOUBLED[byte >> 4] as f32];
        byte += 1;
    }
    pairs
};

#[inline(always)]
fn pair(byte: u8, half_scale: f32) -> [f32; 2] {
    let [low, high] = PAIRS[usize::from(byte)];
    [low * half_scale, high * half_scale]
}

/// ggml's blocks: the scale, 16 bytes of nibbles, low nibbles first.
#[inline(always)]
pub(super) fn decode(input: &[u8], values: &mut [f32]) {
    let (blocks, values) = (input.as_chunks::<17>().0, values.as_chunks_mut::<BLOCK>().0);
    for (&[exponent, ref nibbles @ ..], values) in blocks.iter().zip(values) {
        let scale = half_scale(exponent);
        for (i, &byte) in nibbles.iter().enumerate() {
            [values[i], values[i + BLOCK / 2]] = pair(byte, scale);
        }
    }
}

/// Blocks as safetensors files have them: 16 bytes of each, of which one has two neighbours, the first
/// in its low bits; the scales are elsewhere.
pub(crate) fn decode_pairs(pairs: &[u8], exponents: &[u8], values: &mut [f32]) {
    let blocks = pairs.as_chunks::<{ BLOCK / 2 }>().0.iter().zip(exponents);
    for ((pairs, &exponent), values) in blocks.zip(values.as_chunks_mut::<BLOCK>().0) {
        let scale = half_scale(exponent);
        for (&byte, values) in pairs.iter().zip(values.as_chunks_mut::<2>().0) {
            *values = pair(byte, scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What E2M1 has for the bits without a sign.
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

    #[test]
    fn elements_are_those_of_the_format_times_the_scale() {
        for exponent in 0..=255u8 {
            let scale = 2f64.powi(i32::from(exponent) - 127);
            let bytes: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
            let (mut pairs, mut halves) = ([0.0; BLOCK], [0.0; BLOCK]);
            decode_pairs(&bytes, &[exponent], &mut pairs);
            decode(&[&[exponent], bytes.as_slice()].concat(), &mut halves);
            for bits in 0..16 {
                let magnitude = f64::from(MAGNITUDES[bits % 8]) * scale;
                let value = if bits < 8 { magnitude } else { -magnitude } as f32;
                assert_eq!([pairs[2 * bits], pairs[2 * (15 - bits) + 1]], [value; 2]);
                assert_eq!([halves[bits], halves[31 - bits]], [value; 2]);
            }
        }
    }
}
