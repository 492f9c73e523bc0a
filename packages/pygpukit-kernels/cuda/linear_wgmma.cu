// Linear layer of more than a few rows on Hopper's tensor cores.
//
// A block makes a tile of BM rows by BN weight rows, then the next. Two threads have stages of 64 PANELS values of k
// copied into a ring in shared memory; BM / 64 warpgroups multiply, 64 rows each. Blocks work in clusters that make tiles
// side by side: the operand that all of them need, the weight or, where there is one tile of rows, x, the first one has
// copied to all. When gated, half of the weight rows of a tile are those of the gate, the others those that they are
// multiplied with, and it makes BN / 2 columns.
//
// With few rows all is about the stream of weights: tiles are narrow, so that all multiprocessors have one, stages long,
// because each takes the threads that copy as long as it does whatever its size, and where x isn't shared weights are on
// their way before the kernel waits for x.
//
// Launch: 128 + 2 BM threads, clusters of CLUSTER blocks in x, however many, dynamic shared memory
// 1024 + STAGES ((BM + BN) PANELS 128 + 24) bytes. The maps have four dimensions: k, rows, parts (of a gated weight) and
// one that is idle; or, if PANELS > 1, 64 values of k, rows, parts, and k / 64. Their boxes are of 64 values of k, of x as
// many rows as there are, rounded up to a multiple of 8, and BM at most, of the weight BN rows (BN / 2 of each part of a
// gated one), and PANELS in the last dimension. The norm isn't applied.
#include "common/hopper.cuh"
#include "common/launch.cuh"
#include "common/linear.cuh"

// One kernel for both types: a step of a model has products of both, and code that has just run is at hand.
using T = bits16;

constexpr int PANEL = 64;  // values of k in a row of 128 bytes
constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
// Pairs of tiles of rows that run side by side, so that they find each other's operands in the L2 cache.
constexpr int GROUP = 8;

template <int BM_, int BN_, int PANELS_, int STAGES_, int CLUSTER_>
struct Tiling {
  static constexpr int BM = BM_, BN = BN_, PANELS = PANELS_, STAGES = STAGES_, CLUSTER = CLUSTER_, TILES = BN / 8;
  static constexpr int CONSUMERS = BM / 64;  // warpgroups
  static constexpr int THREADS = (1 + CONSUMERS) * WARPGROUP;
  // Sums of wide tiles take all registers that there are. Narrow ones are compiled for more threads than they are launched
  // with, so that the next launch's blocks find registers beside theirs.
  static constexpr bool WIDE = BN > 32;
  static constexpr int MOST_THREADS = WIDE ? THREADS : 4 * WARPGROUP;
  static constexpr int BK = PANELS * PANEL;  // of a stage
  static constexpr int CHUNK_STEPS = CHUNK<T> / BK;
  static constexpr int X_BYTES = BM * BK * 2, W_BYTES = BN * BK * 2, STAGE_BYTES = X_BYTES + W_BYTES;
  static_assert(TILES % 4 == 0, "columns are stored four tiles at a time");
  static constexpr unsigned short ALL_BLOCKS = CLUSTER == 1 ? 0 : (1 << CLUSTER) - 1;
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

template <class S>
struct Gemm {
  const LinearArgs<T>& a;
  // Shared addresses: stages, and their barriers. `ready` is used in the first block of a cluster.
  unsigned ring, full, empty, ready;
  int columns;                 // of a tile
  bool stacked;                // whether a cluster's tiles lie one below the other, or in one row
  int groups_m, groups_n;      // of tiles that a cluster makes
  int steps;                   // stages of a tile
  int x_rows;                  // of a stage

  __device__ __forceinline__ Gemm(const LinearArgs<T>& args, unsigned char* memory) : a(args) {
    ring = (shared_address(memory) + 1023) / 1024 * 1024;
    full = ring + S::STAGES * S::STAGE_BYTES;
    empty = full + S::STAGES * 8;
    ready = empty + S::STAGES * 8;
    columns = a.gated ? S::BN / 2 : S::BN;
    stacked = S::CLUSTER == 2 && a.rows > S::BM;
    groups_m = ceil_div(a.rows, stacked ? S::CLUSTER * S::BM : S::BM);
    groups_n = ceil_div(a.n, stacked ? columns : S::CLUSTER * columns);
    steps = ceil_div(a.k, S::BK);
    x_rows = min(S::BM, ceil_div(a.rows, 8) * 8);
  }

  __device__ __forceinline__ unsigned stage(int slot) const { return ring + slot * S::STAGE_BYTES; }

