// Linear layer of a few rows on Hopper: a stream of weights, with x beside it.
//
// A block makes tiles of 16 weight rows. Two threads have chunks of k copied into a ring in shared memory, the
// weights before the kernel waits for x. Each place of the ring has a warp that multiplies what comes there and leaves the
// sums; four more add them in order and finish the tiles. Blocks take half of a multiprocessor's shared memory, so that
// the next launch's are there, with their first weights under way, before this one's end.
//
// When gated, the first eight weight rows of a tile are those of the gate, the others those that they are multiplied with,
// and it makes 8 columns.
//
// Launch: 32 (STAGES + 6) threads, however many blocks, dynamic shared memory STAGES (8192 + 576 ROWS + 32) bytes. The
// maps have four dimensions: 64 values of k, rows, parts (of a gated weight), and k / 64. Their boxes are of 64 values of
// k, of x as many rows as there are, rounded up to a multiple of 8, of the weight 16 rows (8 of each part of a gated one),
// and 4 in the last dimension. The norm isn't applied.
#include "common/hopper.cuh"
#include "common/launch.cuh"
#include "common/linear.cuh"
#include "common/mma.cuh"

// One kernel for both types: a step of a model has products of both, and code that has just run is at hand.
using T = bits16;

constexpr int PANEL = 64, PANELS = CHUNK<T> / PANEL;  // values of k in a row of 128 bytes, such rows of a chunk
constexpr int TILE = 16, HALF = TILE / 2;             // weight rows
constexpr int W_BYTES = TILE * CHUNK<T> * 2;
constexpr int FINISHERS = 4;  // warps

template <int ROWS_, int STAGES_>
struct Tiling {
  static constexpr int ROWS = ROWS_, STAGES = STAGES_, TILES = ROWS / 8;
  static constexpr int STAGE_BYTES = W_BYTES + ROWS * CHUNK<T> * 2;
  static constexpr int SUMS = TILE * ROWS;  // of a chunk
  static constexpr int THREADS = (STAGES + FINISHERS + 2) * WARP;
};

template <class S>
struct Stream {
  const LinearArgs<T>& a;
  // Shared addresses: places of the ring, and their barriers: both operands have come, they have been multiplied, the sums
  // are there, they have been added.
  unsigned ring, full, empty, done, added;
  float* sums;         // of each place
  int chunks;          // of a tile
  int columns, tiles;  // of the result
  int x_rows;          // of a stage

  __device__ __forceinline__ Stream(const LinearArgs<T>& args, unsigned char* memory) : a(args) {
    ring = shared_address(memory);
    full = ring + S::STAGES * S::STAGE_BYTES;
    empty = full + 8 * S::STAGES;
    done = empty + 8 * S::STAGES;
    added = done + 8 * S::STAGES;
    sums = reinterpret_cast<float*>(memory + S::STAGES * (S::STAGE_BYTES + 32));
    chunks = ceil_div(a.k, CHUNK<T>);
    columns = a.gated ? HALF : TILE;
    tiles = ceil_div(a.n, columns);
    x_rows = ceil_div(a.rows, 8) * 8;
  }

  __device__ __forceinline__ unsigned place(int index) const { return ring + index * S::STAGE_BYTES; }

  __device__ __forceinline__ void init_barriers() const {
#pragma unroll 1
    for (int i = 0; i < S::STAGES; ++i) {
      barrier_init(full + 8 * i, 1);
      // Every lane arrives for itself, so that racecheck can follow.
      barrier_init(empty + 8 * i, WARP);
      barrier_init(done + 8 * i, WARP);
      barrier_init(added + 8 * i, FINISHERS * WARP);
    }
    barrier_init_fence();
  }

  // Calls body(slot, chunk, tile) for every chunk of every tile of this block.
  template <class Body>
  __device__ __forceinline__ void for_each_chunk(Body body) const {
    Slot<S::STAGES> slot;
#pragma unroll 1
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
#pragma unroll 1
      for (int chunk = 0; chunk < chunks; ++chunk, slot.advance()) body(slot, chunk, tile);
  }

