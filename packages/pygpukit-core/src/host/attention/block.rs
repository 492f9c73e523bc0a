//! The work of one task: the queries of some tokens that share a key/value head.

// Loops over the rows and columns of a register block read best by index.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use half::bf16;

use super::super::activation::soft_capped;
use super::super::scratch;
use super::super::simd::{Element, Numbers, Simd, WithSimd, for_each_vector, math};
use super::super::view::View;
use super::partial::Partial;
use super::{Attention, CHUNK};

/// Rows (a token's query of one head) that are computed together, at most.
const BLOCK_ROWS: usize = 6;
/// Keys whose scores are computed together.
const BLOCK_KEYS: usize = 4;
/// Vectors of values that are summed together.
const BLOCK_VECTORS: usize = 4;

/// Consecutive tokens of one sequence.
pub(super) struct Block {
    pub(super) sequence: usize,
    pub(super) tokens: Range<usize>,
    /// The positions that any of them sees.
    pub(super) visible: Range<usize>,
}

impl Block {
    /// The chunks of positions that any token sees.
    pub(super) fn chunks(&self) -> Range<usize> {
        self.visible.start / CHUNK..self.visible.end.div_ceil(CHUNK)
    }

    /// The task that computes the block's results for a key/value head.
    pub(super) fn whole<'a, C>(
        &'a self,
        attention: &'a Attention<C>,
        kv_head: usize,
    ) -> Whole<'a, C> {
        Whole(Task { attention, block: self, kv_head })
    }

    /// The task that computes the partial results of `chunks` into `partials`, from row `first` on.
    pub(super) fn split<'a, C>(
        &'a self,
        attention: &'a Attention<C>,
        kv_head: usize,
        chunks: Range<usize>,
        partials: View<f32, 2>,
        first: usize,
    ) -> Split<'a, C> {
        Split { task: Task { attention, block: self, kv_head }, chunks, partials, first }
    }

    /// The task that merges what [`Block::split`]'s tasks have computed.
    pub(super) fn merge<'a, C>(
        &'a self,
        attention: &'a Attention<C>,
        kv_head: usize,
        partials: View<f32, 2>,
        first: usize,
    ) -> Merge<'a, C> {
        Merge { task: Task { attention, block: self, kv_head }, partials, first }
    }
}

/// A block and the key/value head that it is computed for.
struct Task<'a, C> {
    attention: &'a Attention<C>,
    block: &'a Block,
    kv_head: usize,
}

impl<C> Clone for Task<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Task<'_, C> {}

/// See [`Block::whole`].
pub(super) struct Whole<'a, C>(Task<'a, C>);

/// See [`Block::split`].
pub(super) struct Split<'a, C> {
    task: Task<'a, C>,
    chunks: Range<usize>,
    partials: View<f32, 2>,
    first: usize,
}

/// See [`Block::merge`].
pub(super) struct Merge<'a, C> {
    task: Task<'a, C>,
    partials: View<f32, 2>,
    first: usize,
}

impl<C: Cached> WithSimd for Whole<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let task = self.0;
        let (rows, size) = (task.rows(), Partial::size(task.attention.dim()));
        let mut buffer = scratch::take((rows + BLOCK_ROWS) * size);
        let partials = View::over(&mut buffer, rows + BLOCK_ROWS, size);
        let at = |row| task.partial(&partials, row);
        (0..rows).for_each(|row| at(row).clear());
        for chunk in task.block.chunks() {
            let keys = Keys::new(&task, chunk);
            for first in (0..rows).step_by(BLOCK_ROWS) {
                let count = BLOCK_ROWS.min(rows - first);
                let targets = std::array::from_fn(|row| at(rows + row));
                task.chunk(simd, &keys, first, count, targets);
                for row in 0..count {
                    at(first + row).merge(simd, at(rows + row));
                }
            }
        }
        for row in 0..rows {
            // SAFETY: the address has room for a head's values.
            unsafe { at(row).write(simd, task.out(row), task.sink(row)) };
        }
    }
}