  __device__ __forceinline__ void init_barriers() const {
#pragma unroll 1
    for (int i = 0; i < S::STAGES; ++i) {
      barrier_init(full + 8 * i, 1);
      barrier_init(empty + 8 * i, S::CONSUMERS * WARPGROUP / WARP);
      barrier_init(ready + 8 * i, S::CLUSTER);
    }
    barrier_init_fence();
  }

  // Calls body(first row, first column) for every tile of this block: down a group of rows first, then along the columns.
  template <class Body>
  __device__ __forceinline__ void for_each_tile(Body body) const {
#pragma unroll 1
    for (int tiles = blockIdx.x / S::CLUSTER; tiles < groups_m * groups_n; tiles += gridDim.x / S::CLUSTER) {
      const int first = tiles / (GROUP * groups_n) * GROUP;
      const int height = min(GROUP, groups_m - first), within = tiles - first * groups_n;
      const int row = first + within % height, column = within / height;
      // One call: what calls it twice has it in memory twice.
      const int own_row = stacked ? row * S::CLUSTER + cluster_rank() : row;
      const int own_column = stacked ? column : column * S::CLUSTER + cluster_rank();
      body(own_row * S::BM, own_column * columns);
    }
  }

  // Calls body(slot, step, first row, first column) for every stage of every tile of this block.
  template <class Body>
  __device__ __forceinline__ void for_each_stage(Body body) const {
    Slot<S::STAGES> slot;
    for_each_tile([&](int first_row, int first_column) {
#pragma unroll 1
      for (int step = 0; step < steps; ++step, slot.advance()) body(slot, step, first_row, first_column);
    });
  }

  // Has an operand of a stage copied, to all `blocks` of the cluster or, if 0, to this one. The maps number values of k,
  // rows, parts of the weight and, where a stage has several, panels.
  __device__ __forceinline__ void copy(unsigned to, const TensorMap& map, int slot, int step, int row,
                                       unsigned short blocks) const {
    const int k = S::PANELS == 1 ? step * PANEL : 0, panel = S::PANELS == 1 ? 0 : step * S::PANELS;
    copy_tile(to, map, k, row, 0, panel, full + 8 * slot, blocks);
  }
  __device__ __forceinline__ void copy_x(const TensorMap& map, int slot, int step, int row, unsigned short blocks) const {
    copy(stage(slot), map, slot, step, row, blocks);
  }
  __device__ __forceinline__ void copy_weight(const TensorMap& map, int slot, int step, int column,
                                              unsigned short blocks) const {
    copy(stage(slot) + S::X_BYTES, map, slot, step, column, blocks);
  }

  // One thread: has this block's own operand copied as places in its ring become free, and says so to the first block.
  __device__ __forceinline__ void produce_own(const TensorMap& x, const TensorMap& weight) const {
    if (stacked) wait_for_inputs();
    for_each_stage([&](const Slot<S::STAGES>& slot, int step, int first_row, int first_column) {
      barrier_wait(empty + 8 * slot.index, slot.parity ^ 1);
      barrier_arrive_expecting(full + 8 * slot.index, x_rows * S::BK * 2 + S::W_BYTES);
      barrier_arrive(ready + 8 * slot.index, 0);
      if (stacked) {
        copy_x(x, slot.index, step, first_row, 0);
      } else {
        copy_weight(weight, slot.index, step, first_column, 0);
      }
    });
  }

  // One thread of the first block: has the operand copied that all blocks need, as the place is free in all of them.
  __device__ __forceinline__ void produce_shared(const TensorMap& x, const TensorMap& weight) const {
    if (!stacked) wait_for_inputs();
    for_each_stage([&](const Slot<S::STAGES>& slot, int step, int first_row, int first_column) {
      barrier_wait(ready + 8 * slot.index, slot.parity);
      if (stacked) {
        copy_weight(weight, slot.index, step, first_column, S::ALL_BLOCKS);
      } else {
        copy_x(x, slot.index, step, first_row, S::ALL_BLOCKS);
      }
    });
  }

  __device__ __forceinline__ void release(int slot) const {
    if (lane_index() == 0) barrier_arrive(empty + 8 * slot);
  }

  // Begins the products of a stage with this warpgroup's rows of x.
  template <class Product>
  __device__ __forceinline__ void multiply_stage(float (&d)[S::TILES][4], int slot, int group, bool first) const {
    const unsigned x_panel = x_rows * PANEL * 2, w_panel = S::BN * PANEL * 2;
    products_begin();
#pragma unroll
    for (int panel = 0; panel < S::PANELS; ++panel) {
      const unsigned long long x = matrix_descriptor(stage(slot) + panel * x_panel + group * 64 * PANEL * 2);
      const unsigned long long w = matrix_descriptor(stage(slot) + S::X_BYTES + panel * w_panel);
#pragma unroll
      for (int k = 0; k < PANEL; k += 16) multiply_group<Product>(d, x + k / 8, w + k / 8, !(first && panel == 0 && k == 0));
    }
    products_commit();
  }

