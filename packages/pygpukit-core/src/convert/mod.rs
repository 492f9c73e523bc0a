//! Conversion of elements: between floating-point types, and from quantised blocks.
//!
//! Every conversion goes through float32 (float64 where the source is that), in chunks that stay in
//! the first-level cache: a decoder for each source type and an encoder for each target type, rather
//! than a routine for each pair. Rounding is to nearest, ties to even, and never done twice.

mod float;
mod kquant;
mod mxfp4;
mod quant;

use crate::dtype::DType;
pub(crate) use float::float8_e4m3_to_f32;
pub(crate) use mxfp4::{BLOCK as MXFP4_BLOCK, decode_pairs};

/// Elements that are converted at a time: a multiple of every type's block.
pub(crate) const CHUNK: usize = 1024;

/// Whether elements of type `from` can be converted to type `to`.
pub const fn supports(from: DType, to: DType) -> bool {
    let readable = from.is_quantized()
        || matches!(
            from,
            DType::F64 | DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 | DType::F8E5M2
        );
    readable && matches!(to, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
}

/// The elements in `input` as type `to`.
///
/// # Panics
/// Unless [`supports`] says yes and `input` is a whole number of blocks.
pub fn convert(from: DType, to: DType, input: &[u8]) -> Vec<u8> {
    assert!(supports(from, to), "no conversion from {from} to {to}");
    assert!(input.len().is_multiple_of(from.block_bytes()), "{from} elements cut in pieces");
    let chunk_bytes = |dtype: DType| CHUNK / dtype.block_elements() * dtype.block_bytes();
    let elements = input.len() / from.block_bytes() * from.block_elements();
    let mut output = vec![0; elements * to.block_bytes()];
    let chunks = input.chunks(chunk_bytes(from)).zip(output.chunks_mut(chunk_bytes(to)));
    for (input, output) in chunks {
        convert_chunk(from, to, input, output);
    }
    output
}

/// Converts the elements in `input`, at most [`CHUNK`] of them, into `output`.
///
/// `supports(from, to)` must hold, and `output` be as long as the elements of `input` take.
pub(crate) fn convert_chunk(from: DType, to: DType, input: &[u8], output: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the processor has the features that the function is compiled for.
            return unsafe { convert_avx512(from, to, input, output) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { convert_avx2(from, to, input, output) };
        }
    }
    convert_portable(from, to, input, output);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn convert_avx512(from: DType, to: DType, input: &[u8], output: &mut [u8]) {
    convert_portable(from, to, input, output);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn convert_avx2(from: DType, to: DType, input: &[u8], output: &mut [u8]) {
    convert_portable(from, to, input, output);
}

/// The one body behind every variant: plain loops that the compiler vectorises for each.
#[inline(always)]
fn convert_portable(from: DType, to: DType, input: &[u8], output: &mut [u8]) {
    let elements = input.len() / from.block_bytes() * from.block_elements();
    assert!(elements <= CHUNK && to.nbytes(elements) == Some(output.len()));
    if from == DType::F64 {
        return float::encode_f64(to, input, output);
    }
    let mut values = [0.0f32; CHUNK];
    let values = &mut values[..elements];
    match from {
        DType::Q4_0 => quant::decode_q4_0(input, values),
        DType::Q4_1 => quant::decode_q4_1(input, values),
        DType::Q5_0 => quant::decode_q5_0(input, values),
        DType::Q5_1 => quant::decode_q5_1(input, values),
        DType::Q8_0 => quant::decode_q8_0(input, values),
        DType::IQ4NL => quant::decode_iq4_nl(input, values),
        DType::Q2K => kquant::decode_q2_k(input, values),
        DType::Q3K => kquant::decode_q3_k(input, values),
        DType::Q4K => kquant::decode_q4_k(input, values),
        DType::Q5K => kquant::decode_q5_k(input, values),
        DType::Q6K => kquant::decode_q6_k(input, values),
        DType::IQ4XS => kquant::decode_iq4_xs(input, values),
        DType::MXFP4 => mxfp4::decode(input, values),
        _ => float::decode(from, input, values),
    }
    float::encode(to, values, output);
}
