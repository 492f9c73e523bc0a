// Linear layer of many rows on Hopper's tensor cores.
//
// A block makes a tile of 128 rows by BN weight rows, then the next. One thread has stages of 64 values of k copied into
// a ring in shared memory; two warpgroups multiply, 64 rows each. Blocks work in pairs, clusters that make two tiles side
// by side: of what both need, weight rows or rows of x, each block has one half copied to both. When gated, half of the
// weight rows of a tile are those of the gate, the others those that they are multiplied with, and it makes BN / 2
// columns.
//
// Launch: 384 threads, clusters of two blocks in x, however many, dynamic shared memory
// 1024 + STAGES (128 + BN) 128 + 16 STAGES bytes. The maps are of x, in boxes of 64 rows, and of the weight, in boxes of
// BN / 2 rows, both of 64 values of k. The norm isn't applied.
#include "common/hopper.cuh"
#include "common/launch.cuh"
#include "common/linear.cuh"

constexpr int BM = 128;
constexpr int BK = 64;
constexpr int CLUSTER = 2;
constexpr int CONSUMERS = BM / 64;  // warpgroups
constexpr int THREADS = (1 + CONSUMERS) * WARPGROUP;
constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
// Pairs of tiles of rows that run side by side, so that they find each other's operands in the L2 cache.
constexpr int GROUP = 8;

template <int BN_, int STAGES_>
struct Tiling {
  static constexpr int BN = BN_, STAGES = STAGES_, TILES = BN / 8;
  static constexpr int X_BYTES = BM * BK * 2, W_BYTES = BN * BK * 2, STAGE_BYTES = X_BYTES + W_BYTES;
};

// Lane q of four gives pairs q of four tiles of eight columns, and gets the four pairs of tile q.
__device__ __forceinline__ void transpose_pairs(unsigned (&pairs)[4]) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int low = bit == 1 ? 2 * i : i, high = low + bit;
      const bool upper = threadIdx.x & bit;
      const unsigned other = __shfl_xor_sync(~0u, upper ? pairs[low] : pairs[high], bit);
      (upper ? pairs[low] : pairs[high]) = other;
    }
}

template <class S, class T>
struct Gemm {
  const LinearArgs<T>& a;
  unsigned ring, full, empty;  // shared addresses: stages, and their barriers
  int columns;                 // of a tile
  bool stacked;                // whether the tiles of a pair lie one below the other, or in one row
  int pairs_m, pairs_n, steps;

  __device__ __forceinline__ Gemm(const LinearArgs<T>& args, unsigned shared) : a(args) {
    ring = (shared + 1023) / 1024 * 1024;
    full = ring + S::STAGES * S::STAGE_BYTES;
    empty = full + S::STAGES * 8;
    columns = a.gated ? S::BN / 2 : S::BN;
    stacked = a.rows > BM;
    pairs_m = ceil_div(a.rows, stacked ? CLUSTER * BM : BM);
    pairs_n = ceil_div(a.n, stacked ? columns : CLUSTER * columns);
    steps = ceil_div(a.k, BK);
  }

  __device__ __forceinline__ unsigned stage(int slot) const { return ring + slot * S::STAGE_BYTES; }

  __device__ __forceinline__ void init_barriers() const {
    for (int i = 0; i < S::STAGES; ++i) {
      barrier_init(full + 8 * i, 1);
      barrier_init(empty + 8 * i, CLUSTER * CONSUMERS * WARPGROUP / WARP);
    }
    barrier_init_fence();
  }

  // Calls body(first row, first column) for every tile of this block: down a group of rows first, then along the columns.
  template <class Body>
  __device__ __forceinline__ void for_each_tile(Body body) const {
    const int rank = cluster_rank();
    for (int pair = blockIdx.x / CLUSTER; pair < pairs_m * pairs_n; pair += gridDim.x / CLUSTER) {
      const int first = pair / (GROUP * pairs_n) * GROUP;
      const int height = min(GROUP, pairs_m - first), within = pair - first * pairs_n;
      const int row = first + within % height, column = within / height;
      if (stacked) {
        body((row * CLUSTER + rank) * BM, column * columns);
      } else {
        body(row * BM, (column * CLUSTER + rank) * columns);
      }
    }
  }

  // Has one operand of a stage copied, in two boxes: its own, or one that both blocks get.
  static __device__ __forceinline__ void copy_operand(unsigned to, const TensorMap& map, int k, const int (&rows)[2],
                                                      unsigned box_bytes, unsigned barrier, bool shared_by_pair) {
    if (shared_by_pair) {
      const int rank = cluster_rank();
      copy_tile(to + rank * box_bytes, map, k, rank ? rows[1] : rows[0], barrier, (1 << CLUSTER) - 1);
    } else {
      copy_tile(to, map, k, rows[0], barrier);
      copy_tile(to + box_bytes, map, k, rows[1], barrier);
    }
  }

