//! What is planned, without a GPU.

use crate::cuda::{CudaKernel, CudaLaunch, Plan, kernels};
use crate::device::{Device, Limits};
use crate::dispatch::{ArgValue, KernelArgs, LaunchError, ParamKind, TensorArg};
use crate::dtype::DType;
use crate::host;
use crate::memory::MemoryPool;

use super::super::scratch::Scratch;

pub(super) const H100: Limits = Limits {
    capability: (9, 0),
    sm_count: 132,
    shared_bytes_per_block: 227 << 10,
    shared_bytes_per_sm: 228 << 10,
    l2_bytes: 50 << 20,
};
const A100: Limits = Limits {
    capability: (8, 0),
    sm_count: 108,
    shared_bytes_per_block: 163 << 10,
    shared_bytes_per_sm: 164 << 10,
    l2_bytes: 40 << 20,
};
/// GeForce RTX 4090.
const ADA: Limits = Limits {
    capability: (8, 9),
    sm_count: 128,
    shared_bytes_per_block: 99 << 10,
    shared_bytes_per_sm: 100 << 10,
    l2_bytes: 72 << 20,
};

fn find(name: &str) -> &'static CudaKernel {
    kernels().iter().find(|kernel| kernel.signature.name == name).unwrap()
}

/// A row-major tensor at `address`.
pub(super) fn tensor_at(address: usize, shape: &[usize], dtype: DType) -> TensorArg {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    let data = std::ptr::without_provenance_mut(address);
    TensorArg { data, dtype, shape: shape.to_vec(), strides }
}

/// A row-major tensor at some address.
fn tensor(shape: &[usize], dtype: DType) -> ArgValue {
    ArgValue::Tensor(tensor_at(0x1000, shape, dtype))
}

/// What an operation launches.
pub(super) fn plan(
    name: &str,
    values: &[ArgValue],
    limits: Limits,
) -> Result<Vec<CudaLaunch>, LaunchError> {
    let kernel = find(name);
    let args = KernelArgs::new(kernel.signature, values)?;
    (kernel.check)(&args)?;
    let mut plan = Plan::new(limits, Scratch::new(&MemoryPool::new(Device::Cpu, None)));
    (kernel.plan)(&args, &mut plan);
    Ok(plan.finish().unwrap().0)
}

fn functions(launches: &[CudaLaunch]) -> Vec<&'static str> {
    launches.iter().map(|launch| launch.function).collect()
}

struct Linear {
    rows: usize,
    n: usize,
    k: usize,
    gated: bool,
    norm: bool,
    types: [DType; 3],
}

impl Linear {
    fn of(rows: usize, n: usize, k: usize, dtype: DType) -> Linear {
        Linear { rows, n, k, gated: false, norm: false, types: [dtype; 3] }
    }

    fn plan(&self, limits: Limits) -> Result<Vec<CudaLaunch>, LaunchError> {
        let [x, weight, out] = self.types;
        let weight_rows = if self.gated { 2 * self.n } else { self.n };
        let mut values = vec![
            tensor(&[self.rows, self.k], x),
            tensor(&[weight_rows, self.k], weight),
            ArgValue::None,
            ArgValue::Int(i64::from(self.norm)),
        ];
        values.extend([
            ArgValue::None,
            ArgValue::None,
            ArgValue::Float(1e-5),
            ArgValue::Float(0.0),
        ]);
        values.extend([ArgValue::None, tensor(&[self.rows, self.n], out)]);
        values.extend([
            ArgValue::Int(1),
            ArgValue::Int(i64::from(self.gated)),
            ArgValue::Float(1.0),
        ]);
        plan("linear", &values, limits)
    }
}

#[test]
fn every_operation_is_that_of_the_host() {
    assert_eq!(kernels().len(), host::kernels().len());
    let names = |params: &[crate::dispatch::Param]| {
        params.iter().map(|param| param.name).collect::<Vec<_>>()
    };
    for theirs in host::kernels() {
        let ours = find(theirs.signature.name).signature;
        assert_eq!(names(ours.params), names(theirs.signature.params), "{}", ours.name);
    }
}

