// The angles of rotary position embedding, and the kernel that normalises and rotates the heads of queries and keys and
// writes keys and values into the cache.
#include "common/launch.cuh"
#include "common/rotation.cuh"

constexpr int THREADS = 128;

struct AnglesArgs {
  float* out;             // (tokens, 2, count): cosines, sines
  const int* positions;   // (tokens)
  const float* inv_freq;  // (count)
  int tokens, count;
  float scale;
};

// out[t] = scale * (cos, sin)(positions[t] * inv_freq), the angle rounded to float32.
// Launch: 128 threads, a block for each 128 of tokens * count.
extern "C" __global__ void __launch_bounds__(THREADS) rope_angles(const __grid_constant__ AnglesArgs a) {
  start_dependents();
  wait_for_inputs();
  const int i = blockIdx.x * THREADS + threadIdx.x, token = i / a.count, frequency = i % a.count;
  if (token >= a.tokens) return;
  float sine, cosine;
  sincosf(static_cast<float>(a.positions[token]) * a.inv_freq[frequency], &sine, &cosine);
  float* out = a.out + 2ll * token * a.count + frequency;
  out[0] = cosine * a.scale;
  out[a.count] = sine * a.scale;
}

// Launch: 128 threads; a block for each token in x; a warp for each head of queries, keys and values, ⌈(heads +
// 2 kv_heads) / 4⌉ blocks in y; dynamic shared memory 32 dim bytes. Where tokens belong is read before the wait for the
// launch before: a warp whose token has no place ends without it, those of queries always wait.
template <class T>
__device__ __forceinline__ void append_kv(const AppendArgs<T>& a) {
  constexpr int UNROLL = 4;  // elements of a lane that come together
  extern __shared__ float shared[];
  const int index = blockIdx.y * (THREADS / WARP) + warp_index(), token = blockIdx.x, lane = lane_index();
  const bool is_q = index < a.heads, is_v = index >= a.heads + a.kv_heads;
  start_dependents();
  if (index >= a.heads + 2 * a.kv_heads) return;
  T* target = a.out + token * a.out_stride + index * a.out_head_stride;
  if (!is_q) {
    const int sequence = a.sequences[token], position = a.positions[token];
    int page, row;
    if (!a.pages.holds(sequence, position) || !a.pages.find(sequence, position, page, row)) return;
    const CacheStrides& s = is_v ? a.v_strides : a.k_strides;
    const int head = index - a.heads - (is_v ? a.kv_heads : 0);
    target = (is_v ? a.v_cache : a.k_cache) + page * s.page + head * s.head + row * s.row;
  }
  wait_for_inputs();
  const T* source = a.qkv + token * a.qkv_stride + static_cast<long long>(index) * a.dim;
  if (is_v) {
#pragma unroll UNROLL
    for (int i = lane; i < a.dim; i += WARP) target[i] = source[i];
    return;
  }
  float *head = shared + warp_index() * 2 * a.dim, *angles = head + a.dim;
#pragma unroll UNROLL
  for (int i = lane; i < a.dim; i += WARP) {
    head[i] = to_float(source[i]);
    if (i < a.rotated) angles[i] = a.angles[token * a.angles_stride + i];
  }
  normalize_head(a.dim, is_q ? a.q_norm : a.k_norm, [&](int j) -> float& { return head[j * WARP + lane]; });
  __syncwarp();
#pragma unroll 1
  for (int i = lane; i < a.dim; i += WARP) target[i] = from_float<T>(Turn(i, angles, a.rotated, a.interleaved)(head));
}

#define ENTRY(T)                                                                                          \
  extern "C" __global__ void __launch_bounds__(THREADS) rope_append_kv_##T(const __grid_constant__ AppendArgs<T> a) { \
    append_kv(a);                                                                                         \
  }
FOR_EACH_DTYPE(ENTRY)