  // One thread: has weights copied as places in the ring become free.
  __device__ __forceinline__ void produce_weights(const TensorMap& weight) const {
    for_each_chunk([&](const Slot<S::STAGES>& slot, int chunk, int tile) {
      const unsigned barrier = full + 8 * slot.index;
      barrier_wait(empty + 8 * slot.index, slot.parity ^ 1);
      barrier_arrive_expecting(barrier, x_rows * CHUNK<T> * 2 + W_BYTES);
      copy_tile(place(slot.index), weight, 0, tile * columns, 0, chunk * PANELS, barrier);
    });
  }

  // Another one: has x copied beside them.
  __device__ __forceinline__ void produce_x(const TensorMap& x) const {
    wait_for_inputs();
    for_each_chunk([&](const Slot<S::STAGES>& slot, int chunk, int) {
      barrier_wait(empty + 8 * slot.index, slot.parity ^ 1);
      copy_tile(place(slot.index) + W_BYTES, x, 0, 0, 0, chunk * PANELS, full + 8 * slot.index);
    });
  }

  // The products of the chunk that lies in a place.
  template <class Product>
  __device__ __forceinline__ void multiply_chunk(float (&d)[S::TILES][4], int index) const {
    const int lane = lane_index(), row = lane % 8, matrix = lane / 8;
    // Piece i, of 16 bytes, of row r lies at i ^ (r % 8), and r % 8 is `row` for all that this lane addresses.
    const unsigned w_row = place(index) + (matrix % 2 * 8 + row) * 128;
    const unsigned x_row = place(index) + W_BYTES + row * 128;
#pragma unroll
    for (int i = 0; i < 4 * S::TILES; ++i) d[i / 4][i % 4] = 0.f;
#pragma unroll
    for (int half = 0; half < 2 * PANELS; ++half) {
      const int panel = half / 2, piece = half % 2 * 4;
      unsigned b[S::TILES][4];
#pragma unroll
      for (int t = 0; t < S::TILES; ++t)
        load_matrix_x4(b[t], x_row + panel * x_rows * 128 + t * 1024 + ((piece + matrix) ^ row) * 16);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        unsigned w[4];
        load_matrix_x4(w, w_row + panel * TILE * 128 + ((piece + step * 2 + matrix / 2) ^ row) * 16);
#pragma unroll
        for (int t = 0; t < S::TILES; ++t) mma<Product>(d[t], w[0], w[1], w[2], w[3], b[t][2 * step], b[t][2 * step + 1]);
      }
    }
  }

  // Where the sum of a row of x and a weight row lies in a place.
  static __device__ __forceinline__ int sum_index(int row, int weight_row) {
    return row * TILE + (weight_row ^ (row & 2) * 4);
  }

  // The warp of a place of the ring: multiplies what comes there.
  __device__ __forceinline__ void multiply() const {
    const int index = warp_index(), lane = lane_index();
    const int own_tiles = ceil_div(tiles - static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
    unsigned parity = 0;
#pragma unroll 1
    for (int chunk = index; chunk < own_tiles * chunks; chunk += S::STAGES, parity ^= 1) {
      float d[S::TILES][4];
      barrier_wait(full + 8 * index, parity);
      __syncwarp();
      if (a.dtype == DTYPE_F16)
        multiply_chunk<f16>(d, index);
      else
        multiply_chunk<bf16>(d, index);
      barrier_arrive(empty + 8 * index);
      barrier_wait(added + 8 * index, parity ^ 1);
#pragma unroll
      for (int i = 0; i < 4 * S::TILES; ++i) {
        const int row = i / 4 * 8 + lane % 4 * 2 + i % 2, weight_row = lane / 4 + i % 4 / 2 * HALF;
        sums[index * S::SUMS + sum_index(row, weight_row)] = d[i / 4][i % 4];
      }
      barrier_arrive(done + 8 * index);
    }
  }

  // The warps that add the sums of chunks in order and finish tiles: each thread has two weight rows, eight apart, for
  // some rows of x.
  __device__ __forceinline__ void finish() const {
    constexpr int AT_ONCE = FINISHERS * WARP / HALF, EACH = ceil_div(S::ROWS, AT_ONCE);
    wait_for_inputs();
    const int thread = threadIdx.x - S::STAGES * WARP, weight_row = thread % HALF, first_row = thread / HALF;
    const auto row = [&](int i) { return first_row + i / 2 * AT_ONCE; };
    Ranked first_logits[EACH] = {};
    Slot<S::STAGES> slot;
#pragma unroll 1
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const auto column = [&](int i) { return tile * columns + weight_row + i % 2 * HALF; };
      const auto is_there = [&](int i) { return row(i) < a.rows && column(i) < a.n && !(a.gated && i % 2); };
      float residual[2 * EACH], sum[2 * EACH];
#pragma unroll
      for (int i = 0; i < 2 * EACH; ++i) {
        residual[i] = a.residual && is_there(i) ? a.residual[row(i) * a.residual_stride + column(i)] : 0.f;
        sum[i] = 0.f;
      }
#pragma unroll 1
      for (int chunk = 0; chunk < chunks; ++chunk, slot.advance()) {
        const float* from = sums + slot.index * S::SUMS;
        barrier_wait(done + 8 * slot.index, slot.parity);
#pragma unroll
        for (int i = 0; i < 2 * EACH; ++i)
          if (row(i) < S::ROWS) sum[i] += from[sum_index(row(i), weight_row + i % 2 * HALF)];
        barrier_arrive(added + 8 * slot.index);
      }
#pragma unroll
      for (int i = 0; i < 2 * EACH; ++i) {
        if (!is_there(i)) continue;
        const float y = finish_sums(a, column(i), sum[i], sum[i / 2 * 2 + 1]);
        store(a, row(i), column(i), a.residual ? residual[i] + y : y);
        if (a.maxima) first_logits[i / 2] = Later()(first_logits[i / 2], rank_any(y, column(i)));
      }
    }
    if (!a.maxima) return;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const Ranked first = warp_reduce<HALF>(first_logits[i], Later());
      if (weight_row == 0 && row(2 * i) < a.rows) a.maxima[row(2 * i) * MAXIMA + blockIdx.x] = first;
    }
  }
};

