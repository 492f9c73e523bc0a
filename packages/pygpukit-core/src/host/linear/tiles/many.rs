//! Many tokens, as in prompts: weights and activations are used again and again from the caches.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::super::super::pool::ThreadPool;
use super::super::super::scratch;
use super::super::super::simd::amx::{COLUMNS, ROWS, TileRows, Tiles};
use super::super::super::simd::avx512::transpose;
use super::super::super::simd::dispatch;
use super::super::super::view::View;
use super::super::Linear;
use super::pack::Packed;
use super::{Finish, rows};

/// Tiles of weight rows of a chunk.
const TILES: usize = 6;
/// Packed activations of a chunk, at most: they share a level 2 cache with the weights.
const CHUNK_BYTES: usize = 5 << 18;
const LINE_BYTES: usize = 64;
/// Chunks for each thread, at least, if there are enough tokens.
const CHUNKS_PER_THREAD: usize = 3;

/// Computes the `count` packed tokens, which are those from `first` on.
pub(super) fn run(linear: &Linear<bf16>, packed: Packed, first: usize, count: usize) {
    let plan = Plan::new(linear, packed, first, count);
    ThreadPool::global().run_looking_ahead(plan.chunks(), |chunk, next| {
        plan.chunk(chunk).run(next.map(|next| plan.chunk(next)));
    });
}

/// How the work is cut into chunks: panels of outputs, of which all are computed for some tokens
/// before they are for others.
struct Plan<'a> {
    linear: &'a Linear<bf16>,
    packed: Packed,
    first: usize,
    count: usize,
    /// Outputs of a panel.
    width: usize,
    panels: usize,
    pairs_per_chunk: usize,
}

impl Plan<'_> {
    fn new(linear: &Linear<bf16>, packed: Packed, first: usize, count: usize) -> Plan<'_> {
        let width = TILES * ROWS / linear.epilogue.parts();
        let panels = linear.epilogue.outputs().div_ceil(width);
        let pairs = packed.blocks() / 2;
        let bytes = packed.steps() * ROWS * COLUMNS * size_of::<u32>() * packed.blocks();
        let chunks = CHUNKS_PER_THREAD * ThreadPool::global().threads();
        let splits = bytes.div_ceil(CHUNK_BYTES).max(chunks.div_ceil(panels.max(1))).min(pairs);
        let pairs_per_chunk = pairs.div_ceil(splits);
        Plan { linear, packed, first, count, width, panels, pairs_per_chunk }
    }

    fn chunks(&self) -> usize {
        self.panels * (self.packed.blocks() / 2).div_ceil(self.pairs_per_chunk)
    }

    fn chunk(&self, index: usize) -> Chunk<'_> {
        let pair = index / self.panels * self.pairs_per_chunk;
        let output = index % self.panels * self.width;
        Chunk {
            linear: self.linear,
            packed: self.packed,
            pairs: pair..(self.packed.blocks() / 2).min(pair + self.pairs_per_chunk),
            first: self.first,
            count: self.count,
            output,
            outputs: self.width.min(self.linear.epilogue.outputs() - output),
        }
    }
}

struct Chunk<'a> {
    linear: &'a Linear<bf16>,
    packed: Packed,
    pairs: Range<usize>,
    first: usize,
    count: usize,
    output: usize,
    outputs: usize,
}

/// Sums of two tiles of weight rows with two blocks.
type Products = [[[f32; ROWS * COLUMNS]; 2]; 2];

