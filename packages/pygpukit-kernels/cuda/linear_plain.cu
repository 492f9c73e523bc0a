// Linear layers without tensor cores: the plain 64x64 tiled product, for any shape and alignment, and a matrix-vector
// product of float32 activations; with these, weights may be of any type. Both sum in the same order
// (common/linear.cuh); neither applies the norm.
#include "common/launch.cuh"
#include "common/linear.cuh"

constexpr int TILE = 64;
constexpr int DEPTH = 16;  // values of k in shared memory at a time
constexpr int THREADS = 256;
constexpr int SIDE = 4;  // a thread makes 4x4 results

using Operand = float[DEPTH][TILE + 4];

// Element [k][i] of the tile is element k0 + k of row first + i of the matrix, 0 outside it.
template <class T>
__device__ __forceinline__ void load_operand(Operand& tile, const T* matrix, long long stride, int first, int count,
                                             int k0, int k_end) {
#pragma unroll
  for (int i = 0; i < TILE * DEPTH / THREADS; ++i) {
    const int element = threadIdx.x + i * THREADS, row = element / DEPTH, k = element % DEPTH;
    const bool valid = first + row < count && k0 + k < k_end;
    tile[k][row] = valid ? to_float(matrix[(first + row) * stride + k0 + k]) : 0.f;
  }
}

// The sums of this thread's results for the weight rows from `weight` on.
template <class T, class W>
__device__ __forceinline__ void multiply(float (&sum)[SIDE][SIDE], const LinearArgs<T, W>& a, const W* weight,
                                         int first_row, int first_column) {
  __shared__ Operand x, w;
  const int row = threadIdx.x / (TILE / SIDE) * SIDE, column = threadIdx.x % (TILE / SIDE) * SIDE;
  float d[SIDE][SIDE] = {};
  for (int k0 = 0; k0 < a.k; k0 += DEPTH) {
    load_operand(x, a.x, a.x_stride, first_row, a.rows, k0, a.k);
    load_operand(w, weight, a.weight_stride, first_column, a.n, k0, a.k);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DEPTH; ++k)
#pragma unroll
      for (int i = 0; i < SIDE; ++i)
#pragma unroll
        for (int j = 0; j < SIDE; ++j) d[i][j] = fmaf(x[k][row + i], w[k][column + j], d[i][j]);
    __syncthreads();
    if ((k0 + DEPTH) % CHUNK<T> && k0 + DEPTH < a.k) continue;
#pragma unroll
    for (int i = 0; i < SIDE * SIDE; ++i) {
      sum[i / SIDE][i % SIDE] += d[i / SIDE][i % SIDE];
      d[i / SIDE][i % SIDE] = 0.f;
    }
  }
}

// Launch: 256 threads, ⌈n / 64⌉ blocks in x, ⌈rows / 64⌉ in y.
template <class T, class W>
__device__ __forceinline__ void linear_tiled(const LinearArgs<T, W>& a) {
  start_dependents();
  wait_for_inputs();
  const int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
  float y[SIDE][SIDE] = {}, up[SIDE][SIDE] = {};
  multiply(y, a, a.weight, first_row, first_column);
  if (a.gated) multiply(up, a, a.weight + a.n * a.weight_stride, first_row, first_column);
#pragma unroll
  for (int i = 0; i < SIDE; ++i)
#pragma unroll
    for (int j = 0; j < SIDE; ++j) {
      const int row = first_row + threadIdx.x / (TILE / SIDE) * SIDE + i;
      const int column = first_column + threadIdx.x % (TILE / SIDE) * SIDE + j;
      if (row < a.rows && column < a.n) store(a, row, column, epilogue(a, row, column, y[i][j], up[i][j]));
    }
}

#define TILED(T, W)                                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS)                                           \
      linear_plain_tiled_##T##_##W(const __grid_constant__ LinearArgs<T, W> a) {                  \
    linear_tiled(a);                                                                              \
  }
TILED(f32, f32) TILED(f32, f16) TILED(f32, bf16) TILED(f16, f16) TILED(bf16, bf16)

constexpr int WARPS = 4;
constexpr int GAP = CHUNK<float> + 1;  // from chunk to chunk of x in shared memory: lanes meet different banks

// The sum of weight row `row` with x: each lane makes the sums of chunks, lane after lane.
template <class W>
__device__ __forceinline__ float dot(const LinearArgs<float, W>& a, const float* x, int row) {
  const W* weight = a.weight + row * a.weight_stride;
  const bool vectorizable = is_vectorizable(a.weight, CHUNK<float>, a.weight_stride);
  float sum = 0.f;
  for (int first = 0; first * CHUNK<float> < a.k; first += WARP) {
    const int chunk = first + lane_index();
    float d = 0.f;
    for (int i = 0; i < CHUNK<float> && chunk * CHUNK<float> + i < a.k; i += 8) {
      const Eight w = load8(weight, chunk * CHUNK<float> + i, a.k, vectorizable);
#pragma unroll
      for (int j = 0; j < 8; ++j) d = fmaf(x[chunk * GAP + i + j], w.value[j], d);
    }
#pragma unroll
    for (int lane = 0; lane < WARP; ++lane) {
      const float next = __shfl_sync(~0u, d, lane);
      if ((first + lane) * CHUNK<float> < a.k) sum += next;
    }
  }
  return sum;
}

// Launch: 128 threads, ⌈n / 4⌉ blocks in x, one for each row in y; dynamic shared memory 260 ⌈k / 64⌉ bytes.
template <class W>
__device__ __forceinline__ void linear_gemv(const LinearArgs<float, W>& a) {
  extern __shared__ float shared_x[];
  start_dependents();
  wait_for_inputs();
  const int row = blockIdx.y, column = blockIdx.x * WARPS + warp_index();
  for (int k = threadIdx.x; k < ceil_div(a.k, CHUNK<float>) * CHUNK<float>; k += WARPS * WARP)
    shared_x[k / CHUNK<float> * GAP + k % CHUNK<float>] = k < a.k ? a.x[row * a.x_stride + k] : 0.f;
  __syncthreads();
  if (column >= a.n) return;
  const float y = dot(a, shared_x, column);
  const float up = a.gated ? dot(a, shared_x, a.n + column) : 0.f;
  if (lane_index() == 0) store(a, row, column, epilogue(a, row, column, y, up));
}

#define GEMV(W)                                                                                   \
  extern "C" __global__ void __launch_bounds__(WARPS* WARP)                                       \
      linear_plain_gemv_f32_##W(const __grid_constant__ LinearArgs<float, W> a) {                 \
    linear_gemv(a);                                                                               \
  }
FOR_EACH_DTYPE(GEMV)
