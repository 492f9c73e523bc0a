// Linear layer of many rows on tensor cores (mma.sync, from sm_80 on).
//
// A block makes a tile of BM rows by BN weight rows. Stages of 64 values of k of both operands pass through a ring in
// shared memory; a row of a stage is 128 bytes, whose pieces of 16 bytes are permuted so that loading matrices meets
// no bank twice. When gated, groups of eight gate rows and of the eight rows that they are multiplied with alternate
// among the tile's weight rows, and the tile makes BN / 2 columns.
//
// Launch: 32 WM WN threads, ⌈rows / BM⌉ ⌈n / BN⌉ blocks (⌈2n / BN⌉ when gated) in x, dynamic shared memory
// max(STAGES (BM + BN) 128, BM (BN + 4) 4) bytes. k and the strides of x and weight are multiples of 8, x and weight
// aligned to 16 bytes. The norm isn't applied.
#include "common/launch.cuh"
#include "common/linear.cuh"
#include "common/mma.cuh"

using T = bits16;  // as in linear_wgmma.cu

constexpr int BK = 64;
// Tiles of rows whose blocks run side by side, so that they find each other's operands in the L2 cache.
constexpr int GROUP = 8;

template <int BM_, int BN_, int WM_, int WN_, int STAGES_>
struct Tiling {
  static constexpr int BM = BM_, BN = BN_, STAGES = STAGES_;
  static constexpr int WM = WM_, WN = WN_;             // warps along rows and columns
  static constexpr int MT = BM / WM / 16, NT = BN / WN / 8;  // products of a warp along rows and columns
  static constexpr int THREADS = WM * WN * WARP;
  static constexpr int STAGE_BYTES = (BM + BN) * BK * 2;
  static_assert(NT % 2 == 0, "matrices of weights are loaded in pairs");
};

// The byte offset in a stage of elements k … k+7 of a row.
__device__ __forceinline__ int stage_offset(int row, int k) { return row * BK * 2 + ((k / 8) ^ (row % 8)) * 16; }

// Which block makes which tile: down a group of rows first, then along the columns.
struct Tile {
  int row, column;  // in tiles

  __device__ __forceinline__ Tile(int tiles_m, int tiles_n) {
    const int block = blockIdx.x, first = block / (GROUP * tiles_n) * GROUP;
    const int height = min(GROUP, tiles_m - first), within = block - first * tiles_n;
    row = first + within % height;
    column = within / height;
  }
};

template <class S>
struct Gemm {
  const LinearArgs<T>& a;
  unsigned char* shared;
  int first_row, first_column;
  // This thread's share of the copies: row threadIdx / 8 + i * STEP of each operand, elements k8 … k8+7 of a stage.
  static constexpr int STEP = S::THREADS / (BK / 8), X_COPIES = S::BM / STEP, W_COPIES = S::BN / STEP;
  static_assert(S::BM % STEP == 0 && S::BN % STEP == 0 && STEP % 8 == 0, "every thread copies as many pieces");
  const T* x_sources[X_COPIES];
  const T* w_sources[W_COPIES];
  unsigned x_valid, w_valid;  // bit i: the row is there

  __device__ __forceinline__ Gemm(const LinearArgs<T>& args, unsigned char* shared) : a(args), shared(shared) {
    const int columns = a.gated ? S::BN / 2 : S::BN;
    const Tile tile(ceil_div(a.rows, S::BM), ceil_div(a.n, columns));
    first_row = tile.row * S::BM;
    first_column = tile.column * columns;
    x_valid = w_valid = 0;
#pragma unroll
    for (int i = 0; i < X_COPIES; ++i) {
      const int row = first_row + copy_row() + i * STEP;
      x_sources[i] = a.x + row * a.x_stride + copy_k();
      x_valid |= (row < a.rows) << i;
    }
#pragma unroll
    for (int i = 0; i < W_COPIES; ++i) {
      const int j = copy_row() + i * STEP;
      w_sources[i] = a.weight + weight_row(j) * a.weight_stride + copy_k();
      w_valid |= (column(j) < a.n) << i;
    }
  }
  static __device__ __forceinline__ int copy_row() { return threadIdx.x / (BK / 8); }
  static __device__ __forceinline__ int copy_k() { return threadIdx.x % (BK / 8) * 8; }

  // The output column that weight row `j` of the tile belongs to, and the weight row itself.
  __device__ __forceinline__ int column(int j) const {
    return first_column + (a.gated ? j / 16 * 8 + j % 8 : j);
  }
  __device__ __forceinline__ int weight_row(int j) const { return column(j) + (a.gated && j / 8 % 2 ? a.n : 0); }

  // Begins the copy of stage `step`; what lies outside the matrices is filled with zeros.
  __device__ __forceinline__ void copy_stage(int step) const {
    const unsigned stage = shared_address(shared) + step % S::STAGES * S::STAGE_BYTES;
    const bool inside = step * BK + copy_k() < a.k;
    const unsigned to = stage + stage_offset(copy_row(), copy_k());
#pragma unroll
    for (int i = 0; i < X_COPIES; ++i)
      copy16_async(to + i * STEP * BK * 2, x_sources[i] + step * BK, inside && x_valid >> i & 1);
#pragma unroll
    for (int i = 0; i < W_COPIES; ++i)
      copy16_async(to + (S::BM + i * STEP) * BK * 2, w_sources[i] + step * BK, inside && w_valid >> i & 1);
  }

