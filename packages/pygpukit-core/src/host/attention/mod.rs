//! Attention over a paged cache: grouped queries, causal by position, sliding window, soft cap.
//!
//! The keys that a query sees are taken in chunks of [`CHUNK`] positions, counted from position 0 on.
//! Each chunk gives the query a [`partial`] result (its largest score, the sum of the exponentials,
//! the weighted sum of the values), and the partial results are merged in order (Milakov & Gimelshein
//! 2018, arXiv:1805.02867). Prompts merge as they go; a few queries with long contexts compute the
//! partial results in parallel and merge afterwards: the bits are the same.

mod block;
mod partial;

use half::bf16;

use self::block::{Block, Cached, MAX_DIM};
use self::partial::Partial;
use super::HostKernel;
use super::pool::ThreadPool;
use super::rope::Pages;
use super::scratch;
use super::simd::{ACTIVATIONS, dispatch};
use super::view::{FloatView, View, check_layout, expect_same_dtype, expect_shape};
use crate::dispatch::{KernelArgs, LaunchError, Param, Signature};
use crate::dtype::DType;

/// Positions whose scores are taken together.
const CHUNK: usize = 64;
/// Tokens of one sequence that share the reading of keys and values, at most.
const BLOCK_TOKENS: usize = 32;
/// Tasks for each thread below which long contexts are split.
const TASKS_PER_THREAD: usize = 4;
/// Chunks that a task has, at least, where contexts are split.
const CHUNKS_PER_TASK: usize = 2;

const Q: usize = 0;
const K_CACHE: usize = 1;
const V_CACHE: usize = 2;
const BLOCK_TABLES: usize = 3;
const POSITIONS: usize = 4;
const SEQUENCES: usize = 5;
const OUT: usize = 6;
const SCALE: usize = 7;
const WINDOW: usize = 8;
const CAP: usize = 9;
const SINKS: usize = 10;
const ALONE: usize = 11;

fn check(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    check_layout(args)?;
    let (q, cache) = (&args.tensor(Q).shape, &args.tensor(K_CACHE).shape);
    let (tokens, heads, dim) = (q[0], q[1], q[2]);
    let (kv_heads, page_size) = (cache[1], cache[2]);
    if page_size == 0 || kv_heads == 0 || heads % kv_heads != 0 || cache[3] != dim {
        let reason = format!(
            "expected (pages, key/value heads that divide {heads}, page size, {dim}), found {cache:?}"
        );
        return Err(args.refuse(K_CACHE, reason));
    }
    if dim > MAX_DIM {
        return Err(args.refuse(Q, format!("expected heads of at most {MAX_DIM}, found {dim}")));
    }
    expect_shape(args, V_CACHE, cache)?;
    expect_same_dtype(args, &[K_CACHE, V_CACHE])?;
    expect_shape(args, POSITIONS, &[tokens])?;
    expect_shape(args, SEQUENCES, &[tokens])?;
    expect_shape(args, OUT, &[tokens, heads * dim])?;
    if args.optional(SINKS).is_some() {
        expect_shape(args, SINKS, &[heads])?;
    }
    for (index, value) in [(WINDOW, args.int(WINDOW) as f64), (CAP, args.float(CAP))] {
        if !(value >= 0.0 && value.is_finite()) {
            return Err(args.refuse(index, format!("expected 0 (off) or more, found {value}")));
        }
    }
    let alone = args.int(ALONE);
    if !(-1..=tokens as i64).contains(&alone) {
        let reason = format!("expected -1 to {tokens}, the number of tokens, found {alone}");
        return Err(args.refuse(ALONE, reason));
    }
    Ok(())
}

/// One launch, with a cache of elements of type `C`.
struct Attention<C> {
    q: FloatView<3>,
    k_cache: View<C, 4>,
    v_cache: View<C, 4>,
    pages: Pages,
    positions: View<i32, 1>,
    sequences: View<i32, 1>,
    out: FloatView<2>,
    scale: f32,
    /// Positions that a query sees, itself included.
    window: usize,
    /// Off where 0.
    soft_cap: f32,
    /// A score for each query head that belongs to no key.
    sinks: Option<View<f32, 1>>,
}

impl<C: Cached> Attention<C> {
    fn of(args: &KernelArgs<'_>) -> Attention<C> {
        let k_cache = View::<C, 4>::of(args.tensor(K_CACHE));
        let window = usize::try_from(args.int(WINDOW)).expect("checked before");
        Attention {
            q: FloatView::of(args.tensor(Q)),
            k_cache,
            v_cache: View::of(args.tensor(V_CACHE)),
            pages: Pages {
                tables: View::of(args.tensor(BLOCK_TABLES)),
                page_size: k_cache.length(2),
                pages: k_cache.length(0),
            },
            positions: View::of(args.tensor(POSITIONS)),
            sequences: View::of(args.tensor(SEQUENCES)),
            out: FloatView::of(args.tensor(OUT)),
            scale: args.float(SCALE) as f32,
            window: if window == 0 { usize::MAX } else { window },
            soft_cap: args.float(CAP) as f32,
            sinks: args.optional(SINKS).map(View::of),
        }
    }

    fn kv_heads(&self) -> usize {
        self.k_cache.length(1)
    }

