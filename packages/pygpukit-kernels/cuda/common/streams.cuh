// The copies of layers_persistent.cu: weights, keys and values, which depend on none of its steps.
#pragma once
#include "launch.cuh"
#include "steps.cuh"

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
    const int chunks = ceil_div(w.k, SPAN), tiles = ceil_div(w.n, TILE);
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
      for (int part = 0; part <= w.gated; ++part)
        for (int chunk = warp_index() % WARPS; chunk < chunks; chunk += WARPS) {
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

// Copies the keys and values that one warp of this block's share multiplies, of all steps, chunk by chunk.
template <int DIM, int HEAD_WARPS, class T>
__device__ __forceinline__ void stream_heads(const PersistentArgs<T>& a, const Places<T>& places) {
  if (warp_index() % WARPS >= HEAD_WARPS) return;
  wait_for_inputs();
  const HeadShare share(a);
  if (share.none) return;
  unsigned parity = 1;
  for (int i = 0; i < a.attention_count; ++i) {
    Decode<DIM, HEAD_WARPS, T> d(a.steps[a.attention[i]].heads.attention, places.heads(), share);
    if (!d.locate(share.sequence, share.position)) continue;
    for (int chunk = d.first_chunk(); chunk < d.end_chunk(); chunk = d.next(chunk), parity ^= 1) {
      KeyPlaces keys;
      keys.locate(d.a.pages, d.sequence, chunk, d.begin, d.end - 1);
#pragma unroll 1
      for (int is_value = 0; is_value < 2; ++is_value) {
        const unsigned full = places.full_heads(is_value);
        barrier_wait(places.empty_heads(is_value), parity);
        if (is_value)
          d.copy(d.v, d.a.v_cache, d.a.v_strides, keys);
        else
          d.copy(d.k, d.a.k_cache, d.a.k_strides, keys);
        if (lane_index() == 0) {
          if (!is_value) places.missing() = keys.missing;
          barrier_arrive(full);
        }
        barrier_arrive_copied(full);
      }
    }
  }
  copy_async_wait<0>();
}