impl<C: Cached> WithSimd for Split<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (task, rows) = (self.task, self.task.rows());
        for chunk in self.chunks.clone() {
            let keys = Keys::new(&task, chunk);
            let base = self.first + (chunk - task.block.chunks().start) * rows;
            for first in (0..rows).step_by(BLOCK_ROWS) {
                let count = BLOCK_ROWS.min(rows - first);
                let targets = std::array::from_fn(|row| {
                    task.partial(&self.partials, base + first + row.min(count - 1))
                });
                task.chunk(simd, &keys, first, count, targets);
            }
        }
    }
}

impl<C: Cached> WithSimd for Merge<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (task, rows) = (self.task, self.task.rows());
        let size = Partial::size(task.attention.dim());
        let mut buffer = scratch::take(size);
        let total = task.partial(&View::over(&mut buffer, 1, size), 0);
        for row in 0..rows {
            total.clear();
            for chunk in 0..task.block.chunks().len() {
                let next = task.partial(&self.partials, self.first + chunk * rows + row);
                total.merge(simd, next);
            }
            // SAFETY: the address has room for a head's values.
            unsafe { total.write(simd, task.out(row), task.sink(row)) };
        }
    }
}

/// Where the keys and values of a chunk's positions lie.
struct Keys<C> {
    /// The position of the first.
    start: usize,
    k: [*const C; CHUNK],
    v: [*const C; CHUNK],
}

/// A type that keys and values may have.
pub(super) trait Cached: Element {
    /// Stands in for keys and values that aren't there, so that whoever sees them gets NaN.
    const NOWHERE: &'static [Self; MAX_DIM];
}

impl Cached for f32 {
    const NOWHERE: &'static [f32; MAX_DIM] = &[f32::NAN; MAX_DIM];
}

impl Cached for bf16 {
    const NOWHERE: &'static [bf16; MAX_DIM] = &[bf16::NAN; MAX_DIM];
}

/// The longest head that there is a stand-in for.
pub(super) const MAX_DIM: usize = 1024;

impl<C: Cached> Keys<C> {
    #[inline(always)]
    fn new(task: &Task<'_, C>, chunk: usize) -> Keys<C> {
        let Task { attention, block, kv_head } = *task;
        let start = chunk * CHUNK;
        let nowhere = C::NOWHERE.as_ptr();
        let mut keys = Keys { start, k: [nowhere; CHUNK], v: [nowhere; CHUNK] };
        for position in start.max(block.visible.start)..(start + CHUNK).min(block.visible.end) {
            if let Some((page, row)) = attention.pages.find(block.sequence, position) {
                let index = [page, kv_head, row, 0];
                keys.k[position - start] = attention.k_cache.at(index);
                keys.v[position - start] = attention.v_cache.at(index);
            }
        }
        keys
    }
}

/// The scores of a few rows for the keys of a chunk, later their weights.
type Scores = [[f32; CHUNK]; BLOCK_ROWS];

