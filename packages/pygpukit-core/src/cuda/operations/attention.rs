//! `attention`: attention_decode.cu for tokens that stand alone, attention_wgmma.cu (on Hopper) or
//! attention_prefill.cu for prompts, attention_plain.cu for the rest. All but the last give the same bits.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::arguments::{
    CacheStrides, Pages, Reader, address, cache_map, entry, int, is_aligned, launch, stride,
};
use super::rope::AppendArgs;
use super::signature::{check_same_dtype, check_sizes, signature};
use crate::cuda::{CudaKernel, CudaLaunch, Plan};
use crate::device::Limits;
use crate::dispatch::{KernelArgs, TensorArg};
use crate::dtype::DType;
use crate::host;

/// Positions that are merged before others, `SPAN_KEYS` of common/attention.cuh.
const SPAN: usize = 256;
/// Query heads of a token that one block of attention_decode has, at most.
const DECODE_QUERIES: usize = 16;
/// Queries of a block of attention_prefill.
const PREFILL_QUERIES: usize = 64;
/// Queries of a block of attention_wgmma.
const WGMMA_QUERIES: usize = 128;
/// Positions of a chunk, `CHUNK_KEYS` of common/attention.cuh.
const CHUNK: usize = 64;
/// Blocks that any GPU with clusters runs as one.
const MOST_BLOCKS_OF_CLUSTER: usize = 8;
/// Tokens of a sequence above which they count as a prompt.
const PROMPT: usize = 4;

/// `AttentionArgs` of common/attention.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct AttentionArgs {
    pub(super) out: u64,
    spans: u64,
    pub(super) q: u64,
    pub(super) k_cache: u64,
    pub(super) v_cache: u64,
    pub(super) positions: u64,
    pub(super) sequences: u64,
    pages: Pages,
    k_strides: CacheStrides,
    v_strides: CacheStrides,
    pub(super) q_stride: i64,
    pub(super) q_head_stride: i64,
    out_stride: i64,
    pub(super) tokens: i32,
    pub(super) heads: i32,
    pub(super) kv_heads: i32,
    pub(super) dim: i32,
    window: i32,
    pub(super) most_spans: i32,
    scale: f32,
    soft_cap: f32,
}
const _: () = assert!(size_of::<AttentionArgs>() == 192);

impl AttentionArgs {
    /// Whether the rows of both caches' pages lie one after the other.
    pub(super) fn has_packed_rows(&self) -> bool {
        [self.k_strides, self.v_strides].iter().all(|strides| strides.are_packed(self.dim))
    }
}

/// `SinkArgs` of common/attention.cuh: what a launch of its own takes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct SinkArgs {
    pub(super) attention: AttentionArgs,
    pub(super) sinks: u64,
    pub(super) alone: i32,
    padding: i32,
}
const _: () = assert!(size_of::<SinkArgs>() == 208);

