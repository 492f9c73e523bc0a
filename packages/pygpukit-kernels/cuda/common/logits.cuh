// Rows of logits: their order, choosing the best of them, weights that sum to the same in any order.
#pragma once
#include "reduce.cuh"
#include "types.cuh"

// A logit with its token: of two, the one that comes first (the larger logit; of equals, the lower token) is the
// larger number.
using Ranked = unsigned long long;

constexpr unsigned KEY_INFINITY = 0xff800000u, KEY_MINUS_INFINITY = 0x007fffffu;

// Unsigned numbers in the order of the floats; the zeros are equal.
__device__ __forceinline__ unsigned order_key(float x) {
  const unsigned bits = __float_as_uint(x + 0.f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ Ranked rank(float logit, int token) {
  return static_cast<Ranked>(order_key(logit)) << 32 | ~static_cast<unsigned>(token);
}
__device__ __forceinline__ unsigned key(Ranked x) { return static_cast<unsigned>(x >> 32); }
__device__ __forceinline__ int token(Ranked x) { return static_cast<int>(~static_cast<unsigned>(x)); }
__device__ __forceinline__ float logit(Ranked x) {
  const unsigned k = key(x);
  return __uint_as_float(k >> 31 ? k & 0x7fffffffu : ~k);
}
// Whether a row whose first logit is this one can be sampled: no logit is NaN or +∞, and not all are -∞. Unsound
// logits are ranked above all others.
__device__ __forceinline__ bool is_sound(Ranked first) {
  return key(first) < KEY_INFINITY && key(first) > KEY_MINUS_INFINITY;
}
constexpr Ranked UNSOUND = ~0ull;

struct Later {
  __device__ __forceinline__ Ranked operator()(Ranked a, Ranked b) const { return a > b ? a : b; }
};

// Per row, argmax_maxima leaves the first logits of 1024 parts of it. Each part has eight tokens in a row, then those
// 8192 further on, and so forth.
constexpr int MAXIMA = 1024;
constexpr int PART_RUN = 8;
constexpr int PART_STRIDE = MAXIMA * PART_RUN;

// One block of 1024 threads works on a row.
constexpr int ROW_THREADS = MAXIMA;
constexpr int ROW_WARPS = ROW_THREADS / WARP;

struct Row {
  const float* logits;
  int vocabulary;

  // Calls visit(logit, token) for the tokens of this thread. AHEAD loads of four logits are under way together.
  template <int AHEAD, class Visit>
  __device__ __forceinline__ void for_each(Visit visit) const {
    constexpr int STEP = 4 * ROW_THREADS;
    int i = 0;
    if (reinterpret_cast<unsigned long long>(logits) % 16 == 0) {
      for (; i + AHEAD * STEP <= vocabulary; i += AHEAD * STEP) {
        float4 x[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; ++j) x[j] = reinterpret_cast<const float4*>(logits + i + j * STEP)[threadIdx.x];
#pragma unroll
        for (int j = 0; j < AHEAD; ++j) {
          const int token = i + j * STEP + 4 * threadIdx.x;
          visit(x[j].x, token);
          visit(x[j].y, token + 1);
          visit(x[j].z, token + 2);
          visit(x[j].w, token + 3);
        }
      }
    }
    for (i += threadIdx.x; i < vocabulary; i += ROW_THREADS) visit(logits[i], i);
  }
};

// Sorts one number of each of the first `size` threads, the largest to thread 0; `size` is a power of two, 32 at least,
// and the others' numbers stay. Bitonic (Batcher 1968). `scratch` holds as many.
__device__ __forceinline__ Ranked sort_descending(Ranked x, int size, Ranked* scratch) {
  const bool sorts = threadIdx.x < size;
#pragma unroll 1
  for (int length = 2; length <= size; length *= 2)
#pragma unroll 1
    for (int step = length / 2; step; step /= 2) {
      Ranked other = x;
      if (step >= WARP) {
        __syncthreads();
        if (sorts) scratch[threadIdx.x] = x;
        __syncthreads();
        if (sorts) other = scratch[threadIdx.x ^ step];
      } else if (sorts) {
        other = __shfl_xor_sync(~0u, x, step);
      }
      const bool lower = !(threadIdx.x & step), descending = !(threadIdx.x & length);
      if (sorts) x = (lower == descending) == (x > other) ? x : other;
    }
  return x;
}

// The largest key that the numbers of `count` threads reach, as the least rank that has it; 0 if there are fewer.
__device__ __forceinline__ Ranked reached_by(int count, Ranked x) {
  unsigned reached = 0;
#pragma unroll 1
  for (unsigned bit = 1u << 31; bit; bit >>= 1)
    if (__syncthreads_count(key(x) >= (reached | bit)) >= count) reached |= bit;
  return static_cast<Ranked>(reached) << 32;
}

// Weights in units of 2^-40: whole numbers, whose sums don't depend on the order.
using Weight = unsigned long long;
__device__ __forceinline__ Weight to_weight(float x) { return __float2ull_rn(x * 1099511627776.f); }

__device__ __forceinline__ Weight block_sum(Weight x, Weight* scratch) {
  __syncthreads();
  return block_reduce<ROW_WARPS>(x, scratch, Sum());
}

// The sum of x over this thread and those before it. `scratch` holds ROW_WARPS.
__device__ __forceinline__ Weight block_scan(Weight x, Weight* scratch) {
#pragma unroll
  for (int step = 1; step < WARP; step *= 2) {
    const Weight before = __shfl_up_sync(~0u, x, step);
    if (lane_index() >= step) x += before;
  }
  __syncthreads();
  if (lane_index() == WARP - 1) scratch[warp_index()] = x;
  __syncthreads();
#pragma unroll 1
  for (int w = 0; w < warp_index(); ++w) x += scratch[w];
  return x;
}

// The logits that rank from `least` to `most`, in any order, and how many there are; only the first ROW_THREADS are
// kept.
struct Candidates {
  Ranked list[ROW_THREADS];
  int count, parts;

  __device__ __forceinline__ void gather(const Row& row, Ranked least, Ranked most = UNSOUND) {
    clear();
    __syncthreads();
    row.for_each<4>([&](float x, int token) {
      const Ranked ranked = rank(x, token);
      if (ranked >= least && ranked <= most) add(ranked);
    });
    __syncthreads();
  }

  // The same without `most`, where the maxima of the parts are known, one to each thread: only those parts are read that
  // have a candidate. `maxima` holds ROW_THREADS.
  __device__ __forceinline__ void gather_from_parts(const Row& row, Ranked least, Ranked maximum, Ranked* maxima) {
    clear();
    if (threadIdx.x == 0) parts = 0;
    __syncthreads();
    if (maximum && maximum >= least) maxima[atomicAdd(&parts, 1)] = maximum;
    __syncthreads();
    const int runs = ceil_div(row.vocabulary, PART_STRIDE);
    for (int i = threadIdx.x; i < parts * runs; i += ROW_THREADS) {
      const int start = token(maxima[i / runs]) % PART_STRIDE / PART_RUN * PART_RUN + i % runs * PART_STRIDE;
      float run[PART_RUN];
#pragma unroll
      for (int j = 0; j < PART_RUN; ++j) run[j] = start + j < row.vocabulary ? row.logits[start + j] : 0.f;
#pragma unroll
      for (int j = 0; j < PART_RUN; ++j) {
        const Ranked ranked = rank(run[j], start + j);
        if (start + j < row.vocabulary && ranked >= least) add(ranked);
      }
    }
    __syncthreads();
  }

  // Those that are kept, the largest to thread 0. `scratch` holds ROW_THREADS.
  __device__ __forceinline__ Ranked sorted(Ranked* scratch) const {
    int size = WARP;
    while (size < min(count, ROW_THREADS)) size *= 2;
    return sort_descending(list[threadIdx.x], size, scratch);
  }

 private:
  __device__ __forceinline__ void clear() {
    __syncthreads();
    if (threadIdx.x == 0) count = 0;
    list[threadIdx.x] = 0;
  }
  __device__ __forceinline__ void add(Ranked ranked) {
    const int place = atomicAdd(&count, 1);
    if (place < ROW_THREADS) list[place] = ranked;
  }
};

// The first logits, in order, until they weigh `wanted` together: finds the last of them. `weigh(logit, rank)` gives a
// Weight.
struct Selection {
  static constexpr int PARTS = 4;
  Weight scratch[2 * PARTS * ROW_WARPS];
  Ranked sorted[ROW_THREADS];
  Ranked found;

  // The weights and counts of the logits that rank at least as high as each threshold, in this order.
  template <class Weigh>
  __device__ __forceinline__ void measure(const Row& row, const Ranked (&thresholds)[PARTS], Weight (&totals)[2 * PARTS],
                                          Weigh weigh) {
#pragma unroll
    for (int p = 0; p < 2 * PARTS; ++p) totals[p] = 0;
    row.for_each<1>([&](float x, int token) {
      const Ranked ranked = rank(x, token);
      if (ranked < thresholds[0]) return;
      const Weight weight = weigh(x, ranked);
#pragma unroll
      for (int p = 0; p < PARTS; ++p)
        if (ranked >= thresholds[p]) {
          totals[p] += weight;
          ++totals[PARTS + p];
        }
    });
    __syncthreads();
#pragma unroll
    for (int p = 0; p < 2 * PARTS; ++p) {
      totals[p] = warp_reduce(totals[p], Sum());
      if (lane_index() == 0) scratch[p * ROW_WARPS + warp_index()] = totals[p];
    }
    __syncthreads();
#pragma unroll
    for (int p = 0; p < 2 * PARTS; ++p) totals[p] = warp_reduce(scratch[p * ROW_WARPS + lane_index()], Sum());
  }

  // `first` is the rank of the row's first logit.
  template <class Weigh>
  __device__ __forceinline__ Ranked last(const Row& row, Ranked first, Weight wanted, Candidates& candidates,
                                         Weigh weigh) {
    // Those from `high` on weigh less than wanted, those from `low` on enough: `above` and `count` between them. The
    // range is cut into PARTS until what is in it can be sorted.
    Ranked low = 0, high = first + 1;
    Weight above = 0, count = row.vocabulary;
    while (count > ROW_THREADS) {
      Ranked thresholds[PARTS];
#pragma unroll
      for (int p = 0; p < PARTS; ++p) thresholds[p] = low + (high - low) / PARTS * p;
      Weight totals[2 * PARTS];
      measure(row, thresholds, totals, weigh);
      Ranked next_low = low, next_high = high;
      Weight next_above = above, counted = totals[PARTS], uncounted = totals[PARTS] - count;
#pragma unroll
      for (int p = 0; p < PARTS; ++p) {
        if (totals[p] >= wanted || p == 0) {
          next_low = thresholds[p];
          counted = totals[PARTS + p];
        } else if (next_high == high) {
          next_high = thresholds[p];
          next_above = totals[p];
          uncounted = totals[PARTS + p];
        }
      }
      low = next_low;
      high = next_high;
      above = next_above;
      count = counted - uncounted;
    }
    candidates.gather(row, low, high - 1);
    const Ranked ranked = candidates.sorted(sorted);
    const Weight weight = ranked ? weigh(logit(ranked), ranked) : 0, sum = above + block_scan(weight, scratch);
    if (threadIdx.x == 0) found = low;
    __syncthreads();
    if (ranked && sum >= wanted && sum - weight < wanted) found = ranked;
    __syncthreads();
    return found;
  }
};