impl<C: Cached> Task<'_, C> {
    /// Queries of the task: for each token, those of each head of the group.
    #[inline(always)]
    fn rows(&self) -> usize {
        self.block.tokens.len() * self.attention.group()
    }

    /// The token and head of a row.
    #[inline(always)]
    fn place(&self, row: usize) -> (usize, usize) {
        let group = self.attention.group();
        (self.block.tokens.start + row / group, self.kv_head * group + row % group)
    }

    /// Where the result of a row belongs.
    #[inline(always)]
    fn out(&self, row: usize) -> Numbers {
        let (token, head) = self.place(row);
        self.attention.out.at([token, head * self.attention.dim()])
    }

    /// The sink of a row's head; -∞ is none.
    #[inline(always)]
    fn sink(&self, row: usize) -> f32 {
        let head = self.place(row).1;
        self.attention.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks.get([head]))
    }

    #[inline(always)]
    fn partial(&self, partials: &View<f32, 2>, row: usize) -> Partial {
        // SAFETY: rows of `partials` have the size of a partial result, and each is one task's own
        // until the tasks have ended.
        unsafe { Partial::at(partials.row(row), self.attention.dim()) }
    }

    /// The keys of the chunk (counted within it) that a row sees.
    #[inline(always)]
    fn visible(&self, row: usize, chunk_start: usize) -> Range<usize> {
        let position = self.attention.position(self.place(row).0);
        let first = self.attention.first_visible(position).saturating_sub(chunk_start).min(CHUNK);
        first..(position + 1).saturating_sub(chunk_start).min(CHUNK).max(first)
    }

    /// The partial results of `count` rows from `first` on for the keys of one chunk.
    #[inline(always)]
    fn chunk<S: Simd>(
        &self,
        simd: S,
        keys: &Keys<C>,
        first: usize,
        count: usize,
        targets: [Partial; BLOCK_ROWS],
    ) {
        let mut visible: [Range<usize>; BLOCK_ROWS] = std::array::from_fn(|_| 0..0);
        let mut scores: Scores = [[f32::NEG_INFINITY; CHUNK]; BLOCK_ROWS];
        // What some row sees, and what all see.
        let (mut union, mut common) = (Range { start: CHUNK, end: 0 }, 0..CHUNK);
        for row in 0..count {
            let range = self.visible(first + row, keys.start);
            union = union.start.min(range.start)..union.end.max(range.end);
            common = common.start.max(range.start)..common.end.min(range.end);
            visible[row] = range;
        }
        self.scores(simd, keys, first, count, union, &mut scores);
        for row in 0..count {
            let range = visible[row].clone();
            scores[row][..range.start].fill(f32::NEG_INFINITY);
            scores[row][range.end..].fill(f32::NEG_INFINITY);
            targets[row].clear();
            if !range.is_empty() {
                let (largest, weight) = self.weigh(simd, &mut scores[row]);
                targets[row].set(largest, weight);
            }
        }
        // Keys that all rows see are read once for all, those before and after row by row.
        if common.is_empty() {
            for row in 0..count {
                sum_rows(simd, keys, &scores, row, 1, visible[row].clone(), &targets, self.dim());
            }
            return;
        }
        for row in 0..count {
            let before = visible[row].start..common.start;
            sum_rows(simd, keys, &scores, row, 1, before, &targets, self.dim());
        }
        sum_rows(simd, keys, &scores, 0, count, common.clone(), &targets, self.dim());
        for row in 0..count {
            let after = common.end..visible[row].end;
            sum_rows(simd, keys, &scores, row, 1, after, &targets, self.dim());
        }
    }

    #[inline(always)]
    fn dim(&self) -> usize {
        self.attention.dim()
    }

    /// Fills in `q · k` for the keys of `range`.
    #[inline(always)]
    fn scores<S: Simd>(
        &self,
        simd: S,
        keys: &Keys<C>,
        first: usize,
        count: usize,
        range: Range<usize>,
        scores: &mut Scores,
    ) {
        let mut converted = scratch::take(BLOCK_ROWS * self.dim());
        let converted = View::over(&mut converted, BLOCK_ROWS, self.dim());
        let mut queries = [std::ptr::null(); BLOCK_ROWS];
        for (row, query) in queries.iter_mut().enumerate().take(count) {
            let (token, head) = self.place(first + row);
            let numbers = self.attention.q.at([token, head, 0]);
            *query = numbers.as_f32().unwrap_or_else(|| {
                let target = converted.row(row);
                // SAFETY: both have `dim` numbers.
                unsafe { numbers.copy(simd, target.into(), self.dim()) };
                target
            });
        }
        let most = if S::MANY_REGISTERS { BLOCK_ROWS } else { BLOCK_ROWS / 2 };
        for row in (0..count).step_by(most) {
            let queries = &queries[row..];
            let scores = &mut scores[row..];
            match most.min(count - row) {
                1 => score_rows::<S, C, 1>(simd, queries, keys, range.clone(), scores, self.dim()),
                2 => score_rows::<S, C, 2>(simd, queries, keys, range.clone(), scores, self.dim()),
                3 => score_rows::<S, C, 3>(simd, queries, keys, range.clone(), scores, self.dim()),
                4 => score_rows::<S, C, 4>(simd, queries, keys, range.clone(), scores, self.dim()),
                5 => score_rows::<S, C, 5>(simd, queries, keys, range.clone(), scores, self.dim()),
                _ => score_rows::<S, C, 6>(simd, queries, keys, range.clone(), scores, self.dim()),
            }
        }
    }

    /// Turns scores into weights; returns the largest score and the sum of the weights.
    #[inline(always)]
    fn weigh<S: Simd>(&self, simd: S, scores: &mut [f32; CHUNK]) -> (f32, f32) {
        let scale = simd.splat(self.attention.scale);
        let mut largest = simd.splat(f32::NEG_INFINITY);
        for_each_vector!(S, CHUNK, |start, _count| {
            // SAFETY: `CHUNK` is a multiple of every vector length.
            unsafe {
                let address = scores.as_mut_ptr().add(start);
                let mut score = simd.mul(simd.load(address), scale);
                if self.attention.soft_cap > 0.0 {
                    let capped = soft_capped(simd, score, self.attention.soft_cap);
                    // Keys that aren't seen stay at -∞.
                    let lowest = simd.splat(f32::MIN);
                    score = simd.select_less(score, lowest, score, capped);
                }
                largest = simd.max(largest, score);
                simd.store(address, score);
            }
        });
        let largest = simd.largest(largest);
        let mut sum = simd.splat(0.0);
        for_each_vector!(S, CHUNK, |start, _count| {
            // SAFETY: as above.
            unsafe {
                let address = scores.as_mut_ptr().add(start);
                let weight = math::exp(simd, simd.sub(simd.load(address), simd.splat(largest)));
                sum = simd.add(sum, weight);
                simd.store(address, weight);
            }
        });
        (largest, simd.sum(sum))
    }
}

