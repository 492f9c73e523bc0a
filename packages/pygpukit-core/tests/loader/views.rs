//! What views give, against arithmetic done element by element.

use half::{bf16, f16};
use proptest::prelude::*;
use pygpukit_core::DType;
use pygpukit_core::loader::{LoadError, TensorView};

use crate::files::{Gguf, assert_message, load, safetensors};

/// A float32 matrix whose elements are all different.
fn matrix(rows: usize, columns: usize) -> TensorView {
    let data: Vec<u8> =
        (0..rows * columns).flat_map(|i| (i as f32 * 0.37 - 5.0).to_le_bytes()).collect();
    let header = format!(
        r#"{{"x":{{"dtype":"F32","shape":[{rows},{columns}],"data_offsets":[0,{}]}}}}"#,
        data.len()
    );
    load(safetensors(&header, &data)).unwrap().get("x").unwrap().clone()
}

/// A matrix of Q4_1 blocks of random-looking content.
fn quantized(rows: usize, blocks: usize) -> TensorView {
    let data: Vec<u8> = (0..rows * blocks)
        .flat_map(|block| {
            let scale = f16::from_f32(0.01 * (block % 7) as f32 + 0.003).to_le_bytes();
            let minimum = f16::from_f32(-0.1 * (block % 5) as f32).to_le_bytes();
            let nibbles: Vec<u8> = (0..16).map(|i| (block * 31 + i * 17) as u8).collect();
            [&scale[..], &minimum, &nibbles].concat()
        })
        .collect();
    let dims = [blocks as u64 * 32, rows as u64];
    let file = Gguf::new().tensor("x", &dims, 3, 0).data(data).build();
    load(file).unwrap().get("x").unwrap().clone()
}

fn floats(view: &TensorView) -> Vec<f32> {
    assert_eq!(view.dtype().unwrap(), DType::F32);
    view.to_vec().unwrap().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// Reads a view's source in pieces of about `piece` bytes, last one first.
fn in_pieces(view: &TensorView, piece: usize) -> Vec<u8> {
    let source = view.source();
    let piece = piece.next_multiple_of(source.granularity()).max(source.granularity());
    let mut bytes = vec![0; source.nbytes()];
    let pieces: Vec<_> = bytes.chunks_mut(piece).enumerate().collect();
    for (index, out) in pieces.into_iter().rev() {
        source.read(index * piece, out).unwrap();
    }
    bytes
}

#[test]
fn slices_are_pieces_of_the_file() {
    let view = matrix(6, 5);
    let slice = view.slice(2, 4).unwrap();
    assert_eq!(slice.shape(), [2, 5]);
    assert_eq!(slice.bytes().unwrap(), &view.bytes().unwrap()[2 * 20..4 * 20]);
    assert_eq!(slice.byte_range().start, view.byte_range().start + 40);
    assert_eq!(slice.slice(1, 2).unwrap().bytes(), view.slice(3, 4).unwrap().bytes());
    assert_eq!(view.slice(6, 6).unwrap().nbytes(), 0);
}

#[test]
fn converted_views_have_no_bytes_in_the_file() {
    let view = matrix(2, 3);
    assert!(view.cast(DType::F32).unwrap().bytes().is_some());
    assert!(view.cast(DType::BF16).unwrap().bytes().is_none());
    assert!(view.transpose().unwrap().bytes().is_none());
    assert!(view.transpose().unwrap().transpose().unwrap().bytes().is_some());
    assert!(view.reshape(&[3, 2]).unwrap().bytes().is_some());
}

#[test]
fn casts_round_to_nearest_even() {
    let view = matrix(40, 70).cast(DType::BF16).unwrap();
    let expected: Vec<u8> = floats(&matrix(40, 70))
        .iter()
        .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
        .collect();
    assert_eq!(view.to_vec().unwrap(), expected);
    assert_eq!(view.nbytes(), expected.len());
}

/// The dot product order of a GGUF llama's q and k: pairs of rotary halves interleaved.
#[test]
fn permuted_rows_come_in_the_order_of_the_indices() {
    let view = matrix(6, 4);
    let indices = [0, 3, 1, 4, 2, 5, 5];
    let permuted = floats(&view.permute_rows(&indices).unwrap());
    let original = floats(&view);
    for (row, index) in indices.into_iter().enumerate() {
        assert_eq!(permuted[row * 4..][..4], original[index * 4..][..4]);
    }
}

#[test]
fn views_that_make_no_sense_are_refused() {
    let (view, blocks) = (matrix(2, 3), quantized(2, 1));
    let cube = view.reshape(&[1, 2, 3]).unwrap();
    let flat = blocks.reshape(&[64]).unwrap();
    for (refused, text) in [
        (view.slice(1, 3), "no rows 1..3, the first dimension is 2"),
        (view.slice(2, 1), "no rows 2..1"),
        (view.reshape(&[]).and_then(|view| view.slice(0, 1)), "6 elements"),
        (view.reshape(&[4, 2]), "6 elements can't be reshaped to [4, 2]"),
        (view.reshape(&[usize::MAX, 2]), "overflows"),
        (view.permute_rows(&[0, 2]), "no row 2"),
        (cube.transpose(), "only a matrix"),
        (blocks.transpose(), "cast to a floating-point type first"),
        (blocks.reshape(&[4, 16]), "whole blocks of 32"),
        (flat.slice(16, 48), "whole blocks of 32"),
        (flat.cast(DType::F32).unwrap().slice(16, 48), "whole blocks of 32"),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, LoadError::InvalidView { .. }));
        assert_message(&error, &["file.safetensors", "\"x\"", text]);
    }
    for to in [DType::I32, DType::Q4_1, DType::F8E4M3] {
        let error = view.cast(to).unwrap_err();
        assert!(matches!(error, LoadError::InvalidCast { .. }));
        assert_message(&error, &["float32", to.name()]);
    }
}

