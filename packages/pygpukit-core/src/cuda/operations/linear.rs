//! `linear`: linear_gemv.cu for few rows, or linear_few_tma.cu on Hopper if there are several;
//! linear_wgmma.cu (on Hopper) or linear_mma.cu for many, linear_plain.cu for the rest. All of them sum
//! in the same order, so which one it is can't be seen in the result.

mod few;

use bytemuck::{Pod, Zeroable};

use self::few::Ring;
use super::arguments::{
    Floats, Norm, PANEL, Reader, address, entry, int, is_aligned, launch, matrix_map, number,
    share_tiles, stride,
};
use super::norm::{Rows, norm_rows};
use super::signature::{check_same_dtype, check_sizes, signature};
use crate::cuda::{CudaKernel, CudaLaunch, Plan};
use crate::device::Limits;
use crate::dispatch::{KernelArgs, LaunchError, TensorArg};
use crate::dtype::DType;
use crate::host;

/// `LinearArgs` of common/linear.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct LinearArgs {
    pub(super) out: u64,
    pub(super) x: u64,
    pub(super) weight: u64,
    pub(super) residual: Floats,
    pub(super) bias: Floats,
    pub(super) norm: Norm,
    x_stride: i64,
    pub(super) weight_stride: i64,
    residual_stride: i64,
    pub(super) out_stride: i64,
    /// Where logits are made whose first ones are wanted; see [`super::maxima`].
    pub(super) maxima: u64,
    pub(super) rows: i32,
    pub(super) n: i32,
    pub(super) k: i32,
    activation: i32,
    pub(super) gated: i32,
    /// Of the products.
    pub(super) dtype: i32,
    pub(super) x_dtype: i32,
    pub(super) out_dtype: i32,
    pub(super) scale: f32,
    padding: i32,
}
const _: () = assert!(size_of::<LinearArgs>() == 184);

/// One operation.
struct Linear<'a> {
    x: &'a TensorArg,
    weight: &'a TensorArg,
    /// Of the products.
    dtype: DType,
    rows: usize,
    /// Outputs.
    n: usize,
    k: usize,
    gated: bool,
    arguments: LinearArgs,
}