#[test]
fn no_operation_takes_quantised_blocks() {
    for kernel in kernels() {
        for param in kernel.signature.params {
            if let ParamKind::Tensor { dtypes, .. } = param.kind {
                let quantised = dtypes.iter().any(|dtype| dtype.is_quantized());
                assert!(!quantised, "{}, {}", kernel.signature.name, param.name);
            }
        }
    }
}

#[test]
fn the_linear_kernel_depends_on_the_rows_and_on_what_fits() {
    let plan = |linear: Linear, limits| functions(&linear.plan(limits).unwrap());
    let bf16 = |rows, n, k| Linear::of(rows, n, k, DType::BF16);
    assert_eq!(plan(bf16(1, 4096, 4096), H100), ["linear_gemv"]);
    assert_eq!(plan(Linear { norm: true, ..bf16(8, 4096, 4096) }, A100), ["linear_gemv"]);
    // Eight rows of 14336 activations don't fit beside the ring.
    assert_eq!(plan(bf16(8, 4096, 14336), A100), ["linear_mma_16x32"]);
    assert_eq!(plan(bf16(1, 4096, 14336), ADA), ["linear_gemv"]);
    let normalised = Linear { norm: true, ..bf16(16, 4096, 4096) };
    assert_eq!(plan(normalised, A100), ["norm_bf16", "linear_mma_16x32"]);
    assert_eq!(plan(bf16(64, 4096, 4096), A100), ["linear_mma_64x32"]);
    assert_eq!(plan(bf16(2, 4096, 4096), H100), ["linear_few_tma_8"]);
    assert_eq!(plan(bf16(9, 2048, 8192), H100), ["linear_few_tma_16"]);
    let normalised = Linear { norm: true, ..bf16(17, 4096, 4096) };
    assert_eq!(plan(normalised, H100), ["norm_bf16", "linear_few_tma_32"]);
    assert_eq!(plan(bf16(33, 2048, 8192), H100), ["linear_wgmma_64x32"]);
    assert_eq!(plan(bf16(64, 6144, 4096), H100), ["linear_wgmma_64x32"]);
    assert_eq!(plan(bf16(65, 4096, 4096), H100), ["linear_wgmma_128x32"]);
    // Rows that don't end with a panel of 64 values.
    assert_eq!(plan(bf16(3, 4096, 4104), H100), ["linear_gemv"]);
    assert_eq!(plan(bf16(16, 4096, 4104), H100), ["linear_wgmma_128x64"]);
    assert_eq!(plan(bf16(4096, 4096, 4096), A100), ["linear_mma_128x128"]);
    assert_eq!(plan(bf16(512, 2048, 8192), A100), ["linear_mma_128x64"]);
    assert_eq!(plan(bf16(4096, 6144, 4096), H100), ["linear_wgmma_128x192"]);
    assert_eq!(plan(bf16(4096, 4096, 4096), H100), ["linear_wgmma_128x128"]);
    assert_eq!(plan(bf16(512, 2048, 8192), H100), ["linear_wgmma_128x64"]);
    // One round of tiles in place of two, of narrower ones in place of wider.
    assert_eq!(plan(bf16(256, 6144, 4096), H100), ["linear_wgmma_128x96"]);
    let gated = Linear { gated: true, ..bf16(256, 14336, 4096) };
    assert_eq!(plan(gated, H100), ["linear_wgmma_128x160"]);
    let normalised = Linear { norm: true, ..bf16(65, 4096, 4096) };
    assert_eq!(plan(normalised, H100), ["norm_bf16", "linear_wgmma_128x32"]);
    // 16 bytes can't be copied at a time.
    assert_eq!(plan(bf16(3, 100, 33), H100), ["linear_plain_tiled_bf16_bf16"]);
    let f32 = |rows, k, weight| Linear {
        types: [DType::F32, weight, DType::F32],
        ..Linear::of(rows, 96, k, DType::F32)
    };
    assert_eq!(plan(f32(8, 576, DType::F16), H100), ["linear_plain_gemv_f32_f16"]);
    assert_eq!(plan(f32(9, 576, DType::F32), H100), ["linear_plain_tiled_f32_f32"]);
    assert!(plan(bf16(0, 4096, 4096), H100).is_empty());
}