/// Fills in `q · k` of `M` rows for the keys of `range`.
#[inline(always)]
fn score_rows<S: Simd, C: Cached, const M: usize>(
    simd: S,
    queries: &[*const f32],
    keys: &Keys<C>,
    range: Range<usize>,
    scores: &mut [[f32; CHUNK]],
    dim: usize,
) {
    let queries: [*const f32; M] = std::array::from_fn(|row| queries[row]);
    let mut key = range.start;
    while key + BLOCK_KEYS <= range.end {
        let addresses: [*const C; BLOCK_KEYS] = std::array::from_fn(|n| keys.k[key + n]);
        // SAFETY: queries and keys have `dim` numbers.
        let block = unsafe { dots(simd, queries, addresses, dim) };
        for (scores, block) in scores.iter_mut().zip(block) {
            scores[key..key + BLOCK_KEYS].copy_from_slice(&block);
        }
        key += BLOCK_KEYS;
    }
    while key < range.end {
        // SAFETY: as above.
        let block = unsafe { dots(simd, queries, [keys.k[key]], dim) };
        for (scores, [value]) in scores.iter_mut().zip(block) {
            scores[key] = value;
        }
        key += 1;
    }
}

/// The dot products of `M` rows with `N` others.
///
/// # Safety
/// `length` numbers are readable at each address.
#[inline(always)]
unsafe fn dots<S: Simd, C: Cached, const M: usize, const N: usize>(
    simd: S,
    a: [*const f32; M],
    b: [*const C; N],
    length: usize,
) -> [[f32; N]; M] {
    let mut sums = [[simd.splat(0.0); N]; M];
    for_each_vector!(S, length, |start, count| {
        let mut right = [simd.splat(0.0); N];
        for n in 0..N {
            // SAFETY: the caller's contract.
            right[n] = unsafe { simd.load_some(b[n].add(start), count) };
        }
        for m in 0..M {
            // SAFETY: the caller's contract.
            let left = unsafe { simd.load_some(a[m].add(start), count) };
            for n in 0..N {
                sums[m][n] = simd.mul_add(left, right[n], sums[m][n]);
            }
        }
    });
    let mut result = [[0.0; N]; M];
    for m in 0..M {
        result[m] = simd.sums(sums[m]);
    }
    result
}

