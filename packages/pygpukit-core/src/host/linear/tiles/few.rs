//! One block of tokens, as in decoding: as fast as the weights can be read.

use half::bf16;

use super::super::super::pool::ThreadPool;
use super::super::super::scratch;
use super::super::super::simd::amx::{COLUMNS, ROWS, TileRows, Tiles};
use super::super::super::simd::dispatch;
use super::super::super::view::View;
use super::super::Linear;
use super::pack::Packed;
use super::{Finish, rows};

/// What a thread reads at a time, if there is enough: longer than it takes to hand it a chunk.
const CHUNK_BYTES: usize = 384 << 10;

/// Computes the packed tokens, which are those from `first` on.
pub(super) fn run(linear: &Linear<bf16>, packed: Packed, first: usize) {
    let outputs = linear.epilogue.outputs();
    let width = linear.outputs_to_read(CHUNK_BYTES, ROWS);
    ThreadPool::global().run(outputs.div_ceil(width), |chunk| {
        let output = chunk * width;
        compute(linear, packed, first, output, width.min(outputs - output));
    });
}

/// Computes `outputs` outputs from `output` on.
fn compute(linear: &Linear<bf16>, packed: Packed, first: usize, output: usize, outputs: usize) {
    let parts = linear.epilogue.parts();
    let (tokens, columns) = (packed.tokens(), packed.columns());
    let mut sums = scratch::take(parts * tokens * outputs);
    // SAFETY: tiles are chosen only where there are any; no others live in this function.
    let tiles = unsafe { Tiles::new(columns) };
    let mut products = [0.0; ROWS * COLUMNS];
    for part in 0..parts {
        let row = part * linear.epilogue.outputs() + output;
        for_each_tile(&linear.weight, row, outputs, |tile, places| {
            // SAFETY: the tile has the inputs of all steps, the block a tile for each.
            unsafe { tiles.multiply(tile, packed.block(0), packed.steps(), &mut products) };
            for token in 0..tokens {
                let sums = &mut sums[(part * tokens + token) * outputs..][..outputs];
                for (place, products) in places.clone().zip(products.chunks_exact(columns)) {
                    sums[place] = match packed.terms() {
                        1 => products[token],
                        _ => products[token] + products[tokens + token],
                    };
                }
            }
        });
    }
    drop(tiles);
    let sums = View::over(&mut sums, parts * tokens, outputs);
    dispatch(Finish {
        epilogue: &linear.epilogue,
        token: first,
        tokens,
        output,
        outputs,
        sums,
        rows: tokens,
    });
}

/// Calls `body` with tiles of all `count` weight rows from `first` on, and with the places of a tile's
/// rows, counted from `first`.
///
/// The rows of a tile are far apart, so that each is the continuation of one of those before it: 16
/// streams that the CPU's prefetchers follow.
fn for_each_tile(
    weight: &View<bf16, 2>,
    first: usize,
    count: usize,
    mut body: impl FnMut(TileRows, std::iter::StepBy<std::ops::Range<usize>>),
) {
    let step = if rows::in_place(weight) { count / ROWS } else { 0 };
    for start in 0..step {
        body(rows::tile(weight, first + start, step), (start..step * ROWS).step_by(step));
    }
    for start in (step * ROWS..count).step_by(ROWS) {
        let end = count.min(start + ROWS);
        let mut copy = scratch::take(rows::copy_length(weight));
        let tile = rows::copied_tile(weight, first + start, end - start, &mut copy);
        body(tile, (start..end).step_by(1));
    }
}