#[test]
fn launches_of_the_linear_kernels_fit_their_tiles() {
    let launches = Linear::of(1, 3072, 2048, DType::BF16).plan(H100).unwrap();
    // 384 tiles on 132 multiprocessors of three blocks each.
    let [gemv] = &launches[..] else { panic!("one launch") };
    assert_eq!((gemv.grid, gemv.block, gemv.overlap), ([384, 1, 1], [128, 1, 1], true));
    assert_eq!(gemv.parameters.bytes().len(), 184);
    let gated = Linear { gated: true, ..Linear::of(300, 1000, 512, DType::F16) };
    let launches = gated.plan(A100).unwrap();
    // 3 by 32 tiles of 128 rows by 64 weight rows, and a ring of four stages.
    let [mma] = &launches[..] else { panic!("one launch") };
    assert_eq!((mma.grid, mma.shared_bytes), ([3 * 32, 1, 1], 4 * 192 * 128));
    // 2 by 32 pairs of tiles of 128 rows by 64 weight rows, and a ring of eight stages.
    let launches = gated.plan(H100).unwrap();
    let [wgmma] = &launches[..] else { panic!("one launch") };
    assert_eq!((wgmma.grid, wgmma.cluster), ([2 * 2 * 32, 1, 1], [2, 1, 1]));
    assert_eq!(wgmma.shared_bytes, 1024 + 8 * (192 * 128 + 24));
    // The maps start at multiples of 64.
    assert_eq!(wgmma.parameters.bytes().len(), 192 + 2 * 128);
    // 128 tiles of 64 rows by 32 weight rows, and a ring of four stages of four panels.
    let launches = Linear::of(64, 4096, 4096, DType::BF16).plan(H100).unwrap();
    let [wgmma] = &launches[..] else { panic!("one launch") };
    assert_eq!((wgmma.grid, wgmma.block, wgmma.cluster), ([128, 1, 1], [256, 1, 1], [1, 1, 1]));
    assert_eq!(wgmma.shared_bytes, 1024 + 4 * (96 * 4 * 128 + 24));
    assert!(!wgmma.reads_early.is_empty());
    // 500 tiles of 8 columns, two for each of at most 264 blocks, of which two find room beside each
    // other: a ring of six chunks of 16 rows and 16 weight rows, and their sums.
    let gated = Linear { gated: true, ..Linear::of(12, 4000, 512, DType::F16) };
    let launches = gated.plan(H100).unwrap();
    let [few] = &launches[..] else { panic!("one launch") };
    assert_eq!((few.grid, few.block, few.cluster), ([250, 1, 1], [384, 1, 1], [1, 1, 1]));
    assert_eq!(few.shared_bytes, 6 * (32 * 512 + 4 * 256 + 32));
    assert!(2 * (few.shared_bytes + 1024) <= H100.shared_bytes_per_sm);
    assert_eq!(few.parameters.bytes().len(), 192 + 2 * 128);
    assert!(!few.reads_early.is_empty());
}

#[test]
fn dtypes_that_do_not_go_together_are_refused() {
    let message = |types| {
        let linear = Linear { types, ..Linear::of(2, 8, 16, DType::BF16) };
        linear.plan(H100).unwrap_err().to_string()
    };
    let found = message([DType::BF16, DType::F16, DType::BF16]);
    assert!(
        found.contains("linear, argument weight: expected bfloat16, the dtype of x"),
        "{found}"
    );
    let found = message([DType::BF16, DType::F32, DType::BF16]);
    assert!(found.contains("argument weight: expected a 16-bit dtype"), "{found}");
}