impl Chunk<'_> {
    /// Computes the chunk, and has the weights of the next one fetched meanwhile.
    fn run(self, next: Option<Chunk<'_>>) {
        let parts = self.linear.epilogue.parts();
        let width = self.outputs.next_multiple_of(ROWS);
        let copies = if self.is_in_place() { 0 } else { TILES };
        let copy_length = rows::copy_length(&self.linear.weight);
        let mut copies = scratch::take(copies * copy_length);
        let tiles_of_rows = self.tiles(&mut copies);
        let mut sums = scratch::take(parts * self.pair_tokens() * width);
        let sums = View::over(&mut sums, parts * self.pair_tokens(), width);
        // SAFETY: tiles are chosen only where there are any; no others live in this function.
        let tiles = unsafe { Tiles::new(COLUMNS) };
        for (index, pair) in self.pairs.clone().enumerate() {
            if let Some(next) = &next {
                next.prefetch(index, self.pairs.len());
            }
            self.multiply(&tiles, &tiles_of_rows, pair, &sums);
            self.finish(pair, sums);
        }
    }

    /// Tokens whose products are computed together: those of two blocks.
    fn pair_tokens(&self) -> usize {
        2 * self.packed.tokens()
    }

    /// Fetches a share of the weights into the level 2 cache.
    fn prefetch(&self, share: usize, shares: usize) {
        let weight = &self.linear.weight;
        for part in 0..self.linear.epilogue.parts() {
            let first = part * self.linear.epilogue.outputs() + self.output;
            for row in self.outputs * share / shares..self.outputs * (share + 1) / shares {
                let row = weight.row(first + row).cast_const().cast::<i8>();
                for byte in (0..weight.length(1) * size_of::<bf16>()).step_by(LINE_BYTES) {
                    // SAFETY: a prefetch neither faults nor changes anything.
                    unsafe { _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(byte)) };
                }
            }
        }
    }

    fn is_in_place(&self) -> bool {
        self.outputs.is_multiple_of(ROWS) && rows::in_place(&self.linear.weight)
    }

    /// Pairs of tiles of weight rows: two after one another, or where gated gate rows and others.
    fn tiles(&self, copies: &mut [f32]) -> Vec<[TileRows; 2]> {
        let weight = &self.linear.weight;
        let mut copies = copies.chunks_exact_mut(rows::copy_length(weight));
        let mut tile = |part: usize, start: usize| {
            let row = part * self.linear.epilogue.outputs() + self.output + start;
            match copies.next() {
                Some(copy) => rows::copied_tile(weight, row, ROWS.min(self.outputs - start), copy),
                None => rows::tile(weight, row, 1),
            }
        };
        let step = ROWS * 2 / self.linear.epilogue.parts();
        (0..self.outputs)
            .step_by(step)
            .map(|start| match self.linear.epilogue.gated {
                true => [tile(0, start), tile(1, start)],
                false if start + ROWS < self.outputs => [tile(0, start), tile(0, start + ROWS)],
                false => [tile(0, start); 2],
            })
            .collect()
    }

    /// Fills in the sums of a pair of blocks.
    fn multiply(
        &self,
        tiles: &Tiles,
        tiles_of_rows: &[[TileRows; 2]],
        pair: usize,
        sums: &View<f32, 2>,
    ) {
        let blocks = [2 * pair, 2 * pair + 1].map(|block| self.packed.block(block));
        let mut products: Products = [[[0.0; ROWS * COLUMNS]; 2]; 2];
        for (index, rows) in tiles_of_rows.iter().enumerate() {
            // SAFETY: the tiles have the inputs of all steps, the blocks a tile for each.
            unsafe { tiles.multiply_block(*rows, blocks, self.packed.steps(), &mut products) };
            for (half, products) in products.iter().enumerate() {
                let (part, column) = match self.linear.epilogue.gated {
                    true => (half, index * ROWS),
                    false => (0, (2 * index + half) * ROWS),
                };
                if column < self.outputs {
                    let row = part * self.pair_tokens();
                    // SAFETY: as above.
                    unsafe {
                        match self.packed.terms() {
                            1 => unpack(products, sums, row, column),
                            _ => unpack_added(products, sums, row, column),
                        }
                    }
                }
            }
        }
    }

    fn finish(&self, pair: usize, sums: View<f32, 2>) {
        let token = pair * self.pair_tokens();
        dispatch(Finish {
            epilogue: &self.linear.epilogue,
            token: self.first + token,
            tokens: self.pair_tokens().min(self.count - token),
            output: self.output,
            outputs: self.outputs,
            sums,
            rows: self.pair_tokens(),
        });
    }
}

/// Writes the sums of each block's tokens to rows of `sums` from `row` on, from `column` on.
#[target_feature(enable = "avx512f")]
fn unpack(products: &[[f32; ROWS * COLUMNS]; 2], sums: &View<f32, 2>, row: usize, column: usize) {
    for (block, products) in products.iter().enumerate() {
        let rows = std::array::from_fn(|index| {
            // SAFETY: a row of a tile has `COLUMNS` numbers.
            unsafe { _mm512_loadu_si512(products[index * COLUMNS..].as_ptr().cast()) }
        });
        store(transpose(rows), sums, row + block * COLUMNS, column);
    }
}

/// [`unpack`] where a token's sum is that of the sums of its two terms.
#[target_feature(enable = "avx512f")]
fn unpack_added(
    products: &[[f32; ROWS * COLUMNS]; 2],
    sums: &View<f32, 2>,
    row: usize,
    column: usize,
) {
    let rows = std::array::from_fn(|index| {
        // SAFETY: a row of a tile has `COLUMNS` numbers.
        let [first, second] = [0, 1]
            .map(|block| unsafe { _mm512_loadu_ps(products[block][index * COLUMNS..].as_ptr()) });
        // The lanes of each: 8 tokens' first terms, then their second ones.
        let high = _mm512_shuffle_f32x4::<0x44>(first, second);
        let low = _mm512_shuffle_f32x4::<0xEE>(first, second);
        _mm512_castps_si512(_mm512_add_ps(high, low))
    });
    store(transpose(rows), sums, row, column);
}

/// Writes the outputs of 16 tokens to rows of `sums` from `row` on, from `column` on.
#[target_feature(enable = "avx512f")]
fn store(tokens: [__m512i; ROWS], sums: &View<f32, 2>, row: usize, column: usize) {
    assert!(column + ROWS <= sums.length(1));
    for (token, outputs) in tokens.into_iter().enumerate() {
        // SAFETY: `ROWS` numbers from `column` on are within the row, as asserted.
        unsafe { _mm512_storeu_si512(sums.at([row + token, column]).cast(), outputs) };
    }
}