  // One thread: has the stages of all tiles copied, as places in the ring become free in both blocks.
  __device__ __forceinline__ void produce(const TensorMap& x, const TensorMap& weight) const {
    Slot<S::STAGES> slot;
    for_each_tile([&](int first_row, int first_column) {
      const int x_rows[2] = {first_row, first_row + BM / 2};
      const int weight_rows[2] = {first_column, first_column + (a.gated ? a.n : S::BN / 2)};
      for (int step = 0; step < steps; ++step, slot.advance()) {
        const unsigned at = stage(slot.index), barrier = full + 8 * slot.index;
        barrier_wait(empty + 8 * slot.index, slot.parity ^ 1);
        barrier_arrive_expecting(barrier, S::STAGE_BYTES);
        copy_operand(at, x, step * BK, x_rows, S::X_BYTES / 2, barrier, !stacked);
        copy_operand(at + S::X_BYTES, weight, step * BK, weight_rows, S::W_BYTES / 2, barrier, stacked);
      }
    });
  }

  __device__ __forceinline__ void release(int slot) const {
    if (lane_index() < CLUSTER) barrier_arrive(empty + 8 * slot, lane_index());
  }

  // Begins the products of a stage with this warpgroup's rows of x.
  __device__ __forceinline__ void multiply_stage(float (&d)[S::TILES][4], int slot, int group, bool first) const {
    const unsigned long long x = matrix_descriptor(stage(slot) + group * 64 * BK * 2);
    const unsigned long long w = matrix_descriptor(stage(slot) + S::X_BYTES);
    products_begin();
#pragma unroll
    for (int k = 0; k < BK; k += 16) multiply_group<T>(d, x + k / 8, w + k / 8, !(first && k == 0));
    products_commit();
  }

  // The sums of this warpgroup's rows of a tile.
  __device__ __forceinline__ void multiply(float (&sum)[S::TILES][4], Slot<S::STAGES>& slot, int group) const {
    constexpr int CHUNK_STEPS = CHUNK<T> / BK;
    float d[S::TILES][4];
#pragma unroll
    for (int i = 0; i < 4 * S::TILES; ++i) sum[i / 4][i % 4] = d[i / 4][i % 4] = 0.f;
    for (int chunk = 0; chunk < steps; chunk += CHUNK_STEPS) {
      const int end = min(chunk + CHUNK_STEPS, steps);
      int before = 0;
      for (int step = chunk; step < end; ++step, slot.advance()) {
        barrier_wait(full + 8 * slot.index, slot.parity);
        multiply_stage(d, slot.index, group, step == chunk);
        products_wait<1>();
        if (step > chunk) release(before);
        before = slot.index;
      }
      products_wait<0>();
      products_fence(d);
      release(before);
#pragma unroll
      for (int i = 0; i < 4 * S::TILES; ++i) sum[i / 4][i % 4] += d[i / 4][i % 4];
    }
  }

  // Bias, activation and gate, in place: afterwards the first tiles hold the columns of the result.
  __device__ __forceinline__ void activate_sums(float (&sum)[S::TILES][4], int first_column) const {
    if (a.bias) {
#pragma unroll
      for (int i = 0; i < 2 * S::TILES; ++i) {
        const int t = i / 2, tile = a.gated ? t % (S::TILES / 2) : t;
        const int column = first_column + tile * 8 + lane_index() % 4 * 2 + i % 2;
        const int row = column + (a.gated && t >= S::TILES / 2 ? a.n : 0);
        const float bias = column < a.n ? a.bias[row] : 0.f;
        sum[t][i % 2] += bias;
        sum[t][2 + i % 2] += bias;
      }
    }
    // The usual one inlined: calls would take as long as many products.
    if (a.activation == ACTIVATION_SILU) {
#pragma unroll
      for (int i = 0; i < 4 * S::TILES; ++i)
        if (!a.gated || i < 2 * S::TILES) sum[i / 4][i % 4] = silu(sum[i / 4][i % 4]);
    } else if (a.activation != ACTIVATION_IDENTITY) {
#pragma unroll
      for (int i = 0; i < 4 * S::TILES; ++i)
        if (!a.gated || i < 2 * S::TILES) sum[i / 4][i % 4] = activate(a.activation, sum[i / 4][i % 4]);
    }
    if (a.gated) {
#pragma unroll
      for (int i = 0; i < 2 * S::TILES; ++i) sum[i / 4][i % 4] *= sum[i / 4 + S::TILES / 2][i % 4];
    }
  }

  // Whether eight columns of a row can be read and written at once.
  __device__ __forceinline__ bool is_vectorizable_result() const {
    return !a.out_float32 && is_vectorizable(static_cast<const T*>(a.out), a.n, a.out_stride) &&
           (!a.residual || is_vectorizable(a.residual, a.n, a.residual_stride));
  }