/// One operation.
struct Attention<'a> {
    q: &'a TensorArg,
    caches: [&'a TensorArg; 2],
    /// Where tokens stand: positions, sequences, block tables.
    place: [&'a TensorArg; 3],
    sequences: usize,
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    most_spans: usize,
    /// How many tokens at the front are the only ones of their sequences, where that is known.
    alone: Option<usize>,
    arguments: AttentionArgs,
    sinks: u64,
}

impl<'a> Attention<'a> {
    fn of(args: &'a KernelArgs<'a>) -> Attention<'a> {
        let mut next = Reader::new(args);
        let (q, k_cache, v_cache, tables) =
            (next.tensor(), next.tensor(), next.tensor(), next.tensor());
        let (positions, sequences, out) = (next.tensor(), next.tensor(), next.tensor());
        let [tokens, heads, dim] = [0, 1, 2].map(|axis| q.shape[axis]);
        let kv_heads = k_cache.shape[1];
        let most_spans = (tables.shape[1] * k_cache.shape[2]).div_ceil(SPAN);
        let arguments = AttentionArgs {
            out: address(out),
            spans: 0,
            q: address(q),
            k_cache: address(k_cache),
            v_cache: address(v_cache),
            positions: address(positions),
            sequences: address(sequences),
            pages: Pages::of(tables, k_cache),
            k_strides: CacheStrides::of(k_cache),
            v_strides: CacheStrides::of(v_cache),
            q_stride: stride(q, 0),
            q_head_stride: stride(q, 1),
            out_stride: stride(out, 0),
            tokens: int(tokens),
            heads: int(heads),
            kv_heads: int(kv_heads),
            dim: int(dim),
            scale: next.float(),
            window: next.int(),
            most_spans: int(most_spans),
            soft_cap: next.float(),
        };
        let sinks = address(next.optional());
        let alone = usize::try_from(next.int()).ok();
        let (caches, sequence_count) = ([k_cache, v_cache], tables.shape[0]);
        Attention {
            q,
            caches,
            place: [positions, sequences, tables],
            sequences: sequence_count,
            tokens,
            heads,
            kv_heads,
            dim,
            most_spans,
            alone,
            arguments,
            sinks,
        }
    }

    /// The part of some of the tokens.
    fn part(&self, tokens: Range<usize>) -> Attention<'a> {
        let at = |address: u64, stride: i64, bytes: usize| {
            address + (tokens.start * stride as usize * bytes) as u64
        };
        let all = &self.arguments;
        let element = self.q.dtype.nbytes(1).expect("a whole number of bytes");
        let arguments = AttentionArgs {
            out: at(all.out, all.out_stride, element),
            q: at(all.q, all.q_stride, element),
            positions: at(all.positions, 1, size_of::<i32>()),
            sequences: at(all.sequences, 1, size_of::<i32>()),
            tokens: int(tokens.len()),
            ..*all
        };
        Attention { tokens: tokens.len(), arguments, ..*self }
    }

    /// What a kernel takes.
    fn parameters(&self) -> SinkArgs {
        let alone = i32::from(self.alone.is_some_and(|alone| alone >= self.tokens));
        SinkArgs { attention: self.arguments, sinks: self.sinks, alone, padding: 0 }
    }

    /// Query heads that share a key/value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Whether each chunk of positions lies in one page.
    fn has_whole_chunks(&self) -> bool {
        self.caches[0].shape[2].is_multiple_of(CHUNK)
    }

    /// The head size that the tensor-core kernels round this one up to, if they take it: they copy 16
    /// bytes at a time.
    fn padded_dim(&self) -> Option<usize> {
        let fits = self.q.dtype != DType::F32
            && self.dim.is_multiple_of(8)
            && [self.q, self.caches[0], self.caches[1]].into_iter().all(is_aligned);
        [64, 128, 256].into_iter().find(|&padded| fits && self.dim <= padded)
    }

    fn plan(self, plan: &mut Plan) {
        let Some(padded) = self.padded_dim() else { return self.plain(plan) };
        let prefill_bytes = 640 * padded;
        let fits = prefill_bytes <= plan.limits().shared_bytes_per_block as usize;
        let alone = match self.alone {
            _ if !fits => self.tokens,
            Some(alone) => alone,
            None if self.tokens <= PROMPT * self.sequences => self.tokens,
            None => 0,
        };
        if alone > 0 {
            self.part(0..alone).decode(plan, padded);
        }
        if alone < self.tokens {
            let prompts = self.part(alone..self.tokens);
            match prompts.wgmma(plan.limits(), padded) {
                Some(launch) => plan.launch(launch),
                None => prompts.prefill(plan, padded, prefill_bytes),
            }
        }
    }

    /// The kernel for Hopper's tensor cores, if this is one and pages hold whole chunks.
    fn wgmma(&self, limits: &Limits, padded: usize) -> Option<CudaLaunch> {
        const STAGES: usize = 2;
        let [k_cache, v_cache] = self.caches;
        // It writes results in pairs.
        let paired = self.arguments.out.is_multiple_of(4) && self.arguments.out_stride % 2 == 0;
        let takes = limits.is_hopper() && padded <= 128 && self.has_whole_chunks() && paired;
        if !takes || k_cache.shape[0] == 0 {
            return None;
        }
        let function = match padded {
            64 => entry!("attention_wgmma_64", self.q.dtype),
            _ => entry!("attention_wgmma_128", self.q.dtype),
        };
        let grid = [(self.tokens * self.group()).div_ceil(WGMMA_QUERIES), self.kv_heads, 1];
        let shared = 1024 + (768 + 512 * STAGES) * padded + 40 * STAGES;
        let launch = launch("attention_wgmma", function, grid, 384, shared, self.parameters());
        let (keys, values) = (cache_map(k_cache), cache_map(v_cache));
        let parameters = launch.parameters.tensor_map(keys).tensor_map(values);
        Some(CudaLaunch { parameters, ..launch })
    }

    fn plain(&self, plan: &mut Plan) {
        let function = entry!("attention_plain", self.q.dtype);
        let grid = [self.tokens, self.heads, 1];
        plan.launch(launch(
            "attention_plain",
            function,
            grid,
            128,
            8 * self.dim,
            self.parameters(),
        ));
    }

    fn prefill(&self, plan: &mut Plan, padded: usize, shared: usize) {
        let function = match padded {
            64 => entry!("attention_prefill_64", self.q.dtype),
            128 => entry!("attention_prefill_128", self.q.dtype),
            _ => entry!("attention_prefill_256", self.q.dtype),
        };
        let grid = [(self.tokens * self.group()).div_ceil(PREFILL_QUERIES), self.kv_heads, 1];
        plan.launch(launch("attention_prefill", function, grid, 128, shared, self.parameters()));
    }

    fn decode(mut self, plan: &mut Plan, padded: usize) {
        let results = self.tokens * self.heads * self.most_spans;
        self.arguments.spans = plan.scratch(4 * results * (self.dim + 2)).addr() as u64;
        let shares = self.tokens * self.kv_heads * self.group().div_ceil(DECODE_QUERIES);
        let in_pieces = !self.has_whole_chunks();
        let shape = DecodeShape::choose(padded, self.group(), shares, in_pieces, plan.limits());
        let DecodeShape { warps, shared } = shape;
        let function = match (padded, warps) {
            (64, _) if in_pieces => entry!("attention_decode_pieces_64_4", self.q.dtype),
            (128, _) if in_pieces => entry!("attention_decode_pieces_128_2", self.q.dtype),
            (_, _) if in_pieces => entry!("attention_decode_pieces_256_1", self.q.dtype),
            (64, 4) => entry!("attention_decode_64_4", self.q.dtype),
            (64, _) => entry!("attention_decode_64_2", self.q.dtype),
            (128, 4) => entry!("attention_decode_128_4", self.q.dtype),
            (128, _) => entry!("attention_decode_128_2", self.q.dtype),
            (_, 2) => entry!("attention_decode_256_2", self.q.dtype),
            _ => entry!("attention_decode_256_1", self.q.dtype),
        };
        let splits = (shape.blocks(plan.limits()) / shares.max(1)).clamp(1, self.most_spans.max(1));
        let grid = [self.tokens, shares / self.tokens, splits];
        let name = "attention_decode";
        let launched = launch(name, function, grid, 32 * warps, shared, self.parameters());
        let parameters = launched.parameters.value(AppendArgs::zeroed());
        let reads_early = self.place.map(TensorArg::addresses).to_vec();
        // Where there are more, those of a cluster wait for room together longer than a launch takes.
        let few = shares * splits <= 2 * plan.limits().sm_count as usize;
        let merges = few && splits <= MOST_BLOCKS_OF_CLUSTER && plan.limits().is_hopper();
        let cluster = [1, 1, if merges { splits as u32 } else { 1 }];
        plan.launch(CudaLaunch { parameters, reads_early, cluster, ..launched });
        if splits > 1 && !merges {
            let function = entry!("attention_decode_merge", self.q.dtype);
            let grid = [self.tokens, self.heads, 1];
            plan.launch(launch(name, function, grid, 128, 0, self.parameters()));
        }
    }
}

