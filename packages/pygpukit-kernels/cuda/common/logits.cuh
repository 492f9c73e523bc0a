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
__device__ __forceinline__ bool is_finite(Ranked x) { return key(x) < KEY_INFINITY && key(x) > KEY_MINUS_INFINITY; }
// Whether a row whose first logit is this one can be sampled: no logit is NaN or +∞, and not all are -∞. Unsound
// logits are ranked above all others.
__device__ __forceinline__ bool is_sound(Ranked first) { return is_finite(first); }
constexpr Ranked UNSOUND = ~0ull;
// Of a logit that may be unsound.
__device__ __forceinline__ Ranked rank_any(float logit, int token) {
  return logit < INFINITY_F32 ? rank(logit, token) : UNSOUND;
}

// The larger one; NaN where one is.
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

struct Later {
  __device__ __forceinline__ Ranked operator()(Ranked a, Ranked b) const { return a > b ? a : b; }
};

// Per row, the first logits of 1024 parts of it, or 0 where a part has none. Each part has eight tokens in a row, then those
// 8192 further on, and so forth; where a product of several rows leaves them for argmax, that of one of its blocks.
constexpr int MAXIMA = 1024;
constexpr int PART_RUN = 8;
constexpr int PART_STRIDE = MAXIMA * PART_RUN;

// One block of 1024 threads works on a row.
constexpr int ROW_THREADS = MAXIMA;
constexpr int ROW_WARPS = ROW_THREADS / WARP;

// This thread's maximum of the block's row. Zeros are left there: who leaves the next ones may raise what it finds.
__device__ __forceinline__ Ranked take_maximum(Ranked* maxima) {
  Ranked& own = maxima[blockIdx.x * MAXIMA + threadIdx.x];
  const Ranked maximum = own;
  own = 0;
  return maximum;
}

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

// The first of a warp's.
__device__ __forceinline__ Ranked warp_first(Ranked x) {
  const unsigned most = __reduce_max_sync(~0u, key(x));
  const unsigned low = __reduce_max_sync(~0u, key(x) == most ? static_cast<unsigned>(x) : 0);
  return static_cast<Ranked>(most) << 32 | low;
}

// The maxima of a row's parts, one to each thread. A barrier passes when they are put together.
struct PartMaxima {
  static constexpr int LANE_BINS = 4, BINS = LANE_BINS * WARP;
  struct Scratch {
    Ranked first[ROW_WARPS];  // of each warp
    unsigned least[ROW_WARPS];
    int counts[BINS];
  };

  Scratch& scratch;
  const Ranked own;  // this thread's
  Ranked first;      // of all: the row's
  unsigned least;    // the smallest key of those that are finite

  __device__ __forceinline__ PartMaxima(Ranked own, Scratch& scratch) : scratch(scratch), own(own) {
    static_assert(ROW_WARPS == WARP, "a warp reduces the warps' results");
    const Ranked warp_own = warp_first(own);
    const unsigned warp_least = __reduce_min_sync(~0u, is_finite(own) ? key(own) : ~0u);
    if (lane_index() == 0) {
      scratch.first[warp_index()] = warp_own;
      scratch.least[warp_index()] = warp_least;
    }
    if (threadIdx.x < BINS) scratch.counts[threadIdx.x] = 0;
    __syncthreads();
    first = warp_first(scratch.first[lane_index()]);
    least = __reduce_min_sync(~0u, scratch.least[lane_index()]);
  }

  // A finite number that the finite ones of about `count` threads reach, hardly ever of fewer, and not of many more: found by
  // counting them in bins between the least and the first. May be called once.
  __device__ __forceinline__ float reached_by(int count) const {
    const float low = logit(static_cast<Ranked>(least) << 32), range = logit(first) - low;
    const float bins = (logit(own) - low) * __fdividef(BINS, range);
    if (is_finite(own)) atomicAdd(&count_of(max(0, min(static_cast<int>(bins), BINS - 1))), 1);
    __syncthreads();
    // Each lane has some bins, the first one those of the largest numbers.
    const int lane_bins = LANE_BINS * (WARP - 1 - lane_index());
    int reached[LANE_BINS], own_count = 0;
#pragma unroll
    for (int i = LANE_BINS - 1; i >= 0; --i) reached[i] = own_count += count_of(lane_bins + i);
    int all = own_count;
#pragma unroll 1
    for (int step = 1; step < WARP; step *= 2) {
      const int before = __shfl_up_sync(~0u, all, step);
      if (lane_index() >= step) all += before;
    }
    int bin = lane_bins + LANE_BINS - 1;
#pragma unroll
    for (int i = LANE_BINS - 1; i > 0; --i) bin -= all - own_count + reached[i] < count;
    const unsigned enough = __ballot_sync(~0u, all >= count);
    bin = __shfl_sync(~0u, bin, enough ? __ffs(enough) - 1 : WARP - 1);
    // A little less than where the bin begins, for the rounding.
    return fmaxf(low + (bin - 0.01f) * (range / BINS), -LARGEST_F32);
  }

 private:
  // The bins of a lane lie in the same bank.
  __device__ __forceinline__ int& count_of(int bin) const {
    return scratch.counts[bin % LANE_BINS * WARP + bin / LANE_BINS];
  }
};