/// Adds the weighted values of the keys of `range`, one key after the other, to the sums of `count`
/// rows from `row` on.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn sum_rows<S: Simd, C: Cached>(
    simd: S,
    keys: &Keys<C>,
    weights: &Scores,
    row: usize,
    count: usize,
    range: Range<usize>,
    targets: &[Partial; BLOCK_ROWS],
    dim: usize,
) {
    if range.is_empty() {
        return;
    }
    let most = if S::MANY_REGISTERS { BLOCK_ROWS } else { BLOCK_ROWS / 2 };
    let end = row + count;
    for row in (row..end).step_by(most) {
        let (weights, targets) = (&weights[row..], &targets[row..]);
        let range = range.clone();
        match most.min(end - row) {
            1 => sum_block::<S, C, 1>(simd, keys, weights, range, targets, dim),
            2 => sum_block::<S, C, 2>(simd, keys, weights, range, targets, dim),
            3 => sum_block::<S, C, 3>(simd, keys, weights, range, targets, dim),
            4 => sum_block::<S, C, 4>(simd, keys, weights, range, targets, dim),
            5 => sum_block::<S, C, 5>(simd, keys, weights, range, targets, dim),
            _ => sum_block::<S, C, 6>(simd, keys, weights, range, targets, dim),
        }
    }
}

/// [`sum_rows`] of `M` rows.
#[inline(always)]
fn sum_block<S: Simd, C: Cached, const M: usize>(
    simd: S,
    keys: &Keys<C>,
    weights: &[[f32; CHUNK]],
    range: Range<usize>,
    targets: &[Partial],
    dim: usize,
) {
    let targets: [*mut f32; M] = std::array::from_fn(|row| targets[row].values);
    let mut first = 0;
    while first + BLOCK_VECTORS * S::LANES <= dim {
        // SAFETY: values and their sums have `dim` numbers, and these lie within them.
        unsafe {
            sum_columns::<S, C, M, BLOCK_VECTORS>(
                simd,
                keys,
                weights,
                range.clone(),
                targets,
                first,
                S::LANES,
            );
        }
        first += BLOCK_VECTORS * S::LANES;
    }
    while first < dim {
        let lanes = S::LANES.min(dim - first);
        // SAFETY: as above.
        unsafe {
            sum_columns::<S, C, M, 1>(simd, keys, weights, range.clone(), targets, first, lanes);
        }
        first += lanes;
    }
}

/// [`sum_rows`] of `M` rows and `N` vectors of values, of `lanes` numbers each, from `first` on.
///
/// # Safety
/// Those numbers are readable behind each key's value and writable behind each target.
#[inline(always)]
unsafe fn sum_columns<S: Simd, C: Cached, const M: usize, const N: usize>(
    simd: S,
    keys: &Keys<C>,
    weights: &[[f32; CHUNK]],
    range: Range<usize>,
    targets: [*mut f32; M],
    first: usize,
    lanes: usize,
) {
    let offset = |n: usize| first + n * S::LANES;
    let mut sums = [[simd.splat(0.0); N]; M];
    for m in 0..M {
        for n in 0..N {
            // SAFETY: the caller's contract.
            sums[m][n] = unsafe { simd.load_some(targets[m].add(offset(n)), lanes) };
        }
    }
    for key in range {
        let mut values = [simd.splat(0.0); N];
        for n in 0..N {
            // SAFETY: the caller's contract.
            values[n] = unsafe { simd.load_some(keys.v[key].add(offset(n)), lanes) };
        }
        for m in 0..M {
            let weight = simd.splat(weights[m][key]);
            for n in 0..N {
                sums[m][n] = simd.mul_add(weight, values[n], sums[m][n]);
            }
        }
    }
    for m in 0..M {
        for n in 0..N {
            // SAFETY: the caller's contract.
            unsafe { simd.store_some(targets[m].add(offset(n)), sums[m][n], lanes) };
        }
    }
}
