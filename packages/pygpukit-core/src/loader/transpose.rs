//! Reading a matrix transposed, tile by tile so that both sides stay in the cache.

use super::layout::Layout;

/// Rows of a tile: what is written at once to a row of the result.
const TILE_ROWS: usize = 32;
/// Columns of a tile, a multiple of every type's block.
const TILE_COLUMNS: usize = 256;

/// Writes elements `start…` of the transpose of `inner`, a matrix of `rows` × `columns`.
///
/// Result row `c` is column `c` of `inner`; the elements asked for may begin and end in the middle of
/// a result row.
pub(super) fn read(inner: &Layout, rows: usize, columns: usize, start: usize, out: &mut [u8]) {
    match inner.dtype().block_bytes() {
        1 => read_sized::<1>(inner, rows, columns, start, out),
        2 => read_sized::<2>(inner, rows, columns, start, out),
        4 => read_sized::<4>(inner, rows, columns, start, out),
        8 => read_sized::<8>(inner, rows, columns, start, out),
        size => unreachable!("no plain type has elements of {size} bytes"),
    }
}

fn read_sized<const SIZE: usize>(
    inner: &Layout,
    rows: usize,
    columns: usize,
    start: usize,
    out: &mut [u8],
) {
    let out = out.as_chunks_mut::<SIZE>().0;
    if out.is_empty() {
        return;
    }
    let granularity = inner.granularity();
    let stop = start + out.len();
    let last_column = (stop - 1) / rows;
    let mut tile = [[0u8; SIZE]; TILE_ROWS * TILE_COLUMNS];
    // Columns are read from a whole block on; those before the first are left out below.
    let mut column = start / rows / granularity * granularity;
    while column <= last_column {
        let width =
            TILE_COLUMNS.min((last_column + 1).next_multiple_of(granularity).min(columns) - column);
        for first_row in (0..rows).step_by(TILE_ROWS) {
            let height = TILE_ROWS.min(rows - first_row);
            for (index, line) in tile.chunks_exact_mut(width).take(height).enumerate() {
                inner.read((first_row + index) * columns + column, line.as_flattened_mut());
            }
            for c in 0..width {
                // This tile's part of result row `column + c`, clipped to what was asked for.
                let from = (column + c) * rows + first_row;
                let (clip_start, clip_stop) = (from.max(start), (from + height).min(stop));
                if clip_start >= clip_stop {
                    continue;
                }
                let lines = tile[(clip_start - from) * width..].chunks_exact(width);
                let target = &mut out[clip_start - start..clip_stop - start];
                for (element, line) in target.iter_mut().zip(lines) {
                    *element = line[c];
                }
            }
        }
        column += width;
    }
}