#[test]
fn release_leaves_the_elements_readable() {
    let view = matrix(100, 200);
    let before = view.to_vec().unwrap();
    view.release();
    view.source().release();
    assert_eq!(view.to_vec().unwrap(), before);
}

proptest! {
    /// However a chain of steps is read, its elements are those of the steps taken one by one.
    #[test]
    fn chains_of_steps_give_what_the_steps_give(
        rows in 1usize..70,
        blocks in 1usize..12,
        start in 0.0f64..1.0,
        len in 0.0f64..1.0,
        seed in any::<u64>(),
        piece in 1usize..5000,
        cast_last: bool,
    ) {
        let view = quantized(rows, blocks);
        let columns = blocks * 32;
        let values = floats(&view.cast(DType::F32).unwrap());
        let indices: Vec<usize> =
            (0..rows).map(|row| (seed.wrapping_mul(row as u64 + 7) % rows as u64) as usize).collect();
        let from = (start * columns as f64) as usize;
        let to = from + (len * (columns - from) as f64) as usize;

        let cast = |view: TensorView, now: bool| if now { view.cast(DType::BF16).unwrap() } else { view };
        let permuted = cast(view.permute_rows(&indices).unwrap(), !cast_last);
        let floating = if cast_last { permuted.cast(DType::F32).unwrap() } else { permuted };
        let transposed = floating.transpose().unwrap().slice(from, to).unwrap();
        let result = cast(transposed, cast_last);

        let mut expected = Vec::new();
        for column in from..to {
            for &row in &indices {
                expected.extend(bf16::from_f32(values[row * columns + column]).to_le_bytes());
            }
        }
        prop_assert_eq!(result.shape(), [to - from, rows]);
        prop_assert_eq!(&in_pieces(&result, piece), &expected);
        prop_assert_eq!(result.to_vec().unwrap(), expected);
    }

    /// Rows of a permuted, dequantised matrix are what the same rows of the whole are.
    #[test]
    fn slices_and_permutations_commute_with_casts(rows in 1usize..20, blocks in 1usize..40, piece in 1usize..9000) {
        let view = quantized(rows, blocks);
        let indices: Vec<usize> = (0..rows).rev().collect();
        let whole = view.cast(DType::F16).unwrap().permute_rows(&indices).unwrap();
        let middle = rows / 2;
        let slice = view.permute_rows(&indices).unwrap().slice(middle, rows).unwrap();
        let bytes = whole.to_vec().unwrap();
        let row_bytes = blocks * 32 * 2;
        prop_assert_eq!(&in_pieces(&whole, piece), &bytes);
        prop_assert_eq!(slice.cast(DType::F16).unwrap().to_vec().unwrap(), &bytes[middle * row_bytes..]);
    }
}