#[test]
fn what_is_normalised_is_rounded_to_the_type_of_the_weight() {
    let functions = |rows, limits| {
        let types = [DType::BF16, DType::F16, DType::F16];
        let linear = Linear { types, norm: true, ..Linear::of(rows, 64, 128, DType::BF16) };
        functions(&linear.plan(limits).unwrap())
    };
    assert_eq!(functions(1, H100), ["linear_gemv"]);
    assert_eq!(functions(64, H100), ["norm_bf16", "linear_wgmma_64x32"]);
    assert_eq!(functions(64, A100), ["norm_bf16", "linear_mma_64x32"]);
}

struct Attention {
    tokens: usize,
    heads: [usize; 2],
    dim: usize,
    sequences: usize,
    context: usize,
    alone: i64,
    dtype: DType,
}

impl Attention {
    fn plan(&self, limits: Limits) -> Vec<CudaLaunch> {
        let Attention { tokens, heads: [heads, kv_heads], dim, sequences, context, alone, dtype } =
            *self;
        let cache = || tensor(&[context / 64, kv_heads, 64, dim], dtype);
        let index = |length| tensor(&[length], DType::I32);
        let values = [
            tensor(&[tokens, heads, dim], dtype),
            cache(),
            cache(),
            tensor(&[sequences, context / 64], DType::I32),
            index(tokens),
            index(tokens),
            tensor(&[tokens, heads * dim], dtype),
            ArgValue::Float(0.1),
            ArgValue::Int(0),
            ArgValue::Float(0.0),
            ArgValue::None,
            ArgValue::Int(alone),
        ];
        plan("attention", &values, limits).unwrap()
    }
}

#[test]
fn attention_splits_long_contexts_over_the_gpu() {
    let decode = Attention {
        tokens: 1,
        heads: [32, 8],
        dim: 128,
        sequences: 1,
        context: 32768,
        alone: -1,
        dtype: DType::BF16,
    };
    let launches = decode.plan(H100);
    assert_eq!(
        functions(&launches),
        ["attention_decode_128_4_bf16", "attention_decode_merge_bf16"]
    );
    assert_eq!((launches[0].grid, launches[1].grid), ([1, 8, 16], [1, 32, 1]));
    let launches = decode.plan(ADA);
    assert_eq!(functions(&launches)[0], "attention_decode_128_2_bf16");
    assert!(launches[0].shared_bytes <= ADA.shared_bytes_per_block);
    // Up to eight blocks of a head merge its spans themselves.
    let short = Attention { context: 512, ..decode };
    let launches = short.plan(H100);
    assert_eq!(functions(&launches), ["attention_decode_128_4_bf16"]);
    assert_eq!((launches[0].grid, launches[0].cluster), ([1, 8, 2], [1, 1, 2]));
    assert_eq!(short.plan(A100).len(), 2);
    // Blocks enough without sharing spans: each merges its own. Where they don't all run at a time
    // there are more of the small ones.
    let many = |dim, tokens| Attention { tokens, sequences: tokens, dim, ..decode };
    assert_eq!(functions(&many(128, 16).plan(H100)), ["attention_decode_128_4_bf16"]);
    assert_eq!(functions(&many(128, 100).plan(H100)), ["attention_decode_128_2_bf16"]);
    assert_eq!(functions(&many(64, 256).plan(H100)), ["attention_decode_64_4_bf16"]);
    assert_eq!(many(64, 256).plan(H100)[0].grid, [256, 8, 1]);
}