template <class S>
__device__ __forceinline__ void linear_few_tma(const LinearArgs<T>& a, const TensorMap& x, const TensorMap& weight) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const Stream<S> stream(a, shared);
  if (threadIdx.x == 0) {
    prefetch(x);
    prefetch(weight);
    stream.init_barriers();
  }
  __syncthreads();
  start_dependents();
  const int warp = warp_index();
  if (warp < S::STAGES) {
    stream.multiply();
  } else if (warp < S::STAGES + FINISHERS) {
    stream.finish();
  } else if (lane_index() == 0) {
    if (warp == S::STAGES + FINISHERS)
      stream.produce_weights(weight);
    else
      stream.produce_x(x);
  }
}

using Tiling8 = Tiling<8, 8>;
using Tiling16 = Tiling<16, 6>;
using Tiling32 = Tiling<32, 4>;

#define ENTRY(ROWS)                                                                                       \
  extern "C" __global__ void __launch_bounds__(Tiling##ROWS::THREADS, 2)                                   \
      linear_few_tma_##ROWS(const __grid_constant__ LinearArgs<T> a, const __grid_constant__ TensorMap x,  \
                            const __grid_constant__ TensorMap weight) {                                    \
    linear_few_tma<Tiling##ROWS>(a, x, weight);                                                            \
  }
ENTRY(8) ENTRY(16) ENTRY(32)
