//! Weight rows as tiles.

use half::bf16;

use super::super::super::simd::amx::{DEPTH, ROWS, TileRows};
use super::super::super::view::View;

/// Whether tiles can be read where the weights lie, for all their inputs.
pub(super) fn in_place(weight: &View<bf16, 2>) -> bool {
    weight.length(1).is_multiple_of(DEPTH)
}

/// The tile of [`ROWS`] rows from `first` on, `step` rows from one to the next, where they lie.
pub(super) fn tile(weight: &View<bf16, 2>, first: usize, step: usize) -> TileRows {
    assert!(first + (ROWS - 1) * step < weight.length(0));
    TileRows {
        data: weight.row(first).cast_const().cast(),
        stride: step * weight.row_stride() * size_of::<bf16>(),
    }
}

/// Numbers of scratch that a copied tile takes.
pub(super) fn copy_length(weight: &View<bf16, 2>) -> usize {
    ROWS * weight.length(1).next_multiple_of(DEPTH) / 2
}

/// The tile of `count` rows from `first` on, copied to `target` and filled up with zeros.
pub(super) fn copied_tile(
    weight: &View<bf16, 2>,
    first: usize,
    count: usize,
    target: &mut [f32],
) -> TileRows {
    assert!(count <= ROWS && target.len() == copy_length(weight));
    target.fill(0.0);
    let stride = target.len() / ROWS * size_of::<f32>();
    let data = target.as_mut_ptr().cast::<u8>();
    let inputs = weight.length(1);
    for row in 0..count {
        // SAFETY: a row of the copy is as long as a weight row or longer.
        unsafe {
            let target = data.add(row * stride).cast::<bf16>();
            target.copy_from_nonoverlapping(weight.row(first + row), inputs);
        }
    }
    TileRows { data, stride }
}
