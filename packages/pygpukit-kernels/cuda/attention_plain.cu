// Attention without tensor cores, for any type, head size and alignment: a block for each query, chunk after chunk.
//
// Launch: 128 threads, blocks (tokens, heads), dynamic shared memory 8 dim bytes.
#include "common/attention.cuh"
#include "common/launch.cuh"

constexpr int WARPS = 4;

template <class T>
struct Plain {
  const SinkArgs<T>& a;
  const Scorer<T> scorer;
  int head, kv_head, sequence, position;
  float* q;     // shared: the query
  float* sums;  // shared: of the values, over the chunks so far
  float* weights;  // shared, (CHUNK_KEYS): scores, then weights
  const T** values;  // shared, (CHUNK_KEYS)

  // Makes the scores of positions begin … end-1; this warp makes every fourth.
  __device__ __forceinline__ void score_keys(int begin, int end) const {
    for (int p = begin + warp_index(); p < end; p += WARPS) {
      int page, row;
      const bool found = a.pages.find(sequence, p, page, row);
      float product = 0.f;
      if (found) {
        const T* key = a.k_cache + page * a.k_strides.page + kv_head * a.k_strides.head + row * a.k_strides.row;
        for (int i = lane_index(); i < a.dim; i += WARP) product = fmaf(q[i], to_float(key[i]), product);
      }
      product = warp_reduce(product, Sum());
      if (lane_index()) continue;
      weights[p - begin] = found ? scorer(product) : NAN_F32;
      values[p - begin] = a.v_cache + (found ? page * a.v_strides.page + kv_head * a.v_strides.head + row * a.v_strides.row : 0);
    }
  }

  // Turns the scores into weights.
  __device__ __forceinline__ Softmax weigh(int count) const {
    float scores[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int key = lane_index() + i * WARP;
      scores[i] = key < count ? weights[key] : -INFINITY_F32;
    }
    Softmax chunk;
    chunk.largest = warp_reduce(fmaxf(scores[0], scores[1]), Max());
    const float low = exp2_fast(scores[0] - chunk.reference()), high = exp2_fast(scores[1] - chunk.reference());
    chunk.weight = warp_reduce(low + high, Sum());
    __syncthreads();
    if (warp_index() == 0) {
      weights[lane_index()] = low;
      weights[lane_index() + WARP] = high;
    }
    __syncthreads();
    return chunk;
  }

  __device__ __forceinline__ void run() const {
    Softmax total;
    const int end = position + 1;
    for (int begin = a.first_visible(position), next; begin < end; begin = next) {
      next = min((begin / CHUNK_KEYS + 1) * CHUNK_KEYS, end);
      score_keys(begin, next);
      __syncthreads();
      const Softmax chunk = weigh(next - begin);
      const Scales scales = total.merge(chunk);
      for (int i = threadIdx.x; i < a.dim; i += WARPS * WARP) {
        float sum = 0.f;
#pragma unroll 4
        for (int key = 0; key < next - begin; ++key) sum = fmaf(weights[key], to_float(values[key][i]), sum);
        sums[i] = scales(sums[i], sum);
      }
      __syncthreads();
    }
    const float weight = total.with_sink(a.sink(head));
    for (int i = threadIdx.x; i < a.dim; i += WARPS * WARP)
      a.out[blockIdx.x * a.out_stride + head * a.dim + i] = from_float<T>(sums[i] / weight);
  }
};

template <class T>
__device__ __forceinline__ void attention_plain(const SinkArgs<T>& a) {
  extern __shared__ float shared[];
  __shared__ float weights[CHUNK_KEYS];
  __shared__ const T* values[CHUNK_KEYS];
  start_dependents();
  wait_for_inputs();
  const int token = blockIdx.x, head = blockIdx.y;
  const int sequence = a.sequences[token];
  // A token that isn't in the cache sees nothing, and 0 / 0 gives NaN.
  const int position = a.pages.holds(sequence, a.positions[token]) ? a.positions[token] : -1;
  for (int i = threadIdx.x; i < a.dim; i += WARPS * WARP) {
    shared[i] = to_float(a.q[token * a.q_stride + head * a.q_head_stride + i]);
    shared[a.dim + i] = 0.f;
  }
  __syncthreads();
  Plain<T>{a, Scorer<T>(a), head, head / a.group(), sequence, position, shared, shared + a.dim, weights, values}.run();
}

#define ENTRY(T)                                                                                              \
  extern "C" __global__ void __launch_bounds__(WARPS* WARP)                                                   \
      attention_plain_##T(const __grid_constant__ SinkArgs<T> a) {                                       \
    attention_plain(a);                                                                                       \
  }
FOR_EACH_DTYPE(ENTRY)