// Weights in units of 2^-40: whole numbers, whose sums don't depend on the order.
using Weight = unsigned long long;
__device__ __forceinline__ Weight to_weight(float x) { return __float2ull_rn(x * 1099511627776.f); }

// Over the block; every thread gets the result. `scratch` holds ROW_WARPS and is free again at the next barrier.
__device__ __forceinline__ Weight block_sum(Weight x, Weight* scratch) {
  __syncthreads();
  x = warp_reduce(x, Sum());
  if (lane_index() == 0) scratch[warp_index()] = x;
  __syncthreads();
  return warp_reduce(scratch[lane_index()], Sum());
}

// The sum of x over this lane and those before it.
__device__ __forceinline__ Weight warp_scan(Weight x) { return warp_scan(x, Sum(), lane_index()); }

// The sum of x over this thread and those before it, and over all threads. `scratch` holds ROW_WARPS.
struct BlockScan {
  Weight sum, total;

  __device__ __forceinline__ BlockScan(Weight x, Weight* scratch) {
    static_assert(ROW_WARPS == WARP, "a warp adds up the warps' sums");
    x = warp_scan(x);
    __syncthreads();
    if (lane_index() == WARP - 1) scratch[warp_index()] = x;
    __syncthreads();
    const Weight warps = warp_scan(scratch[lane_index()]), before = __shfl_sync(~0u, warps, max(warp_index() - 1, 0));
    sum = warp_index() ? before + x : x;
    total = __shfl_sync(~0u, warps, WARP - 1);
  }
};

// The logits that rank from `least` to `most`, in any order, and how many there are; only the first ROW_THREADS are
// kept.
struct Candidates {
  Ranked list[ROW_THREADS];
  int count, parts;

  // By one thread, a barrier before they are gathered.
  __device__ __forceinline__ void clear() { count = parts = 0; }

  __device__ __forceinline__ void gather(const Row& row, Ranked least, Ranked most = UNSOUND) {
    __syncthreads();
    if (threadIdx.x == 0) clear();
    __syncthreads();
    row.for_each<4>([&](float x, int token) {
      const Ranked ranked = rank(x, token);
      if (ranked >= least && ranked <= most) add(ranked);
    });
    __syncthreads();
  }

  // Those that aren't less than `least`, which isn't -∞, where the maxima of the parts are known, one to each thread: only
  // those parts are read that have a candidate. `maxima` holds ROW_THREADS.
  __device__ __forceinline__ void gather_from_parts(const Row& row, float least, Ranked maximum, Ranked* maxima) {
    if (maximum && !(logit(maximum) < least)) maxima[atomicAdd(&parts, 1)] = maximum;
    __syncthreads();
    // Loads that are under way together, and runs of a part that threads have side by side: mostly all of it is read at once.
    constexpr int AHEAD = 10, BESIDE = 2, THREADS = PART_RUN * BESIDE, STEP = BESIDE * PART_STRIDE;
    const int thread = threadIdx.x % THREADS, own = thread / PART_RUN * PART_STRIDE + thread % PART_RUN;
    for (int part = threadIdx.x / THREADS; part < parts; part += ROW_THREADS / THREADS) {
      const int run = static_cast<unsigned>(token(maxima[part])) % PART_STRIDE / PART_RUN * PART_RUN;
#pragma unroll 1
      for (int first = run + own; first < row.vocabulary; first += AHEAD * STEP) {
        const float* logits = row.logits + first;
        const int last = min(AHEAD - 1, (row.vocabulary - 1 - first) / STEP);
        float x[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; ++j) x[j] = logits[min(j, last) * STEP];
        unsigned found = 0;
#pragma unroll
        for (int j = 0; j < AHEAD; ++j)
          if (!(x[j] < least)) found |= 1u << j;
#pragma unroll 1
        for (found &= (2u << last) - 1; found; found &= found - 1) {
          const int j = __ffs(found) - 1;
          add(rank(logits[j * STEP], first + j * STEP));
        }
      }
    }
    __syncthreads();
  }

  // Those that are kept, the largest to thread 0, and in order in `sorted`, which holds ROW_THREADS: each goes behind
  // as many as are larger. Threads without one get 0.
  __device__ __forceinline__ Ranked sort(Ranked* sorted) const {
    const int kept = min(count, ROW_THREADS);
    int lanes = WARP;  // that share one
    while (lanes * kept > ROW_THREADS) lanes /= 2;
    const int own = threadIdx.x / lanes;
    const Ranked ranked = own < kept ? list[own] : 0;
    int larger = 0;
#pragma unroll 4
    for (int i = threadIdx.x % lanes; i < kept; i += lanes) larger += list[i] > ranked;
    for (int step = 1; step < lanes; step *= 2) larger += __shfl_xor_sync(~0u, larger, step);
    sorted[threadIdx.x] = 0;
    __syncthreads();
    if (ranked && threadIdx.x % lanes == 0) sorted[larger] = ranked;
    __syncthreads();
    return sorted[threadIdx.x];
  }

 private:
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
    const Ranked ranked = candidates.sort(sorted);
    const Weight weight = ranked ? weigh(logit(ranked), ranked) : 0, sum = above + BlockScan(weight, scratch).sum;
    if (threadIdx.x == 0) found = low;
    __syncthreads();
    if (ranked && sum >= wanted && sum - weight < wanted) found = ranked;
    __syncthreads();
    return found;
  }
};