  // Scales the sums, adds the residual and stores the result, eight columns at a time: of four tiles of columns each lane
  // of four has one.
  __device__ __forceinline__ void store_vectors(const float (&sum)[S::TILES][4], int own_row, int first_column) const {
    constexpr int FOURS = S::TILES / 4;
    const int own_column = first_column + lane_index() % 4 * 8;
    const auto is_there = [&](int i) {  // vector i: half i % 2 of the rows, four tiles from i / 2 * 4 on
      return own_row + i % 2 * 8 < a.rows && own_column + i / 2 * 32 < a.n && (!a.gated || i / 2 < FOURS / 2);
    };
    uint4 residual[2 * FOURS];
#pragma unroll
    for (int i = 0; i < 2 * FOURS; ++i) {
      const T* source = a.residual + (own_row + i % 2 * 8) * a.residual_stride + own_column + i / 2 * 32;
      residual[i] = a.residual && is_there(i) ? load16(source) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < 2 * FOURS; ++i) {
      if (a.gated && i / 2 >= FOURS / 2) break;
      unsigned pairs[4] = {residual[i].x, residual[i].y, residual[i].z, residual[i].w};
      if (a.residual) transpose_pairs(pairs);
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        float y[2], r[2];
        unpack2<T>(pairs[t], r[0], r[1]);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          y[j] = sum[i / 2 * 4 + t][i % 2 * 2 + j] * a.scale;
          if (a.residual) y[j] = r[j] + y[j];
        }
        pairs[t] = pack2<T>(y[0], y[1]);
      }
      transpose_pairs(pairs);
      T* target = static_cast<T*>(a.out) + (own_row + i % 2 * 8) * a.out_stride + own_column + i / 2 * 32;
      if (is_there(i)) store16(target, make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
    }
  }

  __device__ __forceinline__ void store_each(const float (&sum)[S::TILES][4], int own_row, int first_column) const {
#pragma unroll
    for (int i = 0; i < 4 * S::TILES; ++i) {
      if (a.gated && i >= 2 * S::TILES) break;
      const int row = own_row + i / 2 % 2 * 8, column = first_column + i / 4 * 8 + lane_index() % 4 * 2 + i % 2;
      if (row >= a.rows || column >= a.n) continue;
      const float y = sum[i / 4][i % 4] * a.scale;
      store(a, row, column, a.residual ? to_float(a.residual[row * a.residual_stride + column]) + y : y);
    }
  }

  __device__ __forceinline__ void finish(float (&sum)[S::TILES][4], int group, int first_row, int first_column) const {
    activate_sums(sum, first_column);
    const int own_row = first_row + group * 64 + warp_index() % 4 * 16 + lane_index() / 4;
    if (is_vectorizable_result()) {
      store_vectors(sum, own_row, first_column);
    } else {
      store_each(sum, own_row, first_column);
    }
  }

  __device__ __forceinline__ void consume(int group) const {
    Slot<S::STAGES> slot;
    for_each_tile([&](int first_row, int first_column) {
      float sum[S::TILES][4];
      multiply(sum, slot, group);
      finish(sum, group, first_row, first_column);
    });
  }
};

template <class S, class T>
__device__ __forceinline__ void linear_wgmma(const LinearArgs<T>& a, const TensorMap& x, const TensorMap& weight) {
  extern __shared__ unsigned char shared[];
  const Gemm<S, T> gemm(a, shared_address(shared));
  if (threadIdx.x == 0) {
    prefetch(x);
    prefetch(weight);
    gemm.init_barriers();
  }
  cluster_sync();
  start_dependents();
  wait_for_inputs();
  if (threadIdx.x < WARPGROUP) {
    give_registers<PRODUCER_REGISTERS>();
    if (threadIdx.x == 0) gemm.produce(x, weight);
  } else {
    take_registers<CONSUMER_REGISTERS>();
    gemm.consume(threadIdx.x / WARPGROUP - 1);
  }
  // A block's shared memory must be there until the other one has arrived at its barriers for the last time.
  __syncwarp();
  cluster_sync();
}

using Tiling64 = Tiling<64, 8>;
using Tiling128 = Tiling<128, 6>;
using Tiling192 = Tiling<192, 5>;

#define ENTRY(BN, T)                                                                                       \
  extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                 \
      linear_wgmma_##BN##_##T(const __grid_constant__ LinearArgs<T> a, const __grid_constant__ TensorMap x, \
                              const __grid_constant__ TensorMap weight) {                                  \
    linear_wgmma<Tiling##BN>(a, x, weight);                                                                \
  }
#define ENTRIES(T) ENTRY(64, T) ENTRY(128, T) ENTRY(192, T)
FOR_EACH_16BIT(ENTRIES)