  // The products of the chunk that begins with stage `first`.
  template <class Product>
  __device__ __forceinline__ void multiply_chunk(float (&d)[S::TILES][4], Slot<S::STAGES>& slot, int group, int first) const {
    const int end = min(first + S::CHUNK_STEPS, steps);
    int before = 0;
#pragma unroll 1
    for (int step = first; step < end; ++step, slot.advance()) {
      barrier_wait(full + 8 * slot.index, slot.parity);
      multiply_stage<Product>(d, slot.index, group, step == first);
      products_wait<1>();
      if (step > first) release(before);
      before = slot.index;
    }
    products_wait<0>();
    products_fence(d);
    release(before);
  }

  // The sums of this warpgroup's rows of a tile.
  template <class Product>
  __device__ __forceinline__ void multiply(float (&sum)[S::TILES][4], Slot<S::STAGES>& slot, int group) const {
    float d[S::TILES][4];
#pragma unroll
    for (int i = 0; i < 4 * S::TILES; ++i) sum[i / 4][i % 4] = d[i / 4][i % 4] = 0.f;
#pragma unroll 1
    for (int first = 0; first < steps; first += S::CHUNK_STEPS) {
      multiply_chunk<Product>(d, slot, group, first);
#pragma unroll
      for (int i = 0; i < 4 * S::TILES; ++i) sum[i / 4][i % 4] += d[i / 4][i % 4];
    }
  }

  // Adds the bias, of type B or of the 16-bit type of a.bias.
  template <class B>
  __device__ __forceinline__ void add_bias(float (&sum)[S::TILES][4], int first_column) const {
    const B* bias = static_cast<const B*>(a.bias.data) + first_column + lane_index() % 4 * 2;
    const int columns_left = a.n - first_column - lane_index() % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2 * S::TILES; ++i) {
      const int t = i / 2, within = (a.gated ? t % (S::TILES / 2) : t) * 8 + i % 2;
      if (within >= columns_left) continue;
      const float value = to_float(bias[within + (a.gated && t >= S::TILES / 2 ? a.n : 0)], a.bias.dtype);
      sum[t][i % 2] += value;
      sum[t][2 + i % 2] += value;
    }
  }

  // Bias, activation and gate, in place: afterwards the first tiles hold the columns of the result.
  __device__ __forceinline__ void activate_sums(float (&sum)[S::TILES][4], int first_column) const {
    if (a.bias && a.bias.dtype == DTYPE_F32)
      add_bias<float>(sum, first_column);
    else if (a.bias)
      add_bias<bits16>(sum, first_column);
    // The usual one inlined: calls would take as long as many products.
    if (a.activation == ACTIVATION_SILU) {
#pragma unroll
      for (int i = 0; i < 4 * S::TILES; ++i)
        if (!a.gated || i < 2 * S::TILES) sum[i / 4][i % 4] = silu(sum[i / 4][i % 4]);
    } else if (a.activation != ACTIVATION_IDENTITY) {
      // One by one in memory: it is small code, and that of a kernel comes from memory, too.
      float kept[4 * S::TILES];
#pragma unroll
      for (int i = 0; i < 4 * S::TILES; ++i) kept[i] = sum[i / 4][i % 4];
#pragma unroll 1
      for (int i = 0; i < (a.gated ? 2 : 4) * S::TILES; ++i) kept[i] = activate(a.activation, kept[i]);
#pragma unroll
      for (int i = 0; i < 4 * S::TILES; ++i) sum[i / 4][i % 4] = kept[i];
    }
    if (a.gated) {
#pragma unroll
      for (int i = 0; i < 2 * S::TILES; ++i) sum[i / 4][i % 4] *= sum[i / 4 + S::TILES / 2][i % 4];
    }
  }

  // Whether eight columns of a row, of 16 bits, can be read and written at once, and a tile has enough of them.
  __device__ __forceinline__ bool is_vectorizable_result() const {
    return S::TILES % (a.gated ? 8 : 4) == 0 && a.out_dtype != DTYPE_F32 &&
           is_vectorizable(static_cast<const T*>(a.out), a.n, a.out_stride) &&
           (!a.residual || (a.residual.dtype == a.out_dtype &&
                            is_vectorizable(static_cast<const T*>(a.residual.data), a.n, a.residual_stride)));
  }

