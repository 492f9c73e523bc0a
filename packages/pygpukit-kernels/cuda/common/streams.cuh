// The copies of layers_persistent.cu: weights, keys and values, which depend on none of its steps.
#pragma once
#include "launch.cuh"
#include "step_heads.cuh"
#include "step_linear.cuh"

// Signals the barrier once what this thread has begun to copy is there.
__device__ __forceinline__ void barrier_arrive_copied(unsigned barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

// The stages of weights of all steps, one after the other.
template <class T>
struct WeightCursor {
  const PersistentArgs<T>& a;
  int step = -1, part = 0, group = 0, groups = 0, tile = 0;
  Weights<T> w = {};

  __device__ __forceinline__ explicit WeightCursor(const PersistentArgs<T>& args) : a(args) { next_step(); }

  __device__ __forceinline__ bool ended() const { return step >= a.weights_count; }
  __device__ __forceinline__ void advance() {
    if (++group < groups) return;
    group = 0;
    if (++part <= w.gated) return;
    part = 0;
    tile += gridDim.x;
    if (tile * TILE >= w.n) next_step();
  }
  __device__ __forceinline__ int rows() const { return min(TILE, w.n - tile * TILE); }
  __device__ __forceinline__ unsigned bytes() const { return min(GROUP * SPAN, w.k - group * GROUP * SPAN) * sizeof(T); }
  __device__ __forceinline__ const T* row(int i) const {
    return w.weight + (static_cast<long long>(part) * w.n + tile * TILE + i) * w.stride + group * GROUP * SPAN;
  }

 private:
  __device__ __forceinline__ void next_step() {
    tile = blockIdx.x;
    do {
      if (++step >= a.weights_count) return;
      w = a.weights[step];
    } while (tile * TILE >= w.n);
    groups = ceil_div(ceil_div(w.k, SPAN), GROUP);
  }
};

// Copies the weights of all steps, every second stage; lane i has row i. What lies outside the matrix stays as it is.
//
// A barrier tells only the last of its phases from the one before, so nobody may wait for a phase before the one before it has
// ended. Both warps see every stage land, in order; as under_way is less than half of the stages, neither is so far ahead of
// the other that a stage could land twice meanwhile. A warp that multiplies last had the fourth stage before its next one,
// which was copied when all but under_way before it had landed: there are four stages more than that, at least.
template <class T>
__device__ __forceinline__ void stream_weights(const PersistentArgs<T>& a, const Places<T>& places) {
  const int warp = warp_index() % WARPS, lane = lane_index();
  if (warp >= WEIGHT_STREAMS) return;
  const unsigned long long policy = evict_first_policy();
  Place next(a.stages), landing(a.stages);
  int number = 0;
  for (WeightCursor<T> copied(a); !copied.ended(); copied.advance(), next.advance(), ++number) {
    if (number >= a.under_way) {
      barrier_wait(places.full(landing.index), landing.parity);
      landing.advance();
    }
    if (number % WEIGHT_STREAMS != warp) continue;
    barrier_wait(places.empty(next.index), next.parity ^ 1);
    const int rows = copied.rows();
    const unsigned full = places.full(next.index);
    if (lane == 0) barrier_arrive_expecting(full, rows * copied.bytes());
    __syncwarp();
    if (lane < rows)
      copy_bulk(places.stage(next.index) + lane * GROUP_PITCH * sizeof(T), copied.row(lane), copied.bytes(), full, policy);
  }
  // No copy may be under way when the block ends.
  for (int left = min(number, a.under_way); left > 0; --left, landing.advance())
    barrier_wait(places.full(landing.index), landing.parity);
}

// Copies the keys and values of this block's share, a quarter of each chunk by one of the warps that only multiply: they
// have nothing else to do while others attend.
template <int DIM, class T>
struct HeadStream {
  static constexpr int ROWS = CHUNK_KEYS / WARPS;

  const PersistentArgs<T>& a;
  const Places<T> places;
  const HeadShare share;
  const HeadPlaces<DIM> own;
  typename HeadPlaces<DIM>::Next next;

  __device__ __forceinline__ HeadStream(const PersistentArgs<T>& args, const Places<T>& places)
      : a(args), places(places), share(args), own{places.heads()} {}

  // Begins to copy all but the first chunk of the number-th step of attention, and the first of the step after it.
  __device__ __forceinline__ void copy_on(int number) {
#pragma unroll 1
    for (int ahead = 0; ahead < 2; ++ahead) copy(number + ahead, ahead);
  }

 private:
  __device__ __forceinline__ void copy(int number, bool is_first) {
    if (share.none || number < 0 || number >= a.attention_count) return;
    const AttentionArgs<Head>& at = a.steps[a.attention[number]].heads.attention;
    const Pieces pieces(at, share);
    for (int piece = share.split; piece < pieces.count; piece += share.splits) {
      int chunk = pieces.first_chunk(piece);
      if (piece == share.split && !is_first) ++chunk;
      for (; chunk < pieces.end_chunk(piece); ++chunk) {
        copy_keys_and_values(at, pieces, chunk);
        if (is_first) return;
      }
    }
  }

  __device__ __forceinline__ void copy_keys_and_values(const AttentionArgs<Head>& at, const Pieces& pieces, int chunk) {
    const int warp = warp_index() % WARPS;
    KeyPlaces keys;
    keys.locate(at.pages, share.sequence, chunk, pieces.begin, pieces.end - 1);
#pragma unroll 1
    for (int is_value = 0; is_value < 2; next.advance(is_value++)) {
      const int place = next.place(is_value);
      const unsigned full = places.full_heads(place);
      barrier_wait(places.empty_heads(place), next.parity ^ 1);
      const CacheStrides& strides = is_value ? at.v_strides : at.k_strides;
      copy_chunk<DIM, ROWS>(own.chunk(place), (is_value ? at.v_cache : at.k_cache) + share.kv_head * strides.head, strides, keys,
                            warp * ROWS, at.dim);
      if (lane_index() == 0) {
        if (!is_value && warp == 0) places.missing(place) = keys.missing();
        barrier_arrive(full);
      }
      barrier_arrive_copied(full);
    }
  }
};