impl<'a> Linear<'a> {
    fn of(args: &'a KernelArgs<'a>) -> Linear<'a> {
        let mut next = Reader::new(args);
        let (x, weight, bias) = (next.tensor(), next.tensor(), next.optional());
        let norm = next.norm();
        let (residual, out) = (next.optional(), next.tensor());
        let (activation, gated, scale) = (next.int(), next.int() != 0, next.float());
        let (rows, k, n) = (x.shape[0], x.shape[1], out.shape[1]);
        let dtype = if x.dtype == DType::F32 { DType::F32 } else { weight.dtype };
        let arguments = LinearArgs {
            out: address(out),
            x: address(x),
            weight: address(weight),
            residual: Floats::of(residual),
            bias: Floats::of(bias),
            norm,
            x_stride: stride(x, 0),
            weight_stride: stride(weight, 0),
            residual_stride: stride(residual, 0),
            out_stride: stride(out, 0),
            maxima: 0,
            rows: int(rows),
            n: int(n),
            k: int(k),
            activation,
            gated: i32::from(gated),
            dtype: number(dtype),
            x_dtype: number(x.dtype),
            out_dtype: number(out.dtype),
            scale,
            padding: 0,
        };
        Linear { x, weight, dtype, rows, n, k, gated, arguments }
    }

    /// Weight rows for each output.
    fn parts(&self) -> usize {
        if self.gated { 2 } else { 1 }
    }

    /// Whether 16 bytes can be copied at a time, as the tensor-core kernels do.
    fn is_aligned(&self) -> bool {
        self.k.is_multiple_of(8) && is_aligned(self.x) && is_aligned(self.weight)
    }

    fn plan(mut self, plan: &mut Plan) {
        if self.rows == 0 || self.n == 0 {
            return;
        }
        let limits = *plan.limits();
        if self.dtype != DType::F32 && self.is_aligned() {
            let ring = Ring::choose(self.rows, self.k, &limits);
            if ring.is_none()
                && let Some(launch) = self.gemv(&limits)
            {
                return plan.launch(launch);
            }
            self.normalize(plan);
            let few = ring.map(|ring| self.few(ring, &limits));
            let launch = few.or_else(|| self.wgmma(&limits));
            return plan.launch(launch.unwrap_or_else(|| self.mma(&limits)));
        }
        self.normalize(plan);
        plan.launch(self.plain(&limits));
    }

    /// Writes the norm of `x` to scratch memory, in place of `x`.
    fn normalize(&mut self, plan: &mut Plan) {
        if self.arguments.norm.kind == 0 {
            return;
        }
        let pitch = self.k.next_multiple_of(8);
        let scratch = plan.scratch(self.rows * pitch * self.dtype.block_bytes()).addr() as u64;
        let out = Rows::at(scratch, pitch as i64);
        let rows = [Rows::of(self.x), Rows::at(0, 0), Rows::at(0, 0), out];
        let dtypes = [self.x.dtype, self.dtype];
        let limits = *plan.limits();
        plan.launch(norm_rows(dtypes, rows, [self.rows, self.k], self.arguments.norm, &limits));
        self.arguments.x = scratch;
        self.arguments.x_stride = pitch as i64;
    }

    /// The matrix-vector kernel, if it can have the rows.
    fn gemv(&self, limits: &Limits) -> Option<CudaLaunch> {
        const MOST_BLOCKS_PER_SM: usize = 4;
        // From there on Hopper's tensor cores are faster.
        let most_rows = if limits.is_hopper() { 3 } else { 8 };
        if self.rows > most_rows {
            return None;
        }
        let shared = gemv_shared_bytes(self.rows, self.k, self.parts());
        let blocks_per_sm = limits.blocks_per_sm(shared);
        if shared > limits.shared_bytes_per_block as usize || blocks_per_sm == 0 {
            return None;
        }
        let most = limits.sm_count as usize * blocks_per_sm.min(MOST_BLOCKS_PER_SM);
        let grid = [share_tiles(self.n.div_ceil(GEMV_TILE), most), 1, 1];
        let launch = launch("linear_gemv", "linear_gemv", grid, 128, shared, self.arguments);
        Some(CudaLaunch { reads_early: vec![self.weight.addresses()], ..launch })
    }

    /// The kernel for Hopper's tensor cores, if this is one.
    fn wgmma(&self, limits: &Limits) -> Option<CudaLaunch> {
        if !limits.is_hopper() {
            return None;
        }
        let tiling = WgmmaTiling::choose(self.rows, self.n, self.parts(), self.k, limits);
        let clusters = tiling.groups(self.rows, self.n, self.parts()).min(tiling.clusters(limits));
        let (function, shared) = (tiling.function(), tiling.shared_bytes());
        let (grid, threads) = ([clusters * tiling.cluster, 1, 1], tiling.threads());
        let launch = launch("linear_wgmma", function, grid, threads, shared, self.arguments);
        let cluster = [tiling.cluster as u32, 1, 1];
        let boxes = [tiling.rows, tiling.columns, tiling.panels];
        Some(self.copied_in_boxes(CudaLaunch { cluster, ..launch }, boxes))
    }

    /// The launch of a kernel for which the copy engine brings boxes of the operands: of at most `rows`
    /// rows of x and of `weight_rows` of the weight, those of a gated one half of each part, and of
    /// `panels` times 64 values of k.
    fn copied_in_boxes(
        &self,
        launch: CudaLaunch,
        [rows, weight_rows, panels]: [usize; 3],
    ) -> CudaLaunch {
        let (arguments, dtype, parts) = (&self.arguments, self.dtype, self.parts());
        let x = matrix_map(
            arguments.x,
            dtype,
            [1, self.rows, self.k],
            arguments.x_stride,
            [1, rows.min(self.rows.next_multiple_of(8)), panels],
        );
        let weight = matrix_map(
            arguments.weight,
            dtype,
            [parts, self.n, self.k],
            arguments.weight_stride,
            [parts, weight_rows / parts, panels],
        );
        let parameters = launch.parameters.tensor_map(x).tensor_map(weight);
        CudaLaunch { parameters, reads_early: vec![self.weight.addresses()], ..launch }
    }

    fn mma(&self, limits: &Limits) -> CudaLaunch {
        let tiling = Tiling::choose(self.rows, self.n * self.parts(), limits);
        let function = tiling.function();
        let blocks = tiling.blocks(self.rows, self.n * self.parts());
        let shared = tiling.shared_bytes();
        launch("linear_mma", function, [blocks, 1, 1], tiling.threads, shared, self.arguments)
    }

    fn plain(&self, limits: &Limits) -> CudaLaunch {
        const MOST_ROWS: usize = 8;
        const TILE: usize = 64;
        let shared = 260 * self.k.div_ceil(64);
        let weight = self.weight.dtype;
        let few = self.rows <= MOST_ROWS && shared <= limits.shared_bytes_per_block as usize;
        if few && self.dtype == DType::F32 {
            let function = entry!("linear_plain_gemv_f32", weight);
            let grid = [self.n.div_ceil(4), self.rows, 1];
            return launch("linear_plain", function, grid, 128, shared, self.arguments);
        }
        let function = match self.dtype {
            DType::F32 => entry!("linear_plain_tiled_f32", weight),
            DType::F16 => "linear_plain_tiled_f16_f16",
            _ => "linear_plain_tiled_bf16_bf16",
        };
        let grid = [self.n.div_ceil(TILE), self.rows.div_ceil(TILE), 1];
        launch("linear_plain", function, grid, 256, 0, self.arguments)
    }
}