  template <class Product>
  __device__ __forceinline__ void multiply_stage(float (&d)[S::MT][S::NT][4], int step) const {
    const unsigned stage = shared_address(shared) + step % S::STAGES * S::STAGE_BYTES;
    const int lane = lane_index(), warp = warp_index();
    const int m0 = warp / S::WN * (S::MT * 16) + lane % 16, k_m = lane / 16 * 8;
    const int n0 = S::BM + warp % S::WN * (S::NT * 8) + lane / 16 * 8 + lane % 8, k_n = lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < BK; k += 16) {
      unsigned x[S::MT][4], w[S::NT / 2][4];
#pragma unroll
      for (int m = 0; m < S::MT; ++m) load_matrix_x4(x[m], stage + stage_offset(m0 + m * 16, k + k_m));
#pragma unroll
      for (int n = 0; n < S::NT / 2; ++n) load_matrix_x4(w[n], stage + stage_offset(n0 + n * 16, k + k_n));
#pragma unroll
      for (int m = 0; m < S::MT; ++m)
#pragma unroll
        for (int n = 0; n < S::NT; ++n)
          mma<Product>(d[m][n], x[m][0], x[m][1], x[m][2], x[m][3], w[n / 2][n % 2 * 2], w[n / 2][n % 2 * 2 + 1]);
    }
  }

  // Leaves the sums in shared memory, BN + 4 to a row.
  __device__ __forceinline__ void spread(const float (&sum)[S::MT][S::NT][4]) const {
    const int lane = lane_index(), warp = warp_index();
    float* corner = reinterpret_cast<float*>(shared) +
                    (warp / S::WN * (S::MT * 16) + lane / 4) * (S::BN + 4) + warp % S::WN * (S::NT * 8) + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < S::MT; ++m)
#pragma unroll
      for (int n = 0; n < S::NT; ++n)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float* to = corner + (m * 16 + h * 8) * (S::BN + 4) + n * 8;
          *reinterpret_cast<float2*>(to) = make_float2(sum[m][n][2 * h], sum[m][n][2 * h + 1]);
        }
  }

  // Turns the sums in shared memory into results.
  __device__ __forceinline__ void finish() const {
    const float* sums = reinterpret_cast<const float*>(shared);
    const int columns = a.gated ? S::BN / 2 : S::BN;
    const int rows = min(S::BM, a.rows - first_row);
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * columns; i += S::THREADS) {
      const int r = i / columns, c = i % columns;
      if (first_column + c >= a.n) continue;
      const float* at = sums + r * (S::BN + 4) + (a.gated ? c / 8 * 16 + c % 8 : c);
      const float y = epilogue(a, first_row + r, first_column + c, at[0], a.gated ? at[8] : 0.f);
      store(a, first_row + r, first_column + c, y);
    }
  }

  __device__ __forceinline__ void run() const {
    const int steps = ceil_div(a.k, BK);
    wait_for_inputs();
#pragma unroll 1
    for (int s = 0; s < S::STAGES - 1; ++s) {
      if (s < steps) copy_stage(s);
      copy_async_commit();
    }
    start_dependents();
    float sum[S::MT][S::NT][4] = {}, d[S::MT][S::NT][4] = {};
    for (int step = 0; step < steps; ++step) {
      copy_async_wait<S::STAGES - 2>();
      __syncthreads();
      if (step + S::STAGES - 1 < steps) copy_stage(step + S::STAGES - 1);
      copy_async_commit();
      if (a.dtype == DTYPE_F16)
        multiply_stage<f16>(d, step);
      else
        multiply_stage<bf16>(d, step);
      if ((step + 1) % (CHUNK<T> / BK) == 0 || step + 1 == steps) {
#pragma unroll
        for (int i = 0; i < S::MT * S::NT * 4; ++i) {
          float& chunk = d[i / 4 / S::NT][i / 4 % S::NT][i % 4];
          sum[i / 4 / S::NT][i / 4 % S::NT][i % 4] += chunk;
          chunk = 0.f;
        }
      }
    }
    __syncthreads();
    spread(sum);
    __syncthreads();
    finish();
  }
};

template <class S>
__device__ __forceinline__ void linear_mma(const LinearArgs<T>& a) {
  extern __shared__ __align__(128) unsigned char shared[];
  Gemm<S>(a, shared).run();
}

using Tiling16x32 = Tiling<16, 32, 1, 2, 6>;
using Tiling64x32 = Tiling<64, 32, 2, 2, 5>;
using Tiling128x64 = Tiling<128, 64, 4, 2, 4>;
using Tiling128x128 = Tiling<128, 128, 2, 4, 4>;

#define ENTRY(SIZE)                                                                               \
  extern "C" __global__ void __launch_bounds__(Tiling##SIZE::THREADS)                             \
      linear_mma_##SIZE(const __grid_constant__ LinearArgs<T> a) {                                \
    linear_mma<Tiling##SIZE>(a);                                                                  \
  }
ENTRY(16x32) ENTRY(64x32) ENTRY(128x64) ENTRY(128x128)
