// The copies of layers_persistent.cu: weights, keys and values, which depend on none of its steps.
#pragma once
#include "launch.cuh"
#include "step_heads.cuh"
#include "step_linear.cuh"

// Signals the barrier once what this thread has begun to copy is there.
__device__ __forceinline__ void barrier_arrive_copied(unsigned barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

// A warp begins the copy of one stage, as copy_stage in common/gemv.cuh, which the barrier counts. What lies outside the
// matrix stays as it is.
template <class T>
__device__ __forceinline__ void copy_stage(const Weights<T>& w, int tile, int part, int k, unsigned stage, unsigned full,
                                           unsigned long long policy) {
  const int rows = min(TILE, w.n - tile * TILE), row = lane_index();
  const unsigned bytes = min(SPAN, w.k - k) * sizeof(T);
  if (row == 0) barrier_arrive_expecting(full, rows * bytes);
  __syncwarp();
  if (row >= rows) return;
  const T* source = w.weight + (static_cast<long long>(part) * w.n + tile * TILE + row) * w.stride + k;
  copy_bulk(stage + row * PITCH * sizeof(T), source, bytes, full, policy);
}

// Copies the weights that one warp multiplies, of all steps.
template <class T>
__device__ __forceinline__ void stream_weights(const PersistentArgs<T>& a, const Places<T>& places) {
  const unsigned long long policy = evict_first_policy();
  // Products with zeros of x are taken of what no copy ever fills, too: it mustn't be NaN.
  for (unsigned at = lane_index() * 16; at < a.stages * STAGE_BYTES<T>; at += WARP * 16)
    asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(places.ring + at), "r"(0) : "memory");
  shared_writes_fence();
  __syncwarp();
  Place next(a.stages), landing(a.stages);
  int under_way = 0;
  Weights<T> following = a.weights[0];
  for (int i = 0; i < a.weights_count; ++i) {
    const Weights<T> w = following;
    if (i + 1 < a.weights_count) following = a.weights[i + 1];
    const Rounds rounds(w.n, w.k, w.gated);
    for (int tile = blockIdx.x; tile < rounds.tiles; tile += gridDim.x)
      for (int part = 0; part < rounds.parts; ++part)
        for (int chunk = warp_index() % WARPS; chunk < rounds.chunks; chunk += WARPS) {
          barrier_wait(places.empty(next.index), next.parity ^ 1);
          if (under_way == a.under_way) {
            barrier_wait(places.full(landing.index), landing.parity);
            landing.advance();
          } else {
            ++under_way;
          }
          const unsigned stage = places.ring + next.index * STAGE_BYTES<T>;
          copy_stage(w, tile, part, chunk * SPAN, stage, places.full(next.index), policy);
          next.advance();
        }
  }
  // No copy may be under way when the block ends.
  for (; under_way; --under_way, landing.advance()) barrier_wait(places.full(landing.index), landing.parity);
}

// Copies a quarter of the keys and values of this block's share, of all steps, chunk by chunk.
template <int DIM, class T>
__device__ __forceinline__ void stream_heads(const PersistentArgs<T>& a, const Places<T>& places) {
  constexpr int ROWS = CHUNK_KEYS / WARPS;
  const HeadShare share(a);
  if (share.none) return;
  const HeadPlaces<DIM, T> own{places.heads()};
  const int warp = warp_index() % WARPS;
  unsigned parity = 1;
  for (int i = 0; i < a.attention_count; ++i) {
    const AttentionArgs<T>& at = a.steps[a.attention[i]].heads.attention;
    const Pieces pieces(at, share);
    for (int piece = share.split; piece < pieces.count; piece += share.splits)
      for (int chunk = pieces.first_chunk(piece); chunk < pieces.end_chunk(piece); ++chunk, parity ^= 1) {
        KeyPlaces keys;
        keys.locate(at.pages, share.sequence, chunk, pieces.begin, pieces.end - 1);
#pragma unroll 1
        for (int is_value = 0; is_value < 2; ++is_value) {
          const unsigned full = places.full_heads(is_value);
          barrier_wait(places.empty_heads(is_value), parity);
          const CacheStrides& strides = is_value ? at.v_strides : at.k_strides;
          copy_chunk<DIM, ROWS>(is_value ? own.values() : own.keys(),
                                (is_value ? at.v_cache : at.k_cache) + share.kv_head * strides.head, strides, keys,
                                warp * ROWS, at.dim);
          if (lane_index() == 0) {
            if (!is_value && warp == 0) places.missing() = keys.missing;
            barrier_arrive(full);
          }
          barrier_arrive_copied(full);
        }
      }
  }
  copy_async_wait<0>();
}
