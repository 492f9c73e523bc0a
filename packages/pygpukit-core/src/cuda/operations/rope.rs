//! `rope_angles` and `append_kv`: rope.cu.

use bytemuck::{NoUninit, Pod, Zeroable};

use super::arguments::{
    CacheStrides, Norm, Pages, Reader, address, entry, int, is_aligned, launch, stride,
};
use super::attention::AttentionArgs;
use super::signature::{check_same_dtype, check_sizes, signature};
use crate::cuda::{CudaKernel, CudaLaunch};
use crate::device::Limits;
use crate::dispatch::TensorArg;
use crate::dtype::DType;
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
    /// Whether a thread can have eight elements of a head and those that they are paired with.
    fn is_paired(&self, dtype: DType) -> bool {
        let angles_are_aligned = self.angles.is_multiple_of(16) && self.angles_stride % 4 == 0;
        dtype != DType::F32
            && [self.q_norm.kind, self.k_norm.kind, self.interleaved] == [0; 3]
            && [self.dim, self.rotated].iter().all(|length| length % 16 == 0)
            && (1..=16 * THREADS).contains(&(self.dim as usize))
            && angles_are_aligned
    }

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

/// Blocks in x and y: for each token `most`, one of all that its heads can have, or fewer, which take
/// several, where so many don't run at a time.
fn append_grid(tokens: usize, most: usize, limits: &Limits) -> [usize; 3] {
    const BLOCKS_PER_SM: usize = 16;
    let at_a_time = limits.sm_count as usize * BLOCKS_PER_SM;
    [tokens, most.min(at_a_time.div_ceil(tokens.max(1))), 1]
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
        let tensors = [qkv, k_cache, v_cache, out];
        let paired = arguments.is_paired(qkv.dtype) && tensors.into_iter().all(is_aligned);
        let (function, at_once, shared) = match qkv.dtype {
            DType::F16 if paired => ("rope_append_kv_paired_f16", 16 * THREADS / dim, 0),
            DType::BF16 if paired => ("rope_append_kv_paired_bf16", 16 * THREADS / dim, 0),
            dtype => (entry!("rope_append_kv", dtype), WARPS, 8 * WARPS * dim),
        };
        let blocks = (out.shape[1] + 2 * kv_heads).div_ceil(at_once);
        let grid = append_grid(qkv.shape[0], blocks, plan.limits());
        let launch = launch("rope", function, grid, THREADS, shared, arguments);
        // The caches where attention does this on the way, see append.rs.
        let early = [positions, sequences, tables, k_cache, v_cache];
        let reads_early = early.map(TensorArg::addresses).to_vec();
        plan.launch(CudaLaunch { reads_early, ..launch });
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::operations::tests::{H100, plan, tensor_at};
    use crate::dispatch::ArgValue;

    const HEADS: usize = 32;
    const KV_HEADS: usize = 8;

    /// What is launched for so many tokens with heads of `dim`.
    fn launch(tokens: usize, dim: usize, normed: bool, dtype: DType) -> CudaLaunch {
        let tensor = |shape: &[usize], dtype| ArgValue::Tensor(tensor_at(0x1000, shape, dtype));
        let cache = || tensor(&[64, KV_HEADS, 64, dim], dtype);
        let norm = |kind| {
            let [none, zero] = [ArgValue::None, ArgValue::Float(0.0)];
            [ArgValue::Int(kind), none.clone(), none, zero.clone(), zero]
        };
        let mut values = vec![tensor(&[tokens, (HEADS + 2 * KV_HEADS) * dim], dtype)];
        values.push(tensor(&[tokens, 2, dim / 2], DType::F32));
        values.extend([tensor(&[tokens], DType::I32), tensor(&[tokens], DType::I32)]);
        values.extend([tensor(&[1, 64], DType::I32), cache(), cache()]);
        values.extend(norm(i64::from(normed)));
        values.extend(norm(0));
        values.push(tensor(&[tokens, HEADS, dim], dtype));
        values.extend([ArgValue::Int(HEADS as i64), ArgValue::Int(0)]);
        let [launch] = plan("append_kv", &values, H100).unwrap().try_into().unwrap();
        launch
    }

    #[test]
    fn threads_have_pairs_of_eight_elements_where_they_can() {
        let function = |dim, normed, dtype| launch(1, dim, normed, dtype).function;
        assert_eq!(function(128, false, DType::BF16), "rope_append_kv_paired_bf16");
        assert_eq!(function(128, true, DType::F16), "rope_append_kv_f16");
        assert_eq!(function(128, false, DType::F32), "rope_append_kv_f32");
        assert_eq!(function(72, false, DType::F16), "rope_append_kv_f16");
    }

    #[test]
    fn blocks_take_several_heads_where_there_are_many_tokens() {
        let grid = |tokens, normed| launch(tokens, 128, normed, DType::BF16).grid;
        assert_eq!(grid(1, false), [1, 3, 1]);
        assert_eq!(grid(1, true), [1, 12, 1]);
        assert_eq!(grid(512, true), [512, 5, 1]);
        assert_eq!(grid(4096, true), [4096, 1, 1]);
    }
}