#[test]
fn prompts_and_heads_of_odd_sizes_have_kernels_of_their_own() {
    let prompt = |dim, dtype| Attention {
        tokens: 500,
        heads: [32, 8],
        dim,
        sequences: 2,
        context: 1024,
        alone: -1,
        dtype,
    };
    let launches = prompt(128, DType::F16).plan(A100);
    assert_eq!(functions(&launches), ["attention_prefill_128_f16"]);
    assert_eq!(launches[0].grid, [500 * 4 / 64 + 1, 8, 1]);
    assert_eq!(functions(&prompt(80, DType::BF16).plan(A100)), ["attention_prefill_128_bf16"]);
    let launches = prompt(80, DType::BF16).plan(H100);
    assert_eq!(functions(&launches), ["attention_wgmma_128_bf16"]);
    assert_eq!(launches[0].grid, [500 * 4 / 128 + 1, 8, 1]);
    assert_eq!(functions(&prompt(256, DType::F16).plan(H100)), ["attention_prefill_256_f16"]);
    assert_eq!(functions(&prompt(20, DType::BF16).plan(H100)), ["attention_plain_bf16"]);
    assert_eq!(functions(&prompt(64, DType::F32).plan(H100)), ["attention_plain_f32"]);
    // A prompt's block of such heads needs more shared memory than there is.
    assert_eq!(functions(&prompt(256, DType::BF16).plan(ADA))[0], "attention_decode_256_1_bf16");
}

#[test]
fn experts_with_biases_or_limits_have_kernels_of_their_own() {
    let function = |biased: bool, limit: f64| {
        let bias = if biased { tensor(&[3, 24], DType::F32) } else { ArgValue::None };
        let values = [
            tensor(&[2, 16], DType::BF16),
            tensor(&[3, 24, 16], DType::BF16),
            bias,
            tensor(&[2, 2], DType::I32),
            tensor(&[4, 12], DType::BF16),
            ArgValue::Int(1),
            ArgValue::Int(1),
            ArgValue::Float(1.702),
            ArgValue::Float(limit),
        ];
        functions(&plan("expert_linear", &values, H100).unwrap())[0]
    };
    assert_eq!(function(false, 0.0), "experts_linear_bf16_bf16");
    assert_eq!(function(true, 0.0), "experts_linear_biased_bf16_bf16");
    assert_eq!(function(false, 7.0), "experts_linear_biased_bf16_bf16");
}

#[test]
fn tokens_that_stand_alone_and_prompts_are_attended_to_apart() {
    let mixed = Attention {
        tokens: 100,
        heads: [32, 8],
        dim: 64,
        sequences: 64,
        context: 1024,
        alone: 12,
        dtype: DType::BF16,
    };
    let launches = mixed.plan(H100);
    let names =
        ["attention_decode_64_4_bf16", "attention_decode_merge_bf16", "attention_wgmma_64_bf16"];
    assert_eq!(functions(&launches), names);
    assert_eq!((launches[0].grid[0], launches[2].grid), (12, [88 * 4 / 128 + 1, 8, 1]));
    let all = Attention { alone: 100, ..mixed };
    assert_eq!(functions(&all.plan(H100))[0], names[0]);
    assert_eq!(functions(&Attention { alone: 0, ..mixed }.plan(H100)), names[2..]);
    assert_eq!(
        functions(&Attention { alone: 12, dim: 20, ..mixed }.plan(H100)),
        ["attention_plain_bf16"]
    );
}

#[test]
fn logits_are_searched_before_they_are_sampled() {
    let (logits, ids) = (tensor(&[3, 50_000], DType::F32), tensor(&[3], DType::I32));
    let launches = plan("argmax", &[logits.clone(), ids.clone()], H100).unwrap();
    assert_eq!(functions(&launches), ["argmax_maxima", "argmax_rows"]);
    assert_eq!((launches[0].grid, launches[1].grid), ([3, 32, 1], [3, 1, 1]));
    let too_many = [logits, ids, tensor(&[3, 2000], DType::F32), tensor(&[3, 2000], DType::I32)];
    let error = plan("top_logprobs", &too_many, H100).unwrap_err().to_string();
    assert!(error.contains("at most 1025 columns"), "{error}");
}