/// Warps of a block of attention_decode, and the shared memory that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DecodeShape {
    warps: usize,
    shared: usize,
}

impl DecodeShape {
    /// The shape whose blocks have done `shares` first, where one of half as many warps takes twice as
    /// long: where that is equal the smaller, of which more are at different points of their work.
    /// Enough of the large ones run at a time where heads are small. There are only the small ones where
    /// pages hold chunks in pieces.
    fn choose(
        padded: usize,
        group: usize,
        shares: usize,
        in_pieces: bool,
        limits: &Limits,
    ) -> DecodeShape {
        let room = if group > 8 { 16 } else { 8 };
        let shape = |warps| DecodeShape {
            warps,
            shared: 2 * room * padded
                + warps * 256 * padded
                + 16 * group.min(DECODE_QUERIES) * (padded + 10),
        };
        let (large, small) = match padded {
            64 if in_pieces => return shape(4),
            64 => (shape(4), shape(2)),
            128 => (shape(4), shape(2)),
            _ => (shape(2), shape(1)),
        };
        let rounds = |shape: DecodeShape| shares.div_ceil(shape.blocks(limits));
        let fits = !in_pieces && large.shared <= limits.shared_bytes_per_block as usize;
        if fits && rounds(large) < 2 * rounds(small) { large } else { small }
    }

    /// Blocks that run at a time.
    fn blocks(self, limits: &Limits) -> usize {
        limits.sm_count as usize * limits.blocks_per_sm(self.shared).max(1)
    }
}

pub(super) const ATTENTION: CudaKernel = CudaKernel {
    signature: signature!(host::ATTENTION, &["q", "k_cache", "v_cache", "out"]),
    check: |args| {
        (host::ATTENTION.check)(args)?;
        check_sizes(args)?;
        check_same_dtype(args, &["q", "k_cache", "v_cache", "out"])
    },
    plan: |args, plan| Attention::of(args).plan(plan),
};