/// Outputs of a tile of linear_gemv.cu.
const GEMV_TILE: usize = 8;

/// As linear_gemv.cu has it.
fn gemv_shared_bytes(rows: usize, k: usize, parts: usize) -> usize {
    const WARPS: usize = 4;
    const STAGES: usize = 4;
    const SPAN: usize = 256;
    let ring = WARPS * STAGES * GEMV_TILE * (SPAN + 8) * 2;
    let x = 2 * rows * (k.next_multiple_of(SPAN) + 8);
    let sums = 2 * 4 * parts * k.div_ceil(256) * rows * GEMV_TILE;
    let scratch = 4 * 2 * (2 * WARPS);
    ring + 16 + x + sums + scratch
}

/// Threads of a block of linear_wgmma.cu that copy, and for each row of its tiles those that multiply.
const PRODUCERS: u32 = 128;
const THREADS_PER_ROW: u32 = 2;

/// A tiling of linear_wgmma.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WgmmaTiling {
    /// Rows of x of a tile.
    rows: usize,
    /// Weight rows of a tile.
    columns: usize,
    /// Of 64 values of k in a stage.
    panels: usize,
    stages: usize,
    /// Blocks that share an operand: they make tiles side by side.
    cluster: usize,
}

impl WgmmaTiling {
    const ALL: [WgmmaTiling; 7] = [
        WgmmaTiling { rows: 64, columns: 32, panels: 4, stages: 4, cluster: 1 },
        WgmmaTiling { rows: 128, columns: 32, panels: 2, stages: 5, cluster: 1 },
        WgmmaTiling { rows: 128, columns: 192, panels: 1, stages: 5, cluster: 2 },
        WgmmaTiling { rows: 128, columns: 160, panels: 1, stages: 6, cluster: 2 },
        WgmmaTiling { rows: 128, columns: 128, panels: 1, stages: 6, cluster: 2 },
        WgmmaTiling { rows: 128, columns: 96, panels: 1, stages: 7, cluster: 2 },
        WgmmaTiling { rows: 128, columns: 64, panels: 1, stages: 8, cluster: 2 },
    ];

    /// The tiling whose blocks are done first.
    fn choose(rows: usize, n: usize, parts: usize, k: usize, limits: &Limits) -> WgmmaTiling {
        let few = rows <= 64 && k.is_multiple_of(PANEL);
        let fits = |tiling: &WgmmaTiling| {
            (tiling.panels == 1 || k.is_multiple_of(PANEL)) && few == (tiling.rows == 64)
        };
        let rounds =
            |tiling: WgmmaTiling| tiling.groups(rows, n, parts).div_ceil(tiling.clusters(limits));
        let fitting = Self::ALL.into_iter().filter(fits);
        let fastest = fitting.min_by_key(|tiling| rounds(*tiling) * tiling.time(rows, parts));
        fastest.expect("there are tilings for any number of rows")
    }

    /// What a tile takes, about. With few rows that is copying both operands; else a tile takes as
    /// long as it has columns, and some more; also where results of a gated one aren't stored eight
    /// columns at a time.
    fn time(self, rows: usize, parts: usize) -> usize {
        const REST: usize = 24;
        const STORES: usize = 12;
        if rows <= self.rows {
            return self.rows + self.columns;
        }
        let is_vectorizable = self.columns.is_multiple_of(32 * parts);
        REST + self.columns + if is_vectorizable { 0 } else { STORES }
    }

