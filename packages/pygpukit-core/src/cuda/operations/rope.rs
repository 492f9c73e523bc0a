//! `rope_angles` and `append_kv`: rope.cu.

use bytemuck::{NoUninit, Pod, Zeroable};

use super::arguments::{CacheStrides, Norm, Pages, Reader, address, entry, int, launch, stride};
use super::attention::AttentionArgs;
use super::signature::{check_same_dtype, check_sizes, signature};
use crate::cuda::{CudaKernel, CudaLaunch};
use crate::dispatch::TensorArg;
use crate::host;

const THREADS: usize = 128;
const WARPS: usize = THREADS / 32;

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct AnglesArgs {
    out: u64,
    positions: u64,
    inv_freq: u64,
    tokens: i32,
    count: i32,
    scale: f32,
    padding: i32,
}
const _: () = assert!(size_of::<AnglesArgs>() == 40);

pub(super) const ROPE_ANGLES: CudaKernel = CudaKernel {
    signature: host::ROPE_ANGLES.signature,
    check: |args| {
        (host::ROPE_ANGLES.check)(args)?;
        check_sizes(args)?;
        let out = args.tensor(2);
        if !out.is_contiguous() {
            let reason = format!("expected no gaps, found strides {:?}", out.strides);
            return Err(args.refuse(2, reason));
        }
        Ok(())
    },
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let (positions, inv_freq, out) = (next.tensor(), next.tensor(), next.tensor());
        let (tokens, count) = (positions.shape[0], inv_freq.shape[0]);
        let arguments = AnglesArgs {
            out: address(out),
            positions: address(positions),
            inv_freq: address(inv_freq),
            tokens: int(tokens),
            count: int(count),
            scale: next.float(),
            padding: 0,
        };
        let blocks = (tokens * count).div_ceil(THREADS);
        plan.launch(launch("rope", "rope_angles", [blocks, 1, 1], THREADS, 0, arguments));
    },
};

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct AppendArgs {
    pub(super) out: u64,
    pub(super) qkv: u64,
    angles: u64,
    pub(super) positions: u64,
    pub(super) sequences: u64,
    k_cache: u64,
    v_cache: u64,
    pages: Pages,
    k_strides: CacheStrides,
    v_strides: CacheStrides,
    q_norm: Norm,
    k_norm: Norm,
    qkv_stride: i64,
    out_stride: i64,
    pub(super) out_head_stride: i64,
    angles_stride: i64,
    pub(super) heads: i32,
    pub(super) kv_heads: i32,
    pub(super) dim: i32,
    rotated: i32,
    interleaved: i32,
    padding: i32,
}
const _: () = assert!(size_of::<AppendArgs>() == 288);

impl AppendArgs {
    /// Whether it is this attention's queries that it writes, and its tokens that it appends.
    pub(super) fn is_of(&self, attention: &AttentionArgs) -> bool {
        (self.out, self.out_stride, self.out_head_stride)
            == (attention.q, attention.q_stride, attention.q_head_stride)
            && (self.heads, self.kv_heads, self.dim)
                == (attention.heads, attention.kv_heads, attention.dim)
            && (self.positions, self.sequences) == (attention.positions, attention.sequences)
            && (self.k_cache, self.v_cache) == (attention.k_cache, attention.v_cache)
    }
}

pub(super) const APPEND_KV: CudaKernel = CudaKernel {
    signature: signature!(host::APPEND_KV, &["qkv", "k_cache", "v_cache", "out"]),
    check: |args| {
        (host::APPEND_KV.check)(args)?;
        check_sizes(args)?;
        check_same_dtype(args, &["qkv", "k_cache", "v_cache", "out"])?;
        if let Some(angles) = args.optional(1)
            && angles.strides[1] != angles.shape[2]
        {
            let reason =
                format!("expected sines behind cosines, found strides {:?}", angles.strides);
            return Err(args.refuse(1, reason));
        }
        Ok(())
    },
    plan: |args, plan| {
        let mut next = Reader::new(args);
        let (qkv, angles) = (next.tensor(), next.optional());
        let (positions, sequences, tables) = (next.tensor(), next.tensor(), next.tensor());
        let (k_cache, v_cache) = (next.tensor(), next.tensor());
        let (q_norm, k_norm) = (next.norm(), next.norm());
        let out = next.tensor();
        let (heads, interleaved) = (next.int(), next.int());
        let (kv_heads, dim) = (k_cache.shape[1], k_cache.shape[3]);
        let arguments = AppendArgs {
            out: address(out),
            qkv: address(qkv),
            angles: address(angles),
            positions: address(positions),
            sequences: address(sequences),
            k_cache: address(k_cache),
            v_cache: address(v_cache),
            pages: Pages::of(tables, k_cache),
            k_strides: CacheStrides::of(k_cache),
            v_strides: CacheStrides::of(v_cache),
            q_norm,
            k_norm,
            qkv_stride: stride(qkv, 0),
            out_stride: stride(out, 0),
            out_head_stride: stride(out, 1),
            angles_stride: stride(angles, 0),
            heads,
            kv_heads: int(kv_heads),
            dim: int(dim),
            rotated: angles.map_or(0, |angles| 2 * int(angles.shape[2])),
            interleaved: i32::from(interleaved != 0),
            padding: 0,
        };
        let warps = out.shape[1] + 2 * kv_heads;
        let grid = [qkv.shape[0], warps.div_ceil(WARPS), 1];
        let function = entry!("rope_append_kv", qkv.dtype);
        let launch = launch("rope", function, grid, THREADS, 8 * WARPS * dim, arguments);
        // The caches where attention does this on the way, see append.rs.
        let early = [positions, sequences, tables, k_cache, v_cache];
        let reads_early = early.map(TensorArg::addresses).to_vec();
        plan.launch(CudaLaunch { reads_early, ..launch });
    },
};