  // Scales the sums, adds the residual and stores the result, both of type R, eight columns at a time: of four tiles of
  // columns each lane of four has one.
  template <class R>
  __device__ __forceinline__ void store_vectors(const float (&sum)[S::TILES][4], int own_row, int first_column) const {
    constexpr int FOURS = S::TILES / 4;
    const int own_column = first_column + lane_index() % 4 * 8;
    const auto is_there = [&](int i) {  // vector i: half i % 2 of the rows, four tiles from i / 2 * 4 on
      return own_row + i % 2 * 8 < a.rows && own_column + i / 2 * 32 < a.n && (!a.gated || i / 2 < FOURS / 2);
    };
    uint4 residual[2 * FOURS];
#pragma unroll
    for (int i = 0; i < 2 * FOURS; ++i) {
      const R* source = static_cast<const R*>(a.residual.data) + (own_row + i % 2 * 8) * a.residual_stride + own_column + i / 2 * 32;
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
        unpack2<R>(pairs[t], r[0], r[1]);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          y[j] = sum[i / 2 * 4 + t][i % 2 * 2 + j] * a.scale;
          if (a.residual) y[j] = r[j] + y[j];
        }
        pairs[t] = pack2<R>(y[0], y[1]);
      }
      transpose_pairs(pairs);
      R* target = static_cast<R*>(a.out) + (own_row + i % 2 * 8) * a.out_stride + own_column + i / 2 * 32;
      if (is_there(i)) store16(target, make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
    }
  }

  // What can't be stored otherwise.
  __device__ __forceinline__ void store_each(const float (&sum)[S::TILES][4], int own_row, int first_column) const {
    float kept[4 * S::TILES];
#pragma unroll
    for (int i = 0; i < 4 * S::TILES; ++i) kept[i] = sum[i / 4][i % 4];
#pragma unroll 1
    for (int i = 0; i < (a.gated ? 2 : 4) * S::TILES; ++i) {
      const int row = own_row + i / 2 % 2 * 8, column = first_column + i / 4 * 8 + lane_index() % 4 * 2 + i % 2;
      if (row >= a.rows || column >= a.n) continue;
      const float y = kept[i] * a.scale;
      store(a, row, column, a.residual ? a.residual[row * a.residual_stride + column] + y : y);
    }
  }

  // Whether the result can be written in pairs of R, and nothing is added to it.
  template <class R>
  __device__ __forceinline__ bool is_pairs_result() const {
    return !a.residual && is_pairs(a.out, 2 * sizeof(R), a.n, a.out_stride);
  }

  // Scales the sums and stores them: the four lanes of a row write eight columns.
  template <class R>
  __device__ __forceinline__ void store_pairs(const float (&sum)[S::TILES][4], int own_row, int first_column) const {
    const int columns_left = a.n - first_column - lane_index() % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = own_row + half * 8;
      if (row >= a.rows) continue;
      R* target = static_cast<R*>(a.out) + row * a.out_stride + a.n - columns_left;
#pragma unroll
      for (int t = 0; t < S::TILES; ++t) {
        if (t * 8 >= columns_left || (a.gated && t >= S::TILES / 2)) continue;
        const float low = sum[t][half * 2] * a.scale, high = sum[t][half * 2 + 1] * a.scale;
        if constexpr (same_type<R, float>)
          *reinterpret_cast<float2*>(target + t * 8) = make_float2(low, high);
        else
          *reinterpret_cast<unsigned*>(target + t * 8) = pack2(a.out_dtype, low, high);
      }
    }
  }

  // Takes a tile's logits into the first ones of this thread's two rows. What lies behind the last column becomes -∞.
  __device__ __forceinline__ void rank_sums(float (&sum)[S::TILES][4], int first_column, Ranked (&first)[2]) const {
    const int own_column = first_column + lane_index() % 4 * 2, columns_left = a.n - own_column;
    if (columns_left < S::BN) {
#pragma unroll
      for (int i = 0; i < 4 * S::TILES; ++i)
        if (i / 4 * 8 + i % 2 >= columns_left) sum[i / 4][i % 4] = -INFINITY_F32;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -INFINITY_F32;  // or NaN, if any is
#pragma unroll
      for (int i = 0; i < 2 * S::TILES; ++i) largest = max_or_nan(largest, sum[i / 2][half * 2 + i % 2] * a.scale);
      // Of equals the first one counts, which is here already.
      if (key(rank_any(largest, 0)) <= key(first[half])) continue;
      int column = 0;
#pragma unroll
      for (int i = 2 * S::TILES - 1; i >= 0; --i)
        if (sum[i / 2][half * 2 + i % 2] * a.scale == largest) column = i / 2 * 8 + i % 2;
      first[half] = rank_any(largest, own_column + column);
    }
  }

  // The row of x that this thread has, and another one eight further on.
  __device__ __forceinline__ int own_row(int group, int first_row) const {
    return first_row + group * 64 + warp_index() % 4 * 16 + lane_index() / 4;
  }

  // Where a block's tiles are all of the same rows.
  __device__ __forceinline__ void keep_maxima(const Ranked (&first)[2], int row) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Ranked found = warp_reduce<4>(first[half], Later());
      if (lane_index() % 4 == 0 && row + half * 8 < a.rows) a.maxima[(row + half * 8) * MAXIMA + blockIdx.x] = found;
    }
  }

  __device__ __forceinline__ void finish(float (&sum)[S::TILES][4], int group, int first_row, int first_column,
                                         Ranked (&first)[2]) const {
    activate_sums(sum, first_column);
    if (a.maxima) rank_sums(sum, first_column, first);
    const int own_row = this->own_row(group, first_row);
    if (is_vectorizable_result()) {
      if (a.out_dtype == DTYPE_F16)
        store_vectors<f16>(sum, own_row, first_column);
      else
        store_vectors<bf16>(sum, own_row, first_column);
    } else if (a.out_dtype == DTYPE_F32 && is_pairs_result<float>()) {  // as of lm_head
      store_pairs<float>(sum, own_row, first_column);
    } else if (S::TILES % 8 && a.out_dtype != DTYPE_F32 && is_pairs_result<bits16>()) {  // as of a gate, in narrow tiles
      store_pairs<bits16>(sum, own_row, first_column);
    } else {
      store_each(sum, own_row, first_column);
    }
  }

  __device__ __forceinline__ void consume(int group) const {
    Slot<S::STAGES> slot;
    Ranked first[2] = {};
    for_each_tile([&](int first_row, int first_column) {
      float sum[S::TILES][4];
      if (a.dtype == DTYPE_F16)
        multiply<f16>(sum, slot, group);
      else
        multiply<bf16>(sum, slot, group);
      finish(sum, group, first_row, first_column, first);
    });
    if (a.maxima) keep_maxima(first, own_row(group, stacked ? cluster_rank() * S::BM : 0));
  }
};

