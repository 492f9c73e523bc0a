// Linear layer of up to eight rows: reads each weight once, at the speed of the memory.
//
// A tile is eight weight rows (and, when gated, the eight that are multiplied with them). A block takes tiles
// blockIdx, blockIdx + gridDim, …. Its four warps share a tile's chunks of k: warp w takes chunks w, w+4, …, and
// streams their weights through a ring of its own in shared memory, which runs ahead of the products across tiles.
// The first weights are asked for before the kernel waits for the one that makes x.
//
// Launch: 128 threads, dynamic shared memory as shared_bytes() below. k and the strides of x and weight are multiples
// of 8, x and weight aligned to 16 bytes.
#include "common/gemv.cuh"
#include "common/launch.cuh"

constexpr int WARPS = NORM_THREADS / WARP;
constexpr int STAGES = 4;  // of a warp's ring

// One kernel for both types: a step of a model has products of both, and code that has just run is at hand.
using T = bits16;
using Args = LinearArgs<T>;

// Where a warp's stream of weights has come to.
struct Position {
  int tile, part, chunk, offset;  // part 1: the weight rows from n on, when gated

  __device__ __forceinline__ void advance(const Args& a, int chunks) {
    offset += SPAN;
    if (offset < CHUNK<T>) return;
    offset = 0;
    chunk += WARPS;
    if (chunk < chunks) return;
    chunk = warp_index();
    if (++part <= a.gated) return;
    part = 0;
    tile += gridDim.x;
  }
};

// Begins the copy of one stage.
__device__ __forceinline__ void copy_stage(const Args& a, const Position& p, unsigned stage,
                                           unsigned long long policy) {
  const int k = p.chunk * CHUNK<T> + p.offset;
  if (k < a.k && p.tile * TILE < a.n)
    copy_stage(a.weight, a.weight_stride, a.n, a.k, p.tile, p.part, k, stage, policy);
  copy_async_commit();
}

// Brings the rows of x into shared memory, normalised, with zeros from k to `padded`.
__device__ __forceinline__ void load_rows(const Args& a, T* xs, int pitch, int padded, float* scratch) {
  for (int r = 0; r < a.rows; ++r) {
    T* row = xs + r * pitch;
    for (int g = threadIdx.x; g < padded / 8; g += NORM_THREADS)
      store16(row + 8 * g, 8 * g < a.k ? load16(a.x + r * a.x_stride + 8 * g) : make_uint4(0, 0, 0, 0));
    if (a.norm.kind == NORM_NONE) continue;
    const auto group = [&](int g) { return load8(row + 8 * g, a.x_dtype); };
    const Moments moments = block_moments(a.norm, a.k, group, scratch + r % 2 * NORM_SCRATCH);
    for (int g = threadIdx.x; g < a.k / 8; g += NORM_THREADS)
      store16(row + 8 * g, pack8(a.dtype, moments(a.norm, 8 * g, a.k, group(g))));
  }
}

// Adds up the chunks of a tile, in order, and finishes its results. `sums` is (part, chunk, row, TILE).
__device__ __forceinline__ void finish_tile(const Args& a, int tile, const float* sums, int chunks) {
#pragma unroll 1
  for (int i = lane_index(); i < a.rows * TILE; i += WARP) {
    const int row = i / TILE, column = tile * TILE + i % TILE;
    if (column >= a.n) continue;
    const float y = add_chunks(sums, chunks, a.rows * TILE, 0, i);
    const float up = a.gated ? add_chunks(sums, chunks, a.rows * TILE, 1, i) : 0.f;
    store(a, row, column, epilogue(a, row, column, y, up));
  }
}

// Shared memory, in bytes: the rings, 16 zeros, x, the sums of two tiles, scratch.
//   128 STAGES PITCH + 16 + 2 rows (⌈k⌉₁₂₈ + 8) + 64 (1 + gated) ⌈k / 256⌉ rows + 4 * 2 NORM_SCRATCH
extern "C" __global__ void __launch_bounds__(NORM_THREADS) linear_gemv(const __grid_constant__ Args a) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int chunks = ceil_div(a.k, CHUNK<T>), padded = ceil_div(a.k, SPAN) * SPAN, pitch = padded + 8;
  const int tiles = ceil_div(a.n, TILE), sums_size = (1 + a.gated) * chunks * a.rows * TILE;
  T* zeros = reinterpret_cast<T*>(shared + WARPS * STAGES * STAGE_BYTES<T>);
  T* xs = zeros + 8;
  float* sums = reinterpret_cast<float*>(xs + a.rows * pitch);
  float* scratch = sums + 2 * sums_size;
  const int lane = lane_index(), warp = warp_index();
  const unsigned ring = shared_address(shared) + warp * STAGES * STAGE_BYTES<T>;

  const unsigned long long policy = evict_first_policy();
  const bool busy = warp < chunks;
  Position ahead = {busy ? static_cast<int>(blockIdx.x) : tiles, 0, warp, 0};
#pragma unroll 1
  for (int s = 0; s < STAGES - 1; ++s) {
    copy_stage(a, ahead, ring + s * STAGE_BYTES<T>, policy);
    ahead.advance(a, chunks);
  }
  if (a.norm.kind != NORM_NONE) {
    a.norm.weight.prefetch(a.k);
    a.norm.bias.prefetch(a.k);
  }
  start_dependents();
  wait_for_inputs();
  if (threadIdx.x < 8) zeros[threadIdx.x] = {0};
  load_rows(a, xs, pitch, padded, scratch);
  __syncthreads();

  // Rows of the 8x8 matrices of x that there are no rows for are all the same 16 zeros.
  const bool has_row = lane % 8 < a.rows;
  const unsigned x = shared_address(has_row ? xs + lane % 8 * pitch + lane / 8 * 8 : zeros);
  const unsigned x_step = has_row ? sizeof(T) : 0;
  int slot = 0;
  for (int tile = blockIdx.x, turn = 0; tile < tiles; tile += gridDim.x, ++turn) {
    float* tile_sums = sums + turn % 2 * sums_size;
    for (int part = 0; part <= a.gated; ++part)
      for (int chunk = warp; chunk < chunks; chunk += WARPS) {
        float d[4] = {};
#pragma unroll
        for (int offset = 0; offset < CHUNK<T>; offset += SPAN) {
          copy_async_wait<STAGES - 2>();
          __syncwarp();
          copy_stage(a, ahead, ring + (slot ? slot - 1 : STAGES - 1) * STAGE_BYTES<T>, policy);
          ahead.advance(a, chunks);
          const int k = chunk * CHUNK<T> + offset;
          if (k < a.k) multiply_stage(a.dtype, d, ring + slot * STAGE_BYTES<T>, x + k * x_step, x_step);
          slot = slot + 1 == STAGES ? 0 : slot + 1;
        }
        if (lane / 4 < a.rows) {
          float* sum = tile_sums + ((part * chunks + chunk) * a.rows + lane / 4) * TILE + lane % 4 * 2;
          sum[0] = d[0];
          sum[1] = d[1];
        }
      }
    __syncthreads();
    if (warp == turn % WARPS) finish_tile(a, tile, tile_sums, chunks);
  }
}
