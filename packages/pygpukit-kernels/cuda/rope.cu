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

// Where the heads of a block's token go: it has keys and values only if it has a place in the cache. That is read before the
// wait for the launch before.
template <class T>
struct Heads {
  const AppendArgs<T>& a;
  int page, row, count;

  __device__ __forceinline__ explicit Heads(const AppendArgs<T>& args) : a(args) {
    const int sequence = a.sequences[blockIdx.x], position = a.positions[blockIdx.x];
    const bool is_placed = a.pages.holds(sequence, position) && a.pages.find(sequence, position, page, row);
    count = a.heads + (is_placed ? 2 * a.kv_heads : 0);
  }

  __device__ __forceinline__ bool is_query(int head) const { return head < a.heads; }
  __device__ __forceinline__ bool is_value(int head) const { return head >= a.heads + a.kv_heads; }
  __device__ __forceinline__ const T* source(int head) const {
    return a.qkv + blockIdx.x * a.qkv_stride + static_cast<long long>(head) * a.dim;
  }
  __device__ __forceinline__ T* target(int head) const {
    if (is_query(head)) return a.out + blockIdx.x * a.out_stride + head * a.out_head_stride;
    const CacheStrides& s = is_value(head) ? a.v_strides : a.k_strides;
    const int kv_head = head - a.heads - (is_value(head) ? a.kv_heads : 0);
    return (is_value(head) ? a.v_cache : a.k_cache) + page * s.page + kv_head * s.head + row * s.row;
  }
  __device__ __forceinline__ const float* angles() const { return a.angles + blockIdx.x * a.angles_stride; }
};

// Launch: 128 threads; a block for each token in x; its warps, however many blocks there are in y, take the heads of
// queries, keys and values by turns; dynamic shared memory 32 dim bytes.
template <class T>
__device__ __forceinline__ void append_kv(const AppendArgs<T>& a) {
  constexpr int WARPS = THREADS / WARP, UNROLL = 4;  // elements of a lane that come together
  extern __shared__ float shared[];
  float *elements = shared + warp_index() * 2 * a.dim, *angles = elements + a.dim;
  const int lane = lane_index();
  start_dependents();
  const Heads<T> heads(a);
  wait_for_inputs();
#pragma unroll UNROLL
  for (int i = lane; i < a.rotated; i += WARP) angles[i] = heads.angles()[i];
#pragma unroll 1
  for (int head = blockIdx.y * WARPS + warp_index(); head < heads.count; head += gridDim.y * WARPS) {
    const T* source = heads.source(head);
    T* target = heads.target(head);
    if (heads.is_value(head)) {
#pragma unroll UNROLL
      for (int i = lane; i < a.dim; i += WARP) target[i] = source[i];
      continue;
    }
#pragma unroll UNROLL
    for (int i = lane; i < a.dim; i += WARP) elements[i] = to_float(source[i]);
    normalize_head(a.dim, heads.is_query(head) ? a.q_norm : a.k_norm,
                   [&](int j) -> float& { return elements[j * WARP + lane]; });
    __syncwarp();
#pragma unroll 1
    for (int i = lane; i < a.dim; i += WARP)
      target[i] = from_float<T>(Turn(i, angles, a.rotated, a.interleaved)(elements));
    __syncwarp();
  }
}

// The same without norms for pairs i and i + rotated / 2: a thread has eight elements and those that they are paired with, and
// takes the same ones of several heads. What isn't rotated it takes in sixteens.
//
// Launch: as above, without shared memory. dim and `rotated` are multiples of 16, all addresses and strides of 16 bytes.
template <class T>
__device__ __forceinline__ void append_kv_paired(const AppendArgs<T>& a) {
  const int pieces = a.dim / 16, at_once = THREADS / pieces, piece = threadIdx.x % pieces, half = a.rotated / 2;
  const bool is_rotated = piece * 8 < half;
  const int low = is_rotated ? piece * 8 : piece * 16, high = low + (is_rotated ? half : 8);
  start_dependents();
  const Heads<T> heads(a);
  wait_for_inputs();
  if (static_cast<int>(threadIdx.x) >= at_once * pieces) return;
  Eight cosines = {}, sines = {};
  if (is_rotated) {
    cosines = load8(heads.angles() + low);
    sines = load8(heads.angles() + high);
  }
#pragma unroll 1
  for (int head = blockIdx.y * at_once + threadIdx.x / pieces; head < heads.count; head += gridDim.y * at_once) {
    const T* source = heads.source(head);
    T* target = heads.target(head);
    uint4 first = load16(source + low), second = load16(source + high);
    if (is_rotated && !heads.is_value(head)) {
      const Eight x = unpack8<T>(first), y = unpack8<T>(second);
      Eight turned_x, turned_y;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        turned_x.value[i] = x.value[i] * cosines.value[i] - y.value[i] * sines.value[i];
        turned_y.value[i] = y.value[i] * cosines.value[i] + x.value[i] * sines.value[i];
      }
      first = pack8<T>(turned_x);
      second = pack8<T>(turned_y);
    }
    store16(target + low, first);
    store16(target + high, second);
  }
}

#define ENTRY(T)                                                                                                      \
  extern "C" __global__ void __launch_bounds__(THREADS) rope_append_kv_##T(const __grid_constant__ AppendArgs<T> a) { \
    append_kv(a);                                                                                                     \
  }
FOR_EACH_DTYPE(ENTRY)

#define ENTRY_PAIRED(T)                                                    \
  extern "C" __global__ void __launch_bounds__(THREADS)                    \
      rope_append_kv_paired_##T(const __grid_constant__ AppendArgs<T> a) { \
    append_kv_paired(a);                                                   \
  }
FOR_EACH_16BIT(ENTRY_PAIRED)