template <class S>
__device__ __forceinline__ void linear_wgmma(const LinearArgs<T>& a, const TensorMap& x, const TensorMap& weight) {
  extern __shared__ unsigned char shared[];
  const Gemm<S> gemm(a, shared);
  if (threadIdx.x == 0) {
    prefetch(x);
    prefetch(weight);
    gemm.init_barriers();
  }
  cluster_sync();
  start_dependents();
  if (threadIdx.x < WARPGROUP) {
    if constexpr (S::WIDE) give_registers<PRODUCER_REGISTERS>();
    if (threadIdx.x == 0) gemm.produce_own(x, weight);
    if (threadIdx.x == WARP && cluster_rank() == 0) gemm.produce_shared(x, weight);
  } else {
    if constexpr (S::WIDE) take_registers<CONSUMER_REGISTERS>();
    wait_for_inputs();
    gemm.consume(threadIdx.x / WARPGROUP - 1);
  }
  // A block's shared memory must be there until the others have written to it and arrived at its barriers.
  __syncwarp();
  cluster_sync();
}

using Tiling64x32 = Tiling<64, 32, 4, 4, 1>;
using Tiling128x32 = Tiling<128, 32, 2, 5, 1>;
using Tiling128x64 = Tiling<128, 64, 1, 8, 2>;
using Tiling128x96 = Tiling<128, 96, 1, 7, 2>;
using Tiling128x128 = Tiling<128, 128, 1, 6, 2>;
using Tiling128x160 = Tiling<128, 160, 1, 6, 2>;
using Tiling128x192 = Tiling<128, 192, 1, 5, 2>;

#define ENTRY(SIZE)                                                                                       \
  extern "C" __global__ void __launch_bounds__(Tiling##SIZE::MOST_THREADS, 1)                                \
      linear_wgmma_##SIZE(const __grid_constant__ LinearArgs<T> a, const __grid_constant__ TensorMap x,   \
                          const __grid_constant__ TensorMap weight) {                                     \
    linear_wgmma<Tiling##SIZE>(a, x, weight);                                                             \
  }
ENTRY(64x32) ENTRY(128x32) ENTRY(128x64) ENTRY(128x96) ENTRY(128x128) ENTRY(128x160) ENTRY(128x192)