    /// Query heads that share a key/value head.
    fn group(&self) -> usize {
        self.q.length(1) / self.kv_heads()
    }

    fn dim(&self) -> usize {
        self.q.length(2)
    }

    /// The position of `token`.
    fn position(&self, token: usize) -> usize {
        usize::try_from(self.positions.get([token])).expect("checked when the blocks were made")
    }

    /// The first position that a query at `position` sees.
    fn first_visible(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window)
    }

    /// Runs of tokens of one sequence, at most [`BLOCK_TOKENS`] long. Tokens of no sequence or
    /// position get NaN.
    fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        for token in 0..self.q.length(0) {
            let (sequence, position) = (self.sequences.get([token]), self.positions.get([token]));
            let Some((sequence, position)) = self.pages.place(sequence, position) else {
                self.out.fill_nan(token);
                continue;
            };
            let (first, end) = (self.first_visible(position), position + 1);
            match blocks.last_mut() {
                Some(block)
                    if block.sequence == sequence
                        && block.tokens.end == token
                        && block.tokens.len() < BLOCK_TOKENS =>
                {
                    block.tokens.end += 1;
                    block.visible.start = block.visible.start.min(first);
                    block.visible.end = block.visible.end.max(end);
                }
                _ => blocks.push(Block { sequence, tokens: token..token + 1, visible: first..end }),
            }
        }
        blocks
    }

    fn run(&self) {
        let pool = ThreadPool::global();
        let blocks = self.blocks();
        let tasks = blocks.len() * self.kv_heads();
        let most_chunks = blocks.iter().map(|block| block.chunks().len()).max().unwrap_or(0);
        let enough = TASKS_PER_THREAD * pool.threads();
        if pool.threads() == 1 || tasks >= enough || most_chunks < 2 * CHUNKS_PER_TASK {
            // The last blocks of a prompt see the most, so they come first.
            pool.run(tasks, |task| {
                let task = tasks - 1 - task;
                let block = &blocks[task / self.kv_heads()];
                dispatch(block.whole(self, task % self.kv_heads()));
            });
        } else {
            self.run_split(&blocks, most_chunks, enough.div_ceil(tasks));
        }
    }

    /// Computes the partial results of every chunk of every block in parallel, then merges them.
    fn run_split(&self, blocks: &[Block], most_chunks: usize, splits: usize) {
        let pool = ThreadPool::global();
        let kv_heads = self.kv_heads();
        let chunks_per_task = most_chunks.div_ceil(splits).max(CHUNKS_PER_TASK);
        let splits = most_chunks.div_ceil(chunks_per_task);
        let most_rows = BLOCK_TOKENS.min(self.q.length(0)) * self.group();
        let partials_per_block = most_chunks * most_rows;
        let size = Partial::size(self.dim());
        let partials = blocks.len() * kv_heads * partials_per_block;
        let mut buffer = scratch::take(partials * size);
        let partials = View::over(&mut buffer, partials, size);
        pool.run(blocks.len() * kv_heads * splits, |task| {
            let (pair, split) = (task / splits, task % splits);
            let block = &blocks[pair / kv_heads];
            let chunks = block.chunks();
            let from = chunks.start + split * chunks_per_task;
            let chunks = from..chunks.end.min(from + chunks_per_task);
            let first = pair * partials_per_block;
            dispatch(block.split(self, pair % kv_heads, chunks, partials, first));
        });
        pool.run_rows(blocks.len() * kv_heads, most_chunks * size, |pair| {
            let block = &blocks[pair / kv_heads];
            let first = pair * partials_per_block;
            dispatch(block.merge(self, pair % kv_heads, partials, first));
        });
    }
}

/// `attention(q (T,H,D), k_cache, v_cache (pages,KV,page_size,D), block_tables (S,P), positions (T,),
/// sequences (T,), out (T,H·D), scale, window, soft_cap, sinks)`: token `t` of sequence `s` sees positions
/// `max(0, p-window+1)` (0 without a window) to `p`, its own. Scores are `scale · q·k`, soft-capped
/// to `cap · tanh(score / cap)` where a cap is given. `sinks (H,)` are scores as they are that join the
/// softmax, one for each head, without a value of their own. NaN where a page isn't there.
pub(crate) const ATTENTION: HostKernel = HostKernel {
    signature: &Signature {
        name: "attention",
        params: &[
            Param::input("q", ACTIVATIONS, 3),
            Param::input("k_cache", ACTIVATIONS, 4),
            Param::input("v_cache", ACTIVATIONS, 4),
            Param::input("block_tables", &[DType::I32], 2),
            Param::input("positions", &[DType::I32], 1),
            Param::input("sequences", &[DType::I32], 1),
            Param::output("out", ACTIVATIONS, 2),
            Param::float("scale"),
            Param::int("window"),
            Param::float("soft_cap"),
            Param::optional("sinks", &[DType::F32], 1),
            // How many tokens at the front are the only ones of their sequences, -1 where that is to be
            // guessed: a GPU computes those otherwise, to the same bits.
            Param::int("alone"),
        ],
    },
    check,
    run: |args| match args.tensor(K_CACHE).dtype {
        DType::F32 => Attention::<f32>::of(args).run(),
        _ => Attention::<bf16>::of(args).run(),
    },
};