    /// Groups of tiles, of one cluster each: one below the other, or in one row where there is only
    /// one row of tiles.
    fn groups(self, rows: usize, n: usize, parts: usize) -> usize {
        let (rows, columns) = (rows.div_ceil(self.rows), n.div_ceil(self.columns / parts));
        if rows > 1 {
            rows.div_ceil(self.cluster) * columns
        } else {
            columns.div_ceil(self.cluster)
        }
    }

    /// Clusters that run at a time.
    fn clusters(self, limits: &Limits) -> usize {
        limits.sm_count as usize / self.cluster
    }

    fn threads(self) -> usize {
        PRODUCERS as usize + THREADS_PER_ROW as usize * self.rows
    }

    fn shared_bytes(self) -> usize {
        1024 + self.stages * ((self.rows + self.columns) * self.panels * 128 + 24)
    }

    fn function(self) -> &'static str {
        match (self.rows, self.columns) {
            (64, _) => "linear_wgmma_64x32",
            (_, 32) => "linear_wgmma_128x32",
            (_, 64) => "linear_wgmma_128x64",
            (_, 96) => "linear_wgmma_128x96",
            (_, 128) => "linear_wgmma_128x128",
            (_, 160) => "linear_wgmma_128x160",
            _ => "linear_wgmma_128x192",
        }
    }
}

/// The most rows with which all tiles of a block of this launch of linear_wgmma.cu are of the same ones:
/// tiles of a cluster can lie one below the other.
pub(super) fn rows_of_cluster(launch: &CudaLaunch) -> u32 {
    (launch.block[0] - PRODUCERS) / THREADS_PER_ROW * launch.cluster[0]
}

/// A tiling of linear_mma.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tiling {
    rows: usize,
    columns: usize,
    threads: usize,
    stages: usize,
}

impl Tiling {
    const T16X32: Tiling = Tiling { rows: 16, columns: 32, threads: 64, stages: 6 };
    const T64X32: Tiling = Tiling { rows: 64, columns: 32, threads: 128, stages: 5 };
    const T128X64: Tiling = Tiling { rows: 128, columns: 64, threads: 256, stages: 4 };
    const T128X128: Tiling = Tiling { rows: 128, columns: 128, threads: 256, stages: 4 };

    /// The largest tiling that fills the GPU.
    fn choose(rows: usize, columns: usize, limits: &Limits) -> Tiling {
        if rows <= Self::T16X32.rows {
            return Self::T16X32;
        }
        let enough = limits.sm_count as usize * 3 / 4;
        let large = [Self::T128X128, Self::T128X64]
            .into_iter()
            .find(|tiling| rows > Self::T64X32.rows && tiling.blocks(rows, columns) >= enough);
        large.unwrap_or(Self::T64X32)
    }

    fn blocks(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.rows) * columns.div_ceil(self.columns)
    }

    fn shared_bytes(self) -> usize {
        let ring = self.stages * (self.rows + self.columns) * 128;
        let sums = 4 * self.rows * (self.columns + 4);
        ring.max(sums)
    }

    fn function(self) -> &'static str {
        match (self.rows, self.columns) {
            (16, _) => "linear_mma_16x32",
            (64, _) => "linear_mma_64x32",
            (_, 64) => "linear_mma_128x64",
            _ => "linear_mma_128x128",
        }
    }
}

fn check(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    const WEIGHT: usize = 1;
    const NORM: usize = 3;
    (host::LINEAR.check)(args)?;
    check_sizes(args)?;
    let (x, weight) = (args.tensor(0).dtype, args.tensor(WEIGHT).dtype);
    if x != DType::F32 && weight == DType::F32 {
        let reason = format!("expected a 16-bit dtype, as that of x, {x}, found {weight}");
        return Err(args.refuse(WEIGHT, reason));
    }
    // What is normalised is rounded to the type of the weight.
    if x != DType::F32 && args.int(NORM) == 0 {
        check_same_dtype(args, &["x", "weight"])?;
    }
    Ok(())
}

pub(super) const LINEAR: CudaKernel = CudaKernel {
    signature: signature!(host::LINEAR, &["x", "weight", "residual", "out"]),
    check,
    plan: |args, plan| Linear::of(args).plan(plan),
};
