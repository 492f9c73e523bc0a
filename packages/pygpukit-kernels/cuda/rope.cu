// Rotary position embedding (Su et al. 2021, arXiv:2104.09864): the angles, and the kernel that normalises and rotates
// the heads of queries and keys and writes keys and values into the cache.
#include "common/launch.cuh"
#include "common/memory.cuh"
#include "common/normalize.cuh"
#include "common/pages.cuh"

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

template <class T>
struct AppendArgs {
  T* out;               // (tokens, heads, dim): the queries
  const T* qkv;         // (tokens, (heads + 2 kv_heads) dim)
  const float* angles;  // (tokens, 2, rotated / 2), or null
  const int* positions;  // (tokens)
  const int* sequences;  // (tokens)
  T* k_cache;
  T* v_cache;
  Pages pages;
  CacheStrides k_strides, v_strides;
  NormArgs q_norm, k_norm;  // over a head
  long long qkv_stride, out_stride, out_head_stride, angles_stride;
  int heads, kv_heads, dim;
  int rotated;      // leading elements of a head that are rotated
  int interleaved;  // 1: elements 2i and 2i+1 are a pair; 0: i and i + rotated / 2
};

// The normalised element i of a head lies at head[i] once this returns.
template <class T>
__device__ __forceinline__ void load_head(float* head, const T* source, int dim, const NormArgs& norm) {
  float sum = 0.f;
  for (int i = lane_index(); i < dim; i += WARP) {
    head[i] = to_float(source[i]);
    sum += head[i];
  }
  if (norm.kind == NORM_NONE) return;
  const float mean = norm.kind == NORM_LAYER ? warp_reduce(sum, Sum()) / dim : 0.f;
  float squares = 0.f;
  for (int i = lane_index(); i < dim; i += WARP) squares = fmaf(head[i] - mean, head[i] - mean, squares);
  const float deviation = 1.f / sqrtf(warp_reduce(squares, Sum()) / dim + norm.eps);
  for (int i = lane_index(); i < dim; i += WARP) {
    float y = (head[i] - mean) * deviation;
    if (norm.weight) y *= norm.weight[i] + norm.offset;
    if (norm.bias) y += norm.bias[i];
    head[i] = y;
  }
}

// Element i of a head after rotation.
__device__ __forceinline__ float rotate(const float* head, int i, const float* angles, int rotated, bool interleaved) {
  if (i >= rotated) return head[i];
  const int half = rotated / 2;
  const int pair = interleaved ? i / 2 : i % half;
  const bool second = interleaved ? i % 2 : i >= half;
  const int other = interleaved ? i ^ 1 : (second ? i - half : i + half);
  const float cosine = angles[pair], sine = angles[half + pair];
  const float turned = head[other] * sine;
  return second ? head[i] * cosine + turned : head[i] * cosine - turned;
}

// Launch: 128 threads; a block for each token in x; a warp for each head of queries, keys and values, ⌈(heads +
// 2 kv_heads) / 4⌉ blocks in y; dynamic shared memory 16 dim bytes.
template <class T>
__device__ __forceinline__ void append_kv(const AppendArgs<T>& a) {
  extern __shared__ float shared[];
  start_dependents();
  wait_for_inputs();
  const int index = blockIdx.y * (THREADS / WARP) + warp_index(), token = blockIdx.x;
  if (index >= a.heads + 2 * a.kv_heads) return;
  const bool is_q = index < a.heads, is_v = index >= a.heads + a.kv_heads;
  T* target;
  if (is_q) {
    target = a.out + token * a.out_stride + index * a.out_head_stride;
  } else {
    const int sequence = a.sequences[token], position = a.positions[token];
    int page, row;
    if (!a.pages.holds(sequence, position) || !a.pages.find(sequence, position, page, row)) return;
    const CacheStrides& s = is_v ? a.v_strides : a.k_strides;
    const int head = index - a.heads - (is_v ? a.kv_heads : 0);
    target = (is_v ? a.v_cache : a.k_cache) + page * s.page + head * s.head + row * s.row;
  }
  const T* source = a.qkv + token * a.qkv_stride + static_cast<long long>(index) * a.dim;
  if (is_v) {
    for (int i = lane_index(); i < a.dim; i += WARP) target[i] = source[i];
    return;
  }
  float* head = shared + warp_index() * a.dim;
  load_head(head, source, a.dim, is_q ? a.q_norm : a.k_norm);
  __syncwarp();
  const float* angles = a.angles + token * a.angles_stride;
  for (int i = lane_index(); i < a.dim; i += WARP)
    target[i] = from_float<T>(rotate(head, i, angles, a.rotated, a.interleaved));
}

#define ENTRY(T)                                                                                          \
  extern "C" __global__ void __launch_bounds__(THREADS) rope_append_kv_##T(const __grid_constant__ AppendArgs<T> a) { \
    append_kv(a);                                                                                         \
  }
FOR_EACH_DTYPE(ENTRY)
